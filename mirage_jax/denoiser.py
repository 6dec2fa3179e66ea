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
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mirage_jax.cache import FrameCache, slot_start
from mirage_jax.clip_attention import attend_clip, clip_slot_bias
from mirage_jax.config import TEXT_WIDTH, DenoiserConfig, ModelConfig
from mirage_jax.prompt_encoder import PromptEncoder
from mirage_jax.transformer import (
    DENSE,
    Block,
    Conditioning,
    Head,
    Modulation,
    Stem,
    modulations,
    open_residual,
    rms_norm,
    rope_angles,
    rotate,
)
from mirage_jax.written_slots import Written, attend_written
from pallas_kernels.frame_attention import ATTENDED, frame_attention
from pallas_kernels.qk_norm_rope_commit import qk_norm_rope_commit

Params = dict[str, Any]
REFERENCE_CELLS = 32  # short side of the latent grid of a 512x512 frame
REMAT: dict[str, Any] = {
    "none": None,  # keeps everything
    # Keeps the products with weights, and what attention gave where our kernel ran:
    # norms and activations run again, and another's attention.
    "light": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
    # Keeps what enters a layer: the whole layer runs again.
    "full": jax.checkpoint_policies.nothing_saveable,
}


def init_denoiser(key: Array, config: ModelConfig) -> Params:
    """Fresh float32 parameters; those of the blocks are stacked by layer."""
    c, channels = config.denoiser, config.codec.channels
    keys = jax.random.split(key, 5)
    f32 = jnp.float32
    latents = jnp.zeros((1, 1, c.patch, c.patch, channels))
    x = jnp.zeros((1, 1, 1, c.width))
    tau = jnp.zeros((1, 1))
    prompt = jnp.zeros((1, c.prompt_tokens, c.prompt_width))
    modulation = Modulation(*jnp.zeros((3, 1, 1, c.width)))

    def everything(block, x, prompt):
        block.prompt_slot(prompt)
        attend = lambda qkv: (qkv[:, :, 0], None)  # noqa: E731
        return block(open_residual(x), (modulation, modulation), attend)

    def init_block(key):
        return Block(c, f32).init(key, x, prompt, method=everything)

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
            keys[4], open_residual(x), modulation, latents, tau
        )["params"],
    }


def _outside_dense(blocks: Params) -> Params:
    """The blocks without their dense layers, which 8 bits change the form of."""
    return {name: leaf for name, leaf in blocks.items() if name not in DENSE}


def _layer(blocks: Params, index: int) -> Params:
    """One layer's weights, out of stacks or of tuples (see `layers_apart`)."""
    return jax.tree.map(lambda x: x[index], blocks, is_leaf=_is_tuple)


def _is_tuple(x: Any) -> bool:
    return isinstance(x, tuple)


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

    k, v = jax.vmap(one_layer)(_outside_dense(params["blocks"]))
    return k.astype(dtype), v.astype(dtype)


@flax.struct.dataclass
class Condition:
    """What flow time, step size and frame size tell the blocks and the head.

    Attributes:
      blocks: modulation that all blocks share, of each frame.
      head: shift and scale of the last norm.
    """

    blocks: Float[Array, "B G 6 D"]
    head: Float[Array, "B G 2 D"]

    def of_frames(self, start: int, end: int) -> "Condition":
        """That of some of the frames."""
        return Condition(self.blocks[:, start:end], self.head[:, start:end])

    def of_head(self, layers: tuple[Modulation, Modulation]) -> Modulation:
        """What the head's norm is told, behind layers with these `modulations`."""
        gate = layers[0].gate[0]  # the last layer's: see there
        return Modulation(gate, scale=self.head[:, :, 1], shift=self.head[:, :, 0])


def condition(
    params: Params,
    config: DenoiserConfig,
    tau: Float[Array, "B G"],
    step_size: Float[Array, "B G"],
    grid: tuple[int, int],
    dtype: Any,
) -> Condition:
    """The condition of frames with a latent grid (h, w).

    It depends on nothing that a stream sees, so a stream computes it once.
    """
    module = Conditioning(config, dtype)
    octave = math.log2(min(grid) / REFERENCE_CELLS)
    variables = {"params": params["conditioning"]}
    return Condition(*module.apply(variables, tau, step_size, octave))


