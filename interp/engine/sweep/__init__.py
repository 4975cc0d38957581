"""A sweep: cells over prompts, batch by batch, into one table."""
