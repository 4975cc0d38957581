"""What is run: pairs of prompts aligned token by token, positions in them, rows of ids."""
