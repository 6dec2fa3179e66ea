"""Three effects that one frame cannot give: they need the frames before it.

Each follows the contract of a style (`mirage_jax.data.teachers.Style.apply`):
`(frames, index, key) -> (source, styled)` with consecutive float32 `[T, H, W, 3]`
frames in [0, 1] and their numbers `index` int32 `[T]`. What is random about frame t
depends on the key and `index[t]` alone, and no frame looks back further than the
effect's history, so a long clip can be computed in chunks. Frames before the given
ones do not exist: nothing is taken from them.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mirage_jax.data.filters import blur, colour, luma, ramp, saturate, screen

Frames = Float[Array, "T H W 3"]
Index = Int[Array, " T"]

LIGHT_TRAILS_HISTORY = 5
SIGNAL_LOSS_HISTORY = 4

_SIGNAL_PERIOD = 8
_LONGEST_LOSS = 4
# (cells along the short side, standard deviation) of the sensor noise: fine grain,
# and the blotches that a camera's own denoiser and codec leave of it. One frame alone
# cannot tell the blotches from the scene; eight frames can.
_NOISE_OCTAVES = ((256, 0.075), (64, 0.055), (16, 0.040))
_EXPOSURE = 0.25
_BLACK_LEVEL = 0.06
# Colour and strength of a trail, newest first.
_TRAIL_COLOURS = (
    (1.00, 0.92, 0.70),
    (1.00, 0.55, 0.15),
    (0.95, 0.16, 0.35),
    (0.55, 0.12, 0.80),
    (0.12, 0.22, 0.85),
)


def _sensor_noise(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "H W 3"]:
    """Noise of one frame, of the same look at every size."""
    height, width, channels = shape
    side = min(height, width)
    cell_sizes = [max(side // cells, 1) for cells, _ in _NOISE_OCTAVES]
    grids = [(-(-height // cell), -(-width // cell), channels) for cell in cell_sizes]
    counts = [math.prod(grid) for grid in grids]
    # One draw for all octaves: a generator compiles slowly.
    draws = jax.random.normal(key, (sum(counts),), jnp.float32)
    noise = jnp.zeros(shape, jnp.float32)
    first = 0
    for (_, deviation), cell, grid, count in zip(
        _NOISE_OCTAVES, cell_sizes, grids, counts, strict=True
    ):
        grain = draws[first : first + count].reshape(grid)
        first += count
        if cell > 1:
            grain = jnp.repeat(jnp.repeat(grain, cell, axis=0), cell, axis=1)
            # Rounds the cells off; the gain gives the lost spread back.
            grain = 1.3 * blur(grain[:height, :width], 0.35 * cell / side)
        noise = noise + deviation * grain
    return noise


def low_light(frames: Frames, index: Index, key: PRNGKeyArray) -> tuple[Frames, Frames]:
    """Source: dark and very noisy. Styled: the clean, bright picture, graded a little.

    The noise of frame t is drawn from `fold_in(key, index[t])`.
    """
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
    noise = jax.vmap(lambda one: _sensor_noise(one, frames.shape[1:]))(keys)
    source = jnp.clip(_BLACK_LEVEL + _EXPOSURE * frames + noise, 0.0, 1.0)
    graded = frames + 0.25 * (ramp(frames, 0.0, 1.0) - frames)
    warm = colour(frames, (1.03, 1.0, 0.95))
    return source, jnp.clip(saturate(graded, 1.12) * warm, 0.0, 1.0)


def light_trails(
    frames: Frames, index: Index, key: PRNGKeyArray
) -> tuple[Frames, Frames]:
    """Styled: a dim scene in which whatever moved leaves five frames of coloured light.

    A trail is the soft change of brightness between two consecutive frames; its colour
    runs from white gold to blue as it ages. The source is untouched.
    """
    del index, key
    grey = blur(luma(frames), 0.006)
    change = jnp.abs(grey[1:] - grey[:-1])
    change = jnp.concatenate([jnp.zeros_like(grey[:1]), change])
    # Camera noise, blurred, stays below the threshold; moving edges are far above it.
    trail = 1.0 - jnp.exp(-jnp.square(13.0 * jnp.maximum(change - 0.010, 0.0)))
    trail = blur(trail, 0.005)
    count = frames.shape[0]
    light = jnp.zeros_like(frames)
    # Oldest first, newer trails over older ones: colours stay pure, nothing burns out.
    for age, rgb in reversed(tuple(enumerate(_TRAIL_COLOURS))):
        older = jnp.pad(trail, ((age, 0), (0, 0), (0, 0), (0, 0)))[:count]
        light = light + older * (colour(frames, rgb) - light)
    night = colour(frames, (0.26, 0.29, 0.38))
    scene = saturate(frames, 0.35) * night
    glow = 0.5 * blur(light, 0.015)
    return frames, jnp.clip(screen(screen(scene, glow), light), 0.0, 1.0)


def _below(limit: int | jax.Array, draw: jax.Array) -> jax.Array:
    """An integer in [0, limit) from a uniform draw in [0, 1)."""
    return jnp.floor(limit * draw).astype(jnp.int32)


def _loses_signal(index: Index, key: PRNGKeyArray) -> jax.Array:
    """Whether the frames with these numbers are dropped, bool `[T]`.

    Time is cut into periods of eight frames with a phase drawn per clip. Each period
    drops one run of 1 to 4 frames and never its first frame, so two runs never touch
    and 31% of all frames are lost.
    """
    phase = _below(_SIGNAL_PERIOD, jax.random.uniform(jax.random.fold_in(key, 0)))
    place = (index + phase) % _SIGNAL_PERIOD
    period = (index + phase) // _SIGNAL_PERIOD

    def run(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        draws = jax.random.uniform(jax.random.fold_in(key, 1 + number), (2,))
        length = 1 + _below(_LONGEST_LOSS, draws[0])
        start = 1 + _below(_SIGNAL_PERIOD - length, draws[1])
        return start, length

    start, length = jax.vmap(run)(period)
    return (place >= start) & (place < start + length)


def signal_loss(
    frames: Frames, index: Index, key: PRNGKeyArray
) -> tuple[Frames, Frames]:
    """Source: black for runs of 1 to 4 frames. Styled: the last good picture, held.

    A frame is only lost where a good one comes before it in `frames`. The picture gets
    a mild broadcast grade (contrast and colour), lost or not.
    """
    lost = _loses_signal(index, key)
    place = jnp.arange(frames.shape[0])
    last_good = jax.lax.cummax(jnp.where(lost, -1, place))
    lost = lost & (last_good >= 0)
    held = jnp.take(frames, jnp.where(lost, last_good, place), axis=0)
    source = frames * ~lost[:, None, None, None]
    graded = held + 0.35 * (ramp(held, 0.0, 1.0) - held)
    return source, jnp.clip(saturate(graded, 1.2), 0.0, 1.0)
