"""A tiny clip for tests: a soft blob that moves over a gradient."""

from pathlib import Path

import av
import numpy as np


def blob_clip(frames: int, side: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 [frames, side, side, 3]; a few pixels of motion a frame."""
    y, x = np.mgrid[:side, :side] / side
    pictures = []
    for t in range(frames):
        centre = 0.5 + 0.3 * np.sin(0.25 * t + seed)
        blob = np.exp(-((x - centre) ** 2 + (y - 0.5) ** 2) / 0.02)
        picture = np.stack([0.3 * x + 0.6 * blob, 0.5 * y, 0.2 + 0.4 * x * y], -1)
        pictures.append((picture * 255).astype(np.uint8))
    return np.stack(pictures)


def write_clip(path: Path, frames: np.ndarray) -> None:
    """Writes the frames as a video file."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
