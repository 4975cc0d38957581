"""What heads look for and write, from their weights."""
