"""Training tasks, one family a file."""
