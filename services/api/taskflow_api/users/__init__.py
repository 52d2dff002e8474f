"""Users: passwords, tokens of our own and of others, sessions."""
