"""Pictures on the wire: JPEG and WebP in, JPEG out."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mirage_jax.live.protocol import ProtocolError


def decode_picture(data: bytes, pixels: int) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a JPEG or WebP file; of an animation the first frame.

    Args:
      data: the file, from anybody.
      pixels: the most that a picture may have.

    Raises:
      ProtocolError: it is none of the two, too large or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as picture:
            width, height = picture.size
            if width * height > pixels:
                raise ProtocolError(
                    f"a picture of {width}x{height} has more than {pixels} pixels"
                )
            return np.asarray(picture.convert("RGB"))
    except ProtocolError:
        raise
    except Exception:  # decoders raise what they like on hostile bytes
        raise ProtocolError("the picture is no JPEG or WebP, or damaged") from None


def encode_picture(image: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    """A JPEG file of that quality, 1 to 95."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()
