"""What is asked, for which rows and positions, and what it will cost."""
