"""Activations that are averaged: what mean ablation sets."""
