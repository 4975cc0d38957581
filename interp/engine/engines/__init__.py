"""Three engines that answer the same questions, and which of them serves a model."""
