"""Corpora by name or by path: where they come from and which reader they need."""
