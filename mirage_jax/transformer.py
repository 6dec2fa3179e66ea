"""The parts of the denoiser: positions, modulation, blocks, the first and last layers.

Flax modules and functions of single frames or clips, without memory: what attends to
what is decided by the caller (`denoiser`), which hands `Block` its attention.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.config import DenoiserConfig
from mirage_jax.convolution import Conv
from mirage_jax.dense import Dense
from pallas_kernels.modulated_norm import gated_residual_norm

DENSE = ("qkv", "out", "up", "down")  # layers of a block that all tokens go through
# Those that 8 bits make faster. What attention hands to `out` would have to be
# quantised by a kernel of its own, which takes longer than so small a product saves.
EIGHT_BIT = ("qkv", "up", "down")
MODULATIONS = 6  # shift, scale and gate of the attention and of the MLP branch
TIME_FEATURES = 64  # sines and cosines of flow time and of step size, each
ROPE_BASE = 100.0  # the longest wave spans a few hundred tokens: any sane frame


def rms_norm(x: Array, scale: Array | None = None) -> Array:
    """x / rms(x) in float32, times a learned scale (Zhang & Sennrich 2019)."""
    x32 = x.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + 1e-6)
    if scale is not None:
        y = y * scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    return y.astype(x.dtype)


def rope_angles(height: int, width: int, head_width: int) -> Float[Array, "N E/2"]:
    """Angles of 2-D RoPE: rows turn the first half of the pairs, columns the other."""
    pairs = head_width // 4
    waves = ROPE_BASE ** (-jnp.arange(pairs) / pairs)
    rows = jnp.repeat(jnp.arange(height), width)[:, None] * waves[None]
    columns = jnp.tile(jnp.arange(width), height)[:, None] * waves[None]
    return jnp.concatenate([rows, columns], axis=-1)


def rotate(x: Float[Array, "B Q K E"], angles: Float[Array, "Q E/2"]) -> Array:
    """Rotary position embedding (Su et al. 2021), computed in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    y = jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return y.astype(x.dtype)


