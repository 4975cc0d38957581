"""The reference engine: a full forward of the bridge for each cell, with hooks."""
