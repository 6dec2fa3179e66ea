"""Streams made of nothing but the teacher, and how each of them goes wrong in time."""

import jax
import jax.numpy as jnp

from mirage_jax.data.filters import blur
from mirage_jax.pixels import to_bytes, to_floats


def perfect(state, moment):
    return state, moment.target


def frozen(state, moment):
    """The first picture for ever."""
    count, picture = state
    picture = jnp.where(count == 0, moment.target, picture)
    return (count + 1, picture), picture


def noisy(state, moment):
    """Noise that grows."""
    count, picture = state
    key = jax.random.fold_in(jax.random.key(0), count)
    noise = jax.random.normal(key, moment.target.shape)
    styled = to_bytes(to_floats(moment.target) + 5e-4 * count * noise)
    return (count + 1, picture), styled


def blurred(state, moment):
    """Most of each picture is the one before it, blurred."""
    count, picture = state
    before = jnp.where(count == 0, moment.target, picture)
    styled = to_bytes(
        0.1 * to_floats(moment.target) + 0.9 * blur(to_floats(before), 0.02)
    )
    return (count + 1, styled), styled


def brighter(state, moment):
    """1 % more gain a frame."""
    count, picture = state
    return (count + 1, picture), to_bytes(to_floats(moment.target) * 1.01**count)


def turned(state, moment):
    """Hues that rotate about the grey axis."""
    count, picture = state
    angle = 0.002 * count
    grey = jnp.full((3, 3), 1 / 3)
    aside = jnp.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    turn = grey + jnp.cos(angle) * (jnp.eye(3) - grey) + jnp.sin(angle) * aside
    styled = to_bytes(jnp.einsum("...c,dc->...d", to_floats(moment.target), turn))
    return (count + 1, picture), styled


# The bars that each of them misses at least, and must.
CONTROLS = {
    frozen: {"motion"},
    noisy: {"psnr_slope_low", "drift_last_minus_first", "sharpness_change", "flicker"},
    blurred: {"drift_last_minus_first", "sharpness_change"},
    brighter: {"psnr_slope_low", "drift_last_minus_first", "colour_change"},
    turned: {"psnr_slope_low", "drift_last_minus_first", "colour_change"},
}