def patchify(x: Float[Array, "B G h w C"], patch: int) -> Float[Array, "B G N c"]:
    """Latent cells to tokens, row by row."""
    b, g, h, w, c = x.shape
    x = x.reshape(b, g, h // patch, patch, w // patch, patch, c)
    x = x.transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(b, g, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(
    x: Float[Array, "B G N c"], height: int, width: int, patch: int
) -> Float[Array, "B G h w C"]:
    """Inverse of `patchify` for a latent grid of height x width."""
    b, g, _, c = x.shape
    c //= patch * patch
    x = x.reshape(b, g, height // patch, width // patch, patch, patch, c)
    x = x.transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(b, g, height, width, c)


def _fourier(x: Array) -> Array:
    """Sines and cosines of numbers in [0, 1]; float32, [..., TIME_FEATURES]."""
    waves = jnp.exp(jnp.linspace(0.0, jnp.log(200.0), TIME_FEATURES // 2))
    angles = x.astype(jnp.float32)[..., None] * waves.reshape((1,) * x.ndim + (-1,))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def place_features(height: int, width: int) -> Float[Array, "N F"]:
    """Where each token lies in the frame: smooth functions of its two coordinates.

    Coordinates run from -1 to 1 along each side, so that a vignette is the same
    function at every size and shape of frame.
    """
    down = (jnp.arange(height) + 0.5) / height * 2 - 1
    right = (jnp.arange(width) + 0.5) / width * 2 - 1
    place = jnp.stack([jnp.repeat(down, width), jnp.tile(right, height)], axis=-1)
    waves = [place * (jnp.pi / 2 * octave) for octave in (1, 2, 4)]
    squares = jnp.square(place).sum(-1, keepdims=True)
    parts = [place, squares, *map(jnp.sin, waves), *map(jnp.cos, waves)]
    return jnp.concatenate(parts, axis=-1)


class Conditioning(nn.Module):
    """Flow time, step size and size of each frame to modulation, for all layers.

    The frame's size counts in octaves below 512 pixels: a stroke is a fraction of the
    frame, while a token is always 32 pixels wide.
    """

    config: DenoiserConfig
    dtype: Any

    @nn.compact
    def __call__(self, tau, step_size, octave):
        size = jnp.full((*tau.shape, 1), octave, jnp.float32)
        features = jnp.concatenate([_fourier(tau), _fourier(step_size), size], axis=-1)
        x = nn.silu(nn.Dense(self.config.width, dtype=self.dtype)(features))
        x = nn.silu(nn.Dense(self.config.width, dtype=self.dtype)(x))
        zeros = nn.initializers.zeros
        width = self.config.width
        layers = nn.Dense(MODULATIONS * width, dtype=self.dtype, kernel_init=zeros)(x)
        last = nn.Dense(2 * width, dtype=self.dtype, kernel_init=zeros)(x)
        return (
            layers.reshape(*tau.shape, MODULATIONS, width),
            last.reshape(*tau.shape, 2, width),
        )


@flax.struct.dataclass
class Residual:
    """The residual stream between two layers, with its last addend still apart.

    Adding `gate * branch` and normalising the sum is one pass over memory, so the sum
    is left to whoever normalises it next, and who has the gate in its `Modulation`.

    Attributes:
      x: the stream without the addend.
      branch: what the last MLP made.
    """

    x: Float[Array, "B G N D"]
    branch: Float[Array, "B G N D"]


def open_residual(x: Float[Array, "B G N D"]) -> Residual:
    """A residual stream to which nothing has been added."""
    return Residual(x, jnp.zeros_like(x))


@flax.struct.dataclass
class Modulation:
    """What a norm of the residual stream is told, of each frame.

    Attributes:
      gate: on the branch that is added before the norm.
      scale, shift: of the norm.
    """

    gate: Float[Array, "*L B G D"]
    scale: Float[Array, "*L B G D"]
    shift: Float[Array, "*L B G D"]


def modulations(
    shared: Float[Array, "B G 6 D"], tables: Float[Array, "L 6 D"]
) -> tuple[Modulation, Modulation]:
    """Those of the norms before attention and before the MLP, in all layers: [L, ...].

    An MLP's branch is added by the next layer, so its gate stands there. That of the
    last layer is for the head; it stands in the first one, where nothing is added.

    Args:
      shared: modulation that all layers share.
      tables: what each layer adds to it.
    """
    rows = shared[None] + tables[:, None, None]
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.moveaxis(rows, 3, 0)
    before = jnp.roll(mlp_gate, 1, axis=0)
    return Modulation(before, scale, shift), Modulation(gate, mlp_scale, mlp_shift)


class Block(nn.Module):
    """Attention and MLP, each behind a modulated norm and a gate.

    `attend(qkv)` gets the projection of the tokens at hand, [B, G * N, 3, K, E]; it
    returns the output of attention [B, G * N, K, E] and whatever state it keeps. It is
    also who needs `q_scale`, of the norm of q, and with the prompt `k_scale`; `table`
    is for `modulations`. `modulation` is the layer's own or, where the `layer`'s index
    is given, that of all layers. `kernels` names the backend of the norms, `linear`
    that of the dense layers; `eight_bit` is the format of those that `EIGHT_BIT` names,
    None for `dtype`.
    """

    config: DenoiserConfig
    dtype: Any
    kernels: str | None = None
    eight_bit: str | None = None
    linear: str | None = None

    def setup(self) -> None:
        c = self.config
        dense = functools.partial(
            Dense, dtype=self.dtype, eight_bit=self.eight_bit, backend=self.linear
        )
        self.qkv = dense(3 * c.width, use_bias=False)
        # Triton's kernel is for 8 bits alone.
        backend = "xla" if self.linear == "triton" else self.linear
        self.out = Dense(c.width, self.dtype, backend=backend)
        self.up = dense(4 * c.width, activation="gelu")
        self.down = dense(c.width)
        self.prompt = nn.Dense(2 * c.width, use_bias=False, dtype=self.dtype)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        self.q_scale = self.param("q_scale", ones, (c.head_width,))
        self.k_scale = self.param("k_scale", ones, (c.head_width,))
        self.table = self.param("table", zeros, (MODULATIONS, c.width))

    def prompt_slot(self, tokens: Array) -> tuple[Array, Array]:
        """Prompt tokens [B, P, prompt_width] to k and v [B, P, K, E]."""
        c = self.config
        kv = self.prompt(tokens).reshape(*tokens.shape[:2], 2, c.heads, c.head_width)
        return rms_norm(kv[:, :, 0], self.k_scale), kv[:, :, 1]

    def __call__(
        self,
        residual: Residual,
        modulation: tuple[Modulation, Modulation],
        attend: Callable[..., tuple[Array, Any]],
        layer: Array | None = None,
    ) -> tuple[Residual, Any]:
        c = self.config
        b, g, n, _ = residual.x.shape

        def norm(x: Array, branch: Array, m: Modulation) -> tuple[Array, Any]:
            return gated_residual_norm(
                *(x, branch, m.gate, m.scale, m.shift),
                layer=layer,
                to=self.eight_bit,
                backend=self.kernels,
            )

        with jax.named_scope("attention"):
            x, y = norm(residual.x, residual.branch, modulation[0])
            qkv = self.qkv(y).reshape(b, g * n, 3, c.heads, c.head_width)
            y, state = attend(qkv)
            branch = self.out(y.reshape(b, g, n, c.width))
        with jax.named_scope("mlp"):
            x, y = norm(x, branch, modulation[1])
            branch = self.down(self.up(y))
        return Residual(x, branch), state


class Stem(nn.Module):
    """Noisy latent and source latent to tokens; a learned stand-in for no source."""

    config: DenoiserConfig
    dtype: Any

    @nn.compact
    def __call__(self, noisy, source, present):
        c = self.config
        missing = self.param("missing", nn.initializers.zeros, (c.width,))
        gate = present.astype(jnp.float32)[:, :, None, None]
        if not c.stand_in:
            source = source * gate[..., None]
        both = jnp.concatenate([noisy, source], axis=-1)
        tokens = patchify(both.astype(self.dtype), c.patch)
        x = nn.Dense(c.width, dtype=self.dtype)(tokens)
        height, width = (side // c.patch for side in noisy.shape[2:4])
        place = nn.Dense(
            c.width,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="place",
        )
        x = x + place(place_features(height, width))[None, None]
        missing = missing.astype(self.dtype)[None, None, None]
        return x + (1 - gate).astype(self.dtype) * missing


class Head(nn.Module):
    """Tokens to the predicted clean latent, float32.

    Tokens say what belongs where; a few convolutions on the latent grid, which see the
    source beside them, put it there: edges run across tokens.
    """

    config: DenoiserConfig
    channels: int
    dtype: Any
    kernels: str | None = None

    @nn.compact
    def __call__(self, residual, modulation, source, present):
        c = self.config
        height, width = source.shape[2:4]
        _, y = gated_residual_norm(
            residual.x,
            residual.branch,
            modulation.gate,
            modulation.scale,
            modulation.shift,
            backend=self.kernels,
        )
        zeros = nn.initializers.zeros

        def cells(channels, **kw):
            dense = nn.Dense(c.patch**2 * channels, dtype=self.dtype, **kw)
            return unpatchify(dense(y), height, width, c.patch)

        def convolve(width, **kw):
            return Conv(width, (3, 3), dtype=self.dtype, **kw)

        coarse = cells(self.channels, kernel_init=zeros)
        local = cells(c.refine_width // 4)
        if not c.stand_in:
            source = source * present.astype(jnp.float32)[:, :, None, None, None]
        beside = source.astype(self.dtype)
        z = jnp.concatenate([coarse, local, beside], axis=-1)
        z = z.reshape(-1, *z.shape[2:])  # [B G, h, w, c]
        z = convolve(c.refine_width)(z)
        z = z + convolve(c.refine_width)(nn.silu(z))
        z = convolve(self.channels, kernel_init=zeros)(nn.silu(z))
        return coarse.astype(jnp.float32) + z.reshape(coarse.shape).astype(jnp.float32)
