"""Smooth camera paths over a photograph: pan, zoom, roll, perspective, exposure.

A path is a sum of two slow sinusoids a pose channel, one for the move and one for the
shake of a hand. It is bounded for all times, so a frame 200 steps back is still in the
picture, and over a few frames it looks like a steady move, from still to fast.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from mirage_jax.data.warp import half_extent

# Pose channels. Pans are fractions of the room that the view has inside of the
# picture, so a camera that zooms out cannot leave it.
PAN_X, PAN_Y, LOG_ZOOM, ROLL, TILT_X, TILT_Y, LOG_EXPOSURE = range(7)
CHANNELS = 7

_STILL = 0.12  # share of paths that do not move at all
_SHAKY = 0.5
_BREATHING = 0.5  # share of paths whose exposure changes
_PERIOD = (24.0, 600.0)  # frames; log-uniform
_SHAKE_PERIOD = (6.0, 24.0)
_VIEW = (0.55, 0.95)  # side of the view over the largest that fits
#                  pan x, pan y, zoom, roll, tilt x, tilt y, exposure
_BASE_RANGE = (0.8, 0.8, 0.0, 0.15, 0.06, 0.06, 0.0)
_SWING_RANGE = (0.9, 0.9, 0.22, 0.35, 0.12, 0.12, 0.35)
_SHAKE_RANGE = (0.04, 0.04, 0.006, 0.01, 0.004, 0.004, 0.0)


@struct.dataclass
class CameraPath:
    """pose(t) = base + sum over k of swing[k] * sin(rate[k] * t + phase[k])."""

    base: Float[Array, " 7"]
    swing: Float[Array, "2 7"]
    rate: Float[Array, "2 7"]  # radians a frame
    phase: Float[Array, "2 7"]


DRAWS = 7 * CHANNELS + 4  # random numbers a path


def draw_path(draws: Float[Array, " 53"]) -> CameraPath:
    """Make a path of DRAWS numbers that are uniform in [0, 1)."""
    table, coins = draws[:-4].reshape(7, CHANNELS), draws[-4:]
    base = (2.0 * table[0] - 1.0) * jnp.array(_BASE_RANGE)
    base = base.at[LOG_ZOOM].set(jnp.log(_log_uniform(coins[0], _VIEW)))
    moves = (coins[1] > _STILL).astype(jnp.float32)
    shakes = moves * (coins[2] < _SHAKY)
    # A still camera may see the light change: exposure has a coin of its own.
    breathes = (coins[3] < _BREATHING).astype(jnp.float32)
    swing = table[1:3] * jnp.array([_SWING_RANGE, _SHAKE_RANGE])
    chosen = jnp.stack([moves, shakes])[:, None] * jnp.ones((1, CHANNELS))
    chosen = chosen.at[0, LOG_EXPOSURE].set(breathes)
    period = [_log_uniform(table[3], _PERIOD), _log_uniform(table[4], _SHAKE_PERIOD)]
    return CameraPath(
        base=base,
        swing=swing * chosen,
        rate=2 * jnp.pi / jnp.stack(period),
        phase=2 * jnp.pi * table[5:7],
    )


def _log_uniform(draw: Array, ends: tuple[float, float]) -> Array:
    low, high = ends
    return low * (high / low) ** draw


def poses(path: CameraPath, times: Float[Array, " T"]) -> Float[Array, "T 7"]:
    """The pose at each time, in frames (any real number)."""
    angle = path.rate[None] * times[:, None, None] + path.phase[None]  # [T, 2, 7]
    return path.base[None] + jnp.sum(path.swing[None] * jnp.sin(angle), axis=1)


def homographies(
    pose: Float[Array, "T 7"], source: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "T 3 3"]:
    """Maps for `warp` from poses: output coordinates to coordinates of the picture.

    Args:
      pose: channels as named at the top of this module.
      source: (height, width) of the photograph.
      size: (height, width) of the view.
    """
    zoom = jnp.minimum(jnp.exp(pose[:, LOG_ZOOM]), 1.0)
    return view(
        pan=pose[:, [PAN_X, PAN_Y]],
        zoom=zoom,
        roll=pose[:, ROLL],
        tilt=pose[:, [TILT_X, TILT_Y]],
        source=source,
        size=size,
    )


def view(
    pan: Float[Array, "*n 2"],
    zoom: Float[Array, "*n"],
    roll: Float[Array, "*n"],
    tilt: Float[Array, "*n 2"],
    source: tuple[int, int],
    size: tuple[int, int],
) -> Float[Array, "*n 3 3"]:
    """One view of a picture as a homography.

    Args:
      pan: in [-1, 1]: where in the room that is left the view's centre sits.
      zoom: the view's side over the largest unrolled view that fits, in (0, 1].
      roll: radians; the view shrinks where a rolled one would not fit.
      tilt: perspective; 0 is none, 0.2 strong. May show a mirrored border.
      source: (height, width) of the picture.
      size: (height, width) of the view.
    """
    source_x, source_y = half_extent(source)
    size_x, size_y = half_extent(size)
    cos, sin = jnp.cos(roll), jnp.sin(roll)
    reach_x = size_x * jnp.abs(cos) + size_y * jnp.abs(sin)
    reach_y = size_x * jnp.abs(sin) + size_y * jnp.abs(cos)
    largest = min(source_x / size_x, source_y / size_y)
    scale = jnp.minimum(
        zoom * largest, jnp.minimum(source_x / reach_x, source_y / reach_y)
    )
    shift = jnp.clip(pan, -1.0, 1.0)
    x = shift[..., 0] * jnp.maximum(source_x - scale * reach_x, 0.0)
    y = shift[..., 1] * jnp.maximum(source_y - scale * reach_y, 0.0)
    # [rotate, scale, shift] times [[1, 0, 0], [0, 1, 0], [tilt, 1]], written out.
    a, b = scale * cos, scale * sin
    p, q = tilt[..., 0], tilt[..., 1]
    one = jnp.ones_like(a)
    rows = [[a + x * p, -b + x * q, x], [b + y * p, a + y * q, y], [p, q, one]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def flip(
    maps: Float[Array, "*n 3 3"], flipped: Bool[Array, ""]
) -> Float[Array, "*n 3 3"]:
    """Mirror the output left to right if `flipped`."""
    sign = jnp.where(flipped, -1.0, 1.0)
    return maps.at[..., :, 0].multiply(sign)
