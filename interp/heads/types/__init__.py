"""Which heads are of a known type, each detector beside its null."""
