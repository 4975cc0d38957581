"""Where heads look: patterns, words, and the relations between words."""
