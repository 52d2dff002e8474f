"""What can happen to jobs, as rules for Hypothesis: by clients, by workers and in time."""
