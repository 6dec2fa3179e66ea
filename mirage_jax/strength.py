"""How much of the style a picture has."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "H W 3"]


def with_strength(source: Picture, styled: Picture, strength: float) -> Picture:
    """Between the source at 0 and the styled picture at 1, pixel by pixel.

    A mixture of the two pictures and nothing that the model is told: it works with any
    weights, is exact at both ends and leaves what the stream remembers as it is.

    Args:
      source, styled: the same moment, of one size.
      strength: 0 to 1.
    """
    if strength == 1:
        return styled
    none, full = (Image.fromarray(np.ascontiguousarray(x)) for x in (source, styled))
    return np.asarray(Image.blend(none, full, strength))
