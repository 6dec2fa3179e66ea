"""Per-frame codec: pictures to latents and back, 16x down, without memory.

Space to depth by 4, then residual convolution blocks without normalisation at
1/4, 1/8 and 1/16; the decoder mirrors it with depth to space. No normalisation
over the picture means that a patch decodes the same wherever it lies and whatever
surrounds it beyond the receptive field, so both 256x256 and 512x512 work.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.config import DOWNSAMPLE, CodecConfig
from mirage_jax.convolution import Conv

Params = dict[str, Any]

# Raw latents are squashed softly to +-4 so that no picture can produce an outlier
# that the denoiser has never seen.
LATENT_LIMIT = 4.0


def space_to_depth(x: Float[Array, "B H W C"], factor: int) -> Float[Array, "B h w c"]:
    """Moves factor x factor neighbours into channels."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // factor, factor, width // factor, factor, c)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, height // factor, width // factor, factor * factor * c)


def depth_to_space(x: Float[Array, "B h w c"], factor: int) -> Float[Array, "B H W C"]:
    """Inverse of `space_to_depth`."""
    b, height, width, c = x.shape
    c //= factor * factor
    x = x.reshape(b, height, width, factor, factor, c)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, height * factor, width * factor, c)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))); the second kernel starts at zero."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        y = Conv(self.width, (3, 3), dtype=self.dtype)(nn.silu(x))
        y = Conv(
            self.width, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros
        )(nn.silu(y))
        return x + y


class Encoder(nn.Module):
    """Pictures in [0, 1] to raw latents, float32."""

    config: CodecConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        c = self.config
        x = space_to_depth(images * 2 - 1, 4)
        for level, (width, blocks) in enumerate(
            zip(c.encoder_widths, c.encoder_blocks, strict=True)
        ):
            if level:
                x = space_to_depth(x, 2)
            kernel = (1, 1) if level else (3, 3)
            x = Conv(width, kernel, dtype=self.dtype)(x)
            for _ in range(blocks):
                x = ResidualBlock(width, self.dtype)(x)
        z = Conv(c.channels, (3, 3), dtype=self.dtype)(nn.silu(x))
        z = z.astype(jnp.float32)
        return LATENT_LIMIT * jnp.tanh(z / LATENT_LIMIT)


class Decoder(nn.Module):
    """Raw latents to pictures around [0, 1], float32."""

    config: CodecConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents):
        c = self.config
        x = Conv(c.decoder_widths[0], (3, 3), dtype=self.dtype)(latents)
        for level, (width, blocks) in enumerate(
            zip(c.decoder_widths, c.decoder_blocks, strict=True)
        ):
            if level:
                x = depth_to_space(Conv(4 * width, (1, 1), dtype=self.dtype)(x), 2)
            for _ in range(blocks):
                x = ResidualBlock(width, self.dtype)(x)
        x = Conv(12, (3, 3), dtype=self.dtype)(nn.silu(x))
        return (depth_to_space(x, 2).astype(jnp.float32) + 1) / 2


def init_codec(key: Array, config: CodecConfig) -> Params:
    """Fresh float32 parameters: encoder, decoder and latent statistics."""
    encoder_key, decoder_key = jax.random.split(key)
    side = DOWNSAMPLE
    images = jnp.zeros((1, side, side, 3))
    latents = jnp.zeros((1, 1, 1, config.channels))
    return {
        "encoder": Encoder(config).init(encoder_key, images)["params"],
        "decoder": Decoder(config).init(decoder_key, latents)["params"],
        "statistics": {
            "mean": jnp.zeros(config.channels),
            "spread": jnp.ones(config.channels),
        },
    }


def encode_raw(
    params: Params,
    images: Float[Array, "*lead H W 3"],
    config: CodecConfig,
    dtype: Any = jnp.float32,
) -> Float[Array, "*lead h w C"]:
    """Pictures in [0, 1] to raw latents (float32, within +-4)."""
    *lead, height, width, channels = images.shape
    if height % DOWNSAMPLE or width % DOWNSAMPLE:
        raise ValueError(f"{height=} and {width=} must be multiples of {DOWNSAMPLE}")
    flat = images.reshape(-1, height, width, channels).astype(dtype)
    z = Encoder(config, dtype).apply({"params": params["encoder"]}, flat)
    return z.reshape(*lead, *z.shape[1:])


def decode_raw(
    params: Params,
    latents: Float[Array, "*lead h w C"],
    config: CodecConfig,
    dtype: Any = jnp.float32,
) -> Float[Array, "*lead H W 3"]:
    """Raw latents to float32 pictures around [0, 1], not clipped."""
    lead = latents.shape[:-3]
    flat = latents.reshape(-1, *latents.shape[-3:]).astype(dtype)
    images = Decoder(config, dtype).apply({"params": params["decoder"]}, flat)
    return images.reshape(*lead, *images.shape[1:])


def _statistics(params: Params, ndim: int) -> tuple[Array, Array]:
    """Per-channel mean and spread, shaped to broadcast against `ndim` axes."""
    shape = (1,) * (ndim - 1) + (-1,)
    mean, spread = params["statistics"]["mean"], params["statistics"]["spread"]
    return (
        mean.astype(jnp.float32).reshape(shape),
        spread.astype(jnp.float32).reshape(shape),
    )


def encode(
    params: Params,
    images: Float[Array, "*lead H W 3"],
    config: CodecConfig,
    dtype: Any = jnp.float32,
) -> Float[Array, "*lead h w C"]:
    """Pictures in [0, 1] to latents of about zero mean and unit spread."""
    raw = encode_raw(params, images, config, dtype)
    mean, spread = _statistics(params, raw.ndim)
    return (raw - mean) / spread


def decode(
    params: Params,
    latents: Float[Array, "*lead h w C"],
    config: CodecConfig,
    dtype: Any = jnp.float32,
) -> Float[Array, "*lead H W 3"]:
    """Latents of `encode` to float32 pictures around [0, 1], not clipped."""
    mean, spread = _statistics(params, latents.ndim)
    return decode_raw(params, latents * spread + mean, config, dtype)
