"""The temporal diffusion transformer: predicts a frame's latent from noise.

A DiT (Peebles & Xie 2023) over the tokens of the frames in one pass. Each token is a
patch of the noisy latent joined on channels with the same patch of the source latent.
Inside a frame positions are 2-D RoPE and, for looks that depend on where in the picture
something is, the token's place in the frame; between frames the only position is the
slot bias by age (see `cache`). Flow time, step size and frame size enter by adaLN with
one projection shared by all layers plus a small table a layer. The network predicts the
clean latent.

The same blocks run in two ways: `denoise_clip` takes all frames of a training clip at
once, block-causal; `denoise_frame` takes the current frame (and, for the lagged commit,
the previous one) against the frame cache.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax.cache import FrameCache, slot_start
from mirage_jax.config import TEXT_WIDTH, DenoiserConfig, ModelConfig
from mirage_jax.prompt_encoder import PromptEncoder
from pallas_kernels.frame_attention import EMPTY_SLOT, frame_attention

Params = dict[str, Any]
MODULATIONS = 6  # shift, scale and gate of the attention and of the MLP branch
TIME_FEATURES = 64  # sines and cosines of flow time and of step size, each
ROPE_BASE = 100.0  # the longest wave spans a few hundred tokens: any sane frame
REFERENCE_CELLS = 32  # short side of the latent grid of a 512x512 frame


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


class Block(nn.Module):
    """Attention and MLP, each behind a modulated norm and a gate.

    `attend(q, k, v)` gets queries, keys and values of the tokens at hand, normalised
    but not rotated, and returns the attention output and whatever state it keeps.
    """

    config: DenoiserConfig
    dtype: Any

    def setup(self) -> None:
        c = self.config
        dense = lambda width, **kw: nn.Dense(width, dtype=self.dtype, **kw)  # noqa: E731
        self.qkv = dense(3 * c.width, use_bias=False)
        self.out = dense(c.width)
        self.up = dense(4 * c.width)
        self.down = dense(c.width)
        self.prompt = dense(2 * c.width, use_bias=False)
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
        self, x: Array, modulation: Array, attend: Callable[..., tuple[Array, Any]]
    ) -> tuple[Array, Any]:
        c = self.config
        b, g, n, _ = x.shape
        table = self.table.astype(self.dtype)[None, None]
        m = (modulation + table)[:, :, :, None]  # [B, G, 6, 1, D]
        y = rms_norm(x) * (1 + m[:, :, 1]) + m[:, :, 0]
        qkv = self.qkv(y).reshape(b, g * n, 3, c.heads, c.head_width)
        q = rms_norm(qkv[:, :, 0], self.q_scale)
        k = rms_norm(qkv[:, :, 1], self.k_scale)
        y, state = attend(q, k, qkv[:, :, 2])
        x = x + m[:, :, 2] * self.out(y.reshape(b, g, n, c.width))
        y = rms_norm(x) * (1 + m[:, :, 4]) + m[:, :, 3]
        x = x + m[:, :, 5] * self.down(nn.gelu(self.up(y)))
        return x, state


class Stem(nn.Module):
    """Noisy latent and source latent to tokens; a learned stand-in for no source."""

    config: DenoiserConfig
    dtype: Any

    @nn.compact
    def __call__(self, noisy, source, present):
        c = self.config
        missing = self.param("missing", nn.initializers.zeros, (c.width,))
        gate = present.astype(jnp.float32)[:, :, None, None]
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

    @nn.compact
    def __call__(self, x, modulation, source, present):
        c = self.config
        height, width = source.shape[2:4]
        m = modulation[:, :, :, None]
        y = rms_norm(x) * (1 + m[:, :, 1]) + m[:, :, 0]
        zeros = nn.initializers.zeros

        def cells(channels, **kw):
            dense = nn.Dense(c.patch**2 * channels, dtype=self.dtype, **kw)
            return unpatchify(dense(y), height, width, c.patch)

        def convolve(width, **kw):
            return nn.Conv(width, (3, 3), dtype=self.dtype, **kw)

        coarse = cells(self.channels, kernel_init=zeros)
        local = cells(c.refine_width // 4)
        gate = present.astype(jnp.float32)[:, :, None, None, None]
        beside = (source * gate).astype(self.dtype)
        z = jnp.concatenate([coarse, local, beside], axis=-1)
        z = z.reshape(-1, *z.shape[2:])  # [B G, h, w, c]
        z = convolve(c.refine_width)(z)
        z = z + convolve(c.refine_width)(nn.silu(z))
        z = convolve(self.channels, kernel_init=zeros)(nn.silu(z))
        return coarse.astype(jnp.float32) + z.reshape(coarse.shape).astype(jnp.float32)


def init_denoiser(key: Array, config: ModelConfig) -> Params:
    """Fresh float32 parameters; those of the blocks are stacked by layer."""
    c, channels = config.denoiser, config.codec.channels
    keys = jax.random.split(key, 5)
    f32 = jnp.float32
    latents = jnp.zeros((1, 1, c.patch, c.patch, channels))
    x = jnp.zeros((1, 1, 1, c.width))
    tau = jnp.zeros((1, 1))
    prompt = jnp.zeros((1, c.prompt_tokens, c.prompt_width))

    def everything(block, x, modulation, prompt):
        block.prompt_slot(prompt)
        return block(x, modulation, lambda q, k, v: (q, None))

    def init_block(key):
        modulation = jnp.zeros((1, 1, MODULATIONS, c.width))
        return Block(c, f32).init(key, x, modulation, prompt, method=everything)

    # The bias starts mildly in favour of the recent past; prompt and anchor at 0.
    ages = -0.2 * jnp.arange(c.ring + 1)
    bias = jnp.concatenate([jnp.zeros(2), ages])
    return {
        "stem": Stem(c, f32).init(keys[0], latents, latents, tau)["params"],
        "conditioning": Conditioning(c, f32).init(keys[1], tau, tau, 0.0)["params"],
        "prompt": PromptEncoder(c, f32).init(keys[2], jnp.zeros((1, TEXT_WIDTH)))[
            "params"
        ],
        "blocks": jax.vmap(init_block)(jax.random.split(keys[3], c.layers))["params"],
        "slot_bias": jnp.tile(bias, (c.layers, c.heads, 1)),
        "head": Head(c, channels, f32).init(
            keys[4], x, jnp.zeros((1, 1, 2, c.width)), latents, tau
        )["params"],
    }


def prompt_tokens(
    params: Params, config: DenoiserConfig, prompt: Float[Array, "B 384"], dtype: Any
) -> Float[Array, "B P prompt_width"]:
    """Sentence embeddings (unit length) to prompt tokens."""
    encoder = PromptEncoder(config, dtype)
    tokens: Array = encoder.apply({"params": params["prompt"]}, prompt)
    return tokens


def prompt_slots(
    params: Params, config: DenoiserConfig, prompt: Float[Array, "B 384"], dtype: Any
) -> tuple[Float[Array, "L B P K E"], Float[Array, "L B P K E"]]:
    """K and V of a prompt in every layer."""
    tokens = prompt_tokens(params, config, prompt, dtype)
    block = Block(config, dtype)

    def one_layer(layer):
        return block.apply({"params": layer}, tokens, method=Block.prompt_slot)

    k, v = jax.vmap(one_layer)(params["blocks"])
    return k.astype(dtype), v.astype(dtype)


def _conditioning(params, config, tau, step_size, grid, dtype):
    module = Conditioning(config, dtype)
    octave = math.log2(min(grid) / REFERENCE_CELLS)
    return module.apply({"params": params["conditioning"]}, tau, step_size, octave)


def clip_slot_bias(
    bias: Float[Array, "K R+3"], frames: int, anchored: Bool[Array, " B"]
) -> Float[Array, "B T K T+1"]:
    """Block-causal slot bias of a training clip; frame 0 may stand for the anchor."""
    ring = bias.shape[1] - 3
    age = jnp.arange(frames)[:, None] - jnp.arange(frames)[None]  # [query, key]
    by_age = bias[:, 2:][:, jnp.clip(age, 0, ring)]  # [K, T, T]
    is_anchor = (jnp.arange(frames)[None] == 0) & (age > 0)
    is_anchor = anchored[:, None, None] & is_anchor[None]  # [B, T, T]
    seen = ((age >= 0) & (age <= ring))[None] | is_anchor
    anchor = bias[:, 1].reshape(1, -1, 1, 1)
    slots = jnp.where(is_anchor[:, None], anchor, by_age[None])
    slots = jnp.where(seen[:, None], slots, EMPTY_SLOT)
    prompt = jnp.broadcast_to(bias[:, :1].reshape(1, -1, 1, 1), (*slots.shape[:3], 1))
    return jnp.concatenate([prompt, slots], axis=-1).transpose(0, 2, 1, 3)


def denoise_clip(
    params: Params,
    config: ModelConfig,
    noisy: Float[Array, "B T h w C"],
    source: Float[Array, "B T h w C"],
    present: Bool[Array, "B T"],
    tau: Float[Array, "B T"],
    step_size: Float[Array, "B T"],
    prompt: Float[Array, "B 384"],
    anchored: Bool[Array, " B"],
    *,
    dtype: Any = jnp.float32,
    backend: str | None = None,
) -> Float[Array, "B T h w C"]:
    """Predicts the clean latents of all frames of a clip, each from its own past.

    Frame t sees itself and the `ring` frames before it, each at its own noise level
    (diffusion forcing, Chen et al. 2024). With `anchored`, frame 0 is an old frame
    and is seen by all others through the anchor's bias.
    """
    c = config.denoiser
    b, frames, height, width, channels = noisy.shape
    x = Stem(c, dtype).apply({"params": params["stem"]}, noisy, source, present)
    modulation, last = _conditioning(params, c, tau, step_size, (height, width), dtype)
    tokens = prompt_tokens(params, c, prompt, dtype)
    angles = rope_angles(height // c.patch, width // c.patch, c.head_width)
    angles = jnp.tile(angles, (frames, 1))
    block = Block(c, dtype)

    def layer(x, weights_and_bias):
        weights, bias = weights_and_bias
        variables = {"params": weights}
        prompt_k, prompt_v = block.apply(variables, tokens, method=Block.prompt_slot)
        slot_bias = clip_slot_bias(bias, frames, anchored)

        def attend(q, k, v):
            k = jnp.concatenate([prompt_k, rotate(k, angles)], axis=1)
            v = jnp.concatenate([prompt_v, v], axis=1)
            out = frame_attention(
                rotate(q, angles),
                k,
                v,
                slot_bias,
                prompt_tokens=c.prompt_tokens,
                backend=backend,
            )
            return out, None

        return block.apply(variables, x, modulation, attend)

    x, _ = jax.lax.scan(layer, x, (params["blocks"], params["slot_bias"]))
    head = Head(c, channels, dtype)
    return head.apply({"params": params["head"]}, x, last, source, present)


def denoise_frame(
    params: Params,
    config: ModelConfig,
    noisy: Float[Array, "B G h w C"],
    source: Float[Array, "B G h w C"],
    present: Bool[Array, "B G"],
    tau: Float[Array, "B G"],
    step_size: Float[Array, "B G"],
    cache: FrameCache,
    slot_bias: Float[Array, "L B G K S"],
    *,
    dtype: Any = jnp.float32,
    backend: str | None = None,
    unroll: int | bool = True,
) -> tuple[Float[Array, "B G h w C"], FrameCache]:
    """One pass over the current frame, against the cache and into it.

    The last of the G frames is the current one; with G = 2 the first is the frame
    before it. Each frame's K and V go into its ring slot before attention reads all
    slots in place. Returns the predicted clean latents and the written cache.
    """
    c = config.denoiser
    b, groups, height, width, channels = noisy.shape
    n = (height // c.patch) * (width // c.patch)
    ring = c.ring + 1
    starts = [
        slot_start((cache.cursor - back) % ring, c, n)
        for back in range(groups - 1, -1, -1)
    ]
    x = Stem(c, dtype).apply({"params": params["stem"]}, noisy, source, present)
    modulation, last = _conditioning(params, c, tau, step_size, (height, width), dtype)
    angles = rope_angles(height // c.patch, width // c.patch, c.head_width)
    angles = jnp.tile(angles, (groups, 1))
    block = Block(c, dtype)

    def write(slots, layer, values):
        for group, start in enumerate(starts):
            frame = values[None, :, group * n : (group + 1) * n].astype(slots.dtype)
            slots = jax.lax.dynamic_update_slice(slots, frame, (layer, 0, start, 0, 0))
        return slots

    def layer(carry, per_layer):
        x, k_slots, v_slots = carry
        index, weights, bias = per_layer

        def attend(q, k, v):
            k_new = write(k_slots, index, rotate(k, angles))
            v_new = write(v_slots, index, v)
            out = frame_attention(
                rotate(q, angles),
                jax.lax.dynamic_index_in_dim(k_new, index, 0, keepdims=False),
                jax.lax.dynamic_index_in_dim(v_new, index, 0, keepdims=False),
                bias,
                prompt_tokens=c.prompt_tokens,
                backend=backend,
            )
            return out, (k_new, v_new)

        x, (k_new, v_new) = block.apply({"params": weights}, x, modulation, attend)
        return (x, k_new, v_new), None

    layers = (jnp.arange(c.layers), params["blocks"], slot_bias)
    (x, k, v), _ = jax.lax.scan(layer, (x, cache.k, cache.v), layers, unroll=unroll)
    head = Head(c, channels, dtype)
    latents = head.apply({"params": params["head"]}, x, last, source, present)
    return latents, dataclasses.replace(cache, k=k, v=v)
