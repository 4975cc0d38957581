"""The nouns of the library. No model, no plotting, no I/O but parquet."""
