"""This project's own sentences, from templates: every label is exact."""
