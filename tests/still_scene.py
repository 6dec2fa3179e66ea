"""A picture for tests of styles, and the same at half the size."""

import numpy as np


def scene(height, width):
    """Soft shapes, hard edges, a texture and colour; the same at any size."""
    down, right = np.meshgrid(
        (np.arange(height) + 0.5) / height,
        (np.arange(width) + 0.5) / width,
        indexing="ij",
    )
    base = np.stack([right, 0.5 + 0.4 * np.sin(5 * down), 1 - down], axis=-1)
    disc = (down - 0.5) ** 2 + (right - 0.45) ** 2 < 0.06
    base = np.where(disc[..., None], np.array([0.9, 0.65, 0.5]), base)
    bar = (right > 0.7) & (right < 0.8)
    base = np.where(bar[..., None], np.array([0.05, 0.1, 0.15]), base)
    texture = 0.05 * np.sin(40 * right) * np.sin(30 * down)
    return np.clip(base + texture[..., None], 0.0, 1.0).astype(np.float32)


def halved(images):
    height, width, channels = images.shape
    blocks = images.reshape(height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(1, 3))
