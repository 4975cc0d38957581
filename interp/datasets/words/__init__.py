"""The words of a corpus as text, as tokens, and as what they are linked to."""
