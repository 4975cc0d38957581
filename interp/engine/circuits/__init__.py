"""Runs of circuits alone: many at once by masks, or by interventions on all that is outside."""
