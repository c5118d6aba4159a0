"""From a manifest to batches: decode, frame, store, augment, serve."""
