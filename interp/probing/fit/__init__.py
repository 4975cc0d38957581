"""Probes, fitted to all sites and problems at once."""
