"""Does the model use what can be read: erasing it, and moving along it."""
