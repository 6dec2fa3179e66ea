"""A moving picture that needs nothing: to try a stream without a camera."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from mirage_jax.closing import Closing
from mirage_jax.video.reader import Frame

_HEIGHT, _WIDTH, _RATE = 480, 640, 30
_TURN = 4.0  # seconds for the disc to come round


class TestPattern(Closing):
    """Colours that slide and a white disc that circles, 640x480, 30 frames a second.

    A live source, see `mirage_jax.video.sources`.
    """

    __test__ = False  # pytest: this is none

    def __iter__(self) -> Iterator[Frame]:
        rows, columns = np.mgrid[:_HEIGHT, :_WIDTH].astype(np.float32)
        across, down = columns / _WIDTH, rows / _HEIGHT
        for number in itertools.count():
            time = number / _RATE
            turn = 2 * np.pi * time / _TURN
            waves = [
                np.sin(2 * np.pi * (2 * across + down * k) + turn * k)
                for k in (1, 2, 3)
            ]
            image = (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
            x = _WIDTH * (0.5 + 0.3 * np.cos(turn))
            y = _HEIGHT * (0.5 + 0.3 * np.sin(turn))
            image[(columns - x) ** 2 + (rows - y) ** 2 < 50**2] = 255
            yield Frame(image, time)
