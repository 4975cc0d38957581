"""What a model says under interventions: prompts and sets of interventions decoded together."""
