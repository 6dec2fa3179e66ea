"""Training: the loop, checkpoints, and one module a model."""
