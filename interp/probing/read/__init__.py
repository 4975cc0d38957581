"""The activations of words."""
