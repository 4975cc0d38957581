"""All parts at once: estimated, measured, held against each other and against a known circuit."""
