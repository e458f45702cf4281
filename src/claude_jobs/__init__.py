"""claude-jobs: run many Claude jobs durably. The version lives here and nowhere else."""

__version__ = "0.1.0"
