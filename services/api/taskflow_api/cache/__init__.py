"""What never changes, kept in Redis for all API processes."""
