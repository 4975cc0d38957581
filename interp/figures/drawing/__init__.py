"""What figures are drawn with: one style, and what they take from a table."""
