"""Probes that are networks, trained step by step."""
