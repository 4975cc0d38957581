"""The model as tensors and pure functions, and the activations of one plain run."""
