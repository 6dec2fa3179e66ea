"""Which variant of a varied style a clip gets: the noise of its first frame says so.

A teacher that draws the variant at random would train the first frame of a stream to
be the mean of all variants, and a stream that starts with a mean has nothing to stay
with. So the variant is tied to what a stream does know and what is random: the signs of
two spatial means of the noise that its first frame is made of. They are independent,
so all variants are as likely, and the noise stays normal. Plain noise has next to no
mean: with `DenoiserConfig.noise_offset` every token can see it. Where each frame has a
noise of its own, that of later frames says nothing, and they must read the choice from
the past.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mirage_jax.data.varied_styles import VARIANTS

BITS = VARIANTS.bit_length() - 1  # channels of the noise that name a variant


def variant_of_noise(noise: Float[Array, "B h w C"]) -> Int[Array, " B"]:
    """The variant, in [0, `VARIANTS`), that the noise of a first frame names."""
    means = noise[..., :BITS].mean((1, 2))  # [B, bits]
    return jnp.sum((means > 0) * 2 ** jnp.arange(BITS)[None], axis=-1, dtype=jnp.int32)


def name_variant(
    noise: Float[Array, "B h w C"], variant: Int[Array, " B"]
) -> Float[Array, "B h w C"]:
    """Noise that names a variant: means of a wrong sign are mirrored.

    Of normal noise and a uniform variant the result is normal noise again.
    """
    means = noise[..., :BITS].mean((1, 2), keepdims=True)  # [B, 1, 1, bits]
    bits = (variant[:, None] >> jnp.arange(BITS)[None]) & 1
    wanted = (2.0 * bits - 1)[:, None, None] * jnp.abs(means)
    return noise.at[..., :BITS].add(wanted - means)
