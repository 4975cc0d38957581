"""Activations that are kept, in memory or in a folder."""
