"""Does a stream look like what its prompt asks for?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

SWITCH = 8  # frames until a new prompt has taken effect
RIGHT = 0.9  # of the wordings lead to the style that they ask for
RESET = 1.0  # dB that a stream may have lost once it has got over a reset


def likeness(
    styled: UInt8[np.ndarray, "T H W 3"],
    targets: Sequence[UInt8[np.ndarray, "T H W 3"]],
) -> Float[np.ndarray, " styles"]:
    """PSNR in dB of frames against each style's teacher."""
    found = []
    for target in targets:
        error = np.mean(np.square(styled.astype(np.float32) - target))
        found.append(10 * np.log10(255**2 / max(float(error), 1e-6)))
    return np.asarray(found)
