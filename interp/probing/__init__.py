"""Probing: what can be read off the activations of words, with the controls that it needs."""
