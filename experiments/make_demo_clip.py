"""Cuts the clip that the demo runs on from the Big Buck Bunny trailer.

    python -m experiments.make_demo_clip --source=big_buck_bunny_trailer.mp4

The bunny leaves its burrow and stretches: 5 seconds without text or a cut, framed as
a square of 512 around it. The source has to be 512 pixels high, 24 frames a second
(the trailer that ships in moviepy 2.2.1, scaled to height 512).
"""

import itertools
import pathlib
import sys

import numpy as np
from absl import app, flags

from mirage_jax.errors import MirageError
from mirage_jax.video.reader import VideoReader
from mirage_jax.video.writer import VideoWriter

_SOURCE = flags.DEFINE_string("source", None, "The trailer.", required=True)
_OUT = flags.DEFINE_string(
    "out", "mirage_jax/assets/big_buck_bunny.mp4", "The clip to write."
)

FIRST, FRAMES = 604, 120
LEFT, SIZE = 60, 512
QUALITY = 21
LARGEST = 700_000  # bytes


def main(_: list[str]) -> None:
    """Writes the clip and checks its length and size."""
    path = pathlib.Path(_OUT.value)
    with VideoReader(_SOURCE.value) as reader:
        frames = itertools.islice(reader, FIRST, FIRST + FRAMES)
        with VideoWriter(path, SIZE, SIZE, reader.info.rate, quality=QUALITY) as clip:
            for frame in frames:
                if frame.image.shape[0] != SIZE or frame.image.shape[1] < LEFT + SIZE:
                    raise MirageError(
                        f"{_SOURCE.value} has frames of {frame.image.shape[:2]}: the "
                        f"cut is made for height {SIZE}"
                    )
                clip.write(np.ascontiguousarray(frame.image[:, LEFT : LEFT + SIZE]))
            clip.finish()
            if clip.frames < FRAMES:
                raise MirageError(f"{_SOURCE.value} ends after {clip.frames} frames")
    size = path.stat().st_size
    print(f"{path}: {FRAMES} frames, {size / 1000:.0f} kB")
    if size > LARGEST:
        raise MirageError(f"{path} has {size} bytes, more than {LARGEST}")


if __name__ == "__main__":
    try:
        app.run(main)
    except MirageError as error:
        sys.exit(f"make_demo_clip: {error}")
