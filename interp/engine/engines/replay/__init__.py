"""The fast engine: only what an intervention can change is computed again."""
