"""The job types that every consumer can run."""
