"""How soon is a stream where it should be?"""

import numpy as np
from jaxtyping import Float, Int

WITHIN = 1.0  # dB


def frames_until(
    psnr: Float[np.ndarray, "n B"], settled: Float[np.ndarray, "n B"]
) -> Int[np.ndarray, " B"]:
    """Frames until PSNR stays less than 1 dB below that of a settled stream.

    Args:
      psnr: from the moment on that is asked about.
      settled: of the same source frames.

    Returns:
      Of each stream the number of the first frame that all is well from; n where it
      never is.
    """
    late = psnr < settled - WITHIN
    found: np.ndarray = np.where(late.any(0), len(psnr) - late[::-1].argmax(0), 0)
    return found
