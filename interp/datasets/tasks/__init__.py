"""Tasks that make prompts for a model, each with known answers."""
