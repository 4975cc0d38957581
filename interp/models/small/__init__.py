"""Models that are made here: of any shape, trained, or recurrent."""
