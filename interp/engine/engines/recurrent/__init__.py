"""The engine of LSTMs: interventions inside the recurrence."""
