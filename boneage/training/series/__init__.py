"""Several trainings that belong together: each an ordinary run folder."""
