"""Several trainings that belong together: sweeps, cross-validation, reproductions."""