def _rematerialised(layer: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """A layer for a scan that keeps only what `remat` says."""
    if remat == "none":
        return layer
    # In a scan nothing can be merged with the first computation anyway.
    policy = REMAT[remat]
    return jax.checkpoint(layer, prevent_cse=False, policy=policy)


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
    remat: str = "none",
) -> Float[Array, "B T h w C"]:
    """Predicts the clean latents of all frames of a clip, each from its own past.

    Frame t sees itself and the `ring` frames before it, each at its own noise level
    (diffusion forcing, Chen et al. 2024). With `anchored`, frame 0 is an old frame
    and is seen by all others through the anchor's bias. `remat`, one of `REMAT`, is
    what of a layer is computed again for its gradient and not kept (Chen et al. 2016).
    """
    c = config.denoiser
    b, frames, height, width, channels = noisy.shape
    x = Stem(c, dtype).apply({"params": params["stem"]}, noisy, source, present)
    given = condition(params, c, tau, step_size, (height, width), dtype)
    tokens = prompt_tokens(params, c, prompt, dtype)
    angles = rope_angles(height // c.patch, width // c.patch, c.head_width)
    angles = jnp.tile(angles, (frames, 1))
    block = Block(c, dtype)

    @jax.checkpoint  # of the way in float32 nothing is kept for the gradient
    def placed(x, scale):
        return rotate(rms_norm(x, scale), angles)

    def layer(residual, per_layer):
        weights, bias, own = per_layer
        variables = {"params": weights}
        prompt_k, prompt_v = block.apply(variables, tokens, method=Block.prompt_slot)
        slot_bias = clip_slot_bias(bias, frames, anchored)

        def attend(qkv):
            q = placed(qkv[:, :, 0], weights["q_scale"])
            k = placed(qkv[:, :, 1], weights["k_scale"])
            out = attend_clip(
                *(q, k, qkv[:, :, 2]),
                (prompt_k, prompt_v),
                slot_bias,
                c.ring,
                backend=backend,
            )
            return out, None

        return block.apply(variables, residual, own, attend)

    told = modulations(given.blocks, params["blocks"]["table"].astype(dtype))
    layers = (params["blocks"], params["slot_bias"], told)
    residual, _ = jax.lax.scan(_rematerialised(layer, remat), open_residual(x), layers)
    head = Head(c, channels, dtype)
    variables = {"params": params["head"]}
    return head.apply(variables, residual, given.of_head(told), source, present)


def denoise_frame(
    params: Params,
    config: ModelConfig,
    noisy: Float[Array, "B G h w C"],
    source: Float[Array, "B G h w C"],
    present: Bool[Array, "B G"],
    given: Condition,
    cache: FrameCache,
    prompt: tuple[Float[Array, "L B P K E"], Float[Array, "L B P K E"]],
    slot_bias: Float[Array, "L B G K S"],
    *,
    dtype: Any = jnp.float32,
    backend: str | None = None,
    kernels: str | None = None,
    eight_bit: str | None = None,
    linear: str | None = None,
    unroll: bool = True,
) -> tuple[Float[Array, "B G h w C"], FrameCache]:
    """One pass over the current frame, against the cache and into it.

    The last of the G frames is the current one; with G = 2 the first is the frame
    before it. Each frame's K and V go into its ring slot before attention reads all
    slots in place. The cache is data: gradients flow into what this pass writes, and
    through `prompt`, which is `FrameCache.prompt`, but into nothing else of it. `given`
    is the `condition` of the G frames. `backend` is that of attention, `kernels` that
    of norms and commit, `linear` that of dense layers; in 8 bits, named by `eight_bit`,
    their parameters are those of `device_weights`. Returns the predicted clean latents
    and the written cache.
    """
    c = config.denoiser
    b, groups, height, width, channels = noisy.shape
    n = c.frame_tokens((height, width))
    ring = c.ring + 1
    age = jnp.arange(groups - 1, -1, -1)
    starts = slot_start((cache.cursor - age) % ring, c, n)  # [G]
    x = Stem(c, dtype).apply({"params": params["stem"]}, noisy, source, present)
    angles = rope_angles(height // c.patch, width // c.patch, c.head_width)
    angles = jnp.tile(angles, (groups, 1))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    block = Block(c, dtype, kernels, eight_bit, linear)
    blocks = params["blocks"]
    # Of all layers at once: kernels of their own would take longer than the additions.
    told = modulations(given.blocks, blocks["table"].astype(dtype))
    attention = partial(frame_attention, prompt_tokens=c.prompt_tokens, backend=backend)

    def layer(carry, index, weights, own, among=None):
        """One layer; `own` is its modulation, or that of all layers `among` which."""
        residual, k_slots, v_slots = carry

        def attend(qkv):
            with jax.named_scope("commit"):
                q, k_new, v_new = qk_norm_rope_commit(
                    qkv,
                    blocks["q_scale"],
                    blocks["k_scale"],
                    cos,
                    sin,
                    k_slots,
                    v_slots,
                    index,
                    starts,
                    backend=kernels,
                )
            slots = jax.lax.stop_gradient((k_new, v_new))
            # For the gradient alone, else nobody reads it.
            k = rotate(rms_norm(qkv[:, :, 1], blocks["k_scale"][index]), angles)
            written = Written(k, qkv[:, :, 2], starts, *(x[index] for x in prompt))
            return attend_written(
                attention, q, *slots, slot_bias, index, written
            ), slots

        variables = {"params": weights}
        residual, slots = block.apply(variables, residual, own, attend, among)
        return residual, *slots

    carry = (open_residual(x), *jax.lax.stop_gradient((cache.k, cache.v)))
    if unroll:
        # Traced and lowered once, then called with each layer's index as a constant:
        # that of a scan, even an unrolled one, is a slice which takes a kernel to make.
        one_layer = jax.jit(layer)
        for index in range(c.layers):
            own = jax.tree.map(lambda x, index=index: x[index], told)
            with jax.named_scope(f"layer_{index}"):
                carry = one_layer(carry, np.int32(index), _layer(blocks, index), own)
    else:

        def next_layer(counted, weights):
            index, carry = counted
            return (index + 1, layer(carry, index, weights, told, index)), None

        # The index is counted: as one of the scan's inputs it would be such a slice.
        counted = jnp.int32(0), carry
        (_, carry), _ = jax.lax.scan(next_layer, counted, blocks)
    residual, k, v = carry
    head = Head(c, channels, dtype, kernels)
    variables = {"params": params["head"]}
    latents = head.apply(variables, residual, given.of_head(told), source, present)
    return latents, dataclasses.replace(cache, k=k, v=v)
