"""TaskFlow's servers and services on one machine without Docker."""
