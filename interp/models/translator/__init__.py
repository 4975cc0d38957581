"""A translator to be understood: its two languages, its tokens, and how it is trained."""
