"""Mirage JAX: live-stream diffusion, one frame in and one restyled frame out."""
