"""Gradients of a metric at every writer and reader, and what they say of each edge."""
