"""Runs without interventions: prompts as rows, and the slices that are read off them."""
