"""The frame loop: one step function for files, live streams, training, benchmarks.

    state = open_stream(params, model, stream, prompt, key)
    step = make_step(model, stream)
    state, styled = step(params, state, source)

`stream_step` is everything that a frame needs: bytes to floats, encode, the denoiser's
passes, the commit to the frame cache, decode, floats to bytes. `make_step` compiles it
for a frame at a time, `make_scan` for a clip. All shapes are fixed; streams of a batch
never see each other.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from mirage_jax import cache as frame_cache
from mirage_jax import codec, flow, monitor
from mirage_jax.cache import FrameCache
from mirage_jax.config import TEXT_WIDTH, ModelConfig
from mirage_jax.denoiser import Condition, condition, denoise_frame, prompt_slots
from mirage_jax.frame_compiler import (
    frame_options,
    frame_program,
    load_convolutions,
)
from mirage_jax.frame_step import FrameStep
from mirage_jax.monitor import Monitor, new_monitor
from mirage_jax.pixels import to_bytes, to_floats
from mirage_jax.stream_config import StreamConfig

Params = dict[str, Any]

NEXT_KEY = 2**32 - 1  # what a reset folds in: no number of a frame


@flax.struct.dataclass
class StreamState:
    """Everything that a batch of streams carries from frame to frame.

    Attributes:
      cache: the frame cache with prompt, anchor and ring slots.
      schedule: condition of every frame in every pass, in the order of `pass_times`.
      source: latent of the last source that arrived, or of what stands in for it,
        float32.
      styled: latent of the last styled frame, float32 (for the lagged commit).
      present: whether that frame was made with a source.
      frame: frames since the stream opened or was reset.
      missing: frames since the last source arrived.
      key: noise key of each stream; another one after a reset.
      monitor: habits of each stream; None where nobody watches.
    """

    cache: FrameCache
    schedule: Condition
    source: Float[Array, "B h w C"]
    styled: Float[Array, "B h w C"]
    present: Bool[Array, " B"]
    frame: Int[Array, " B"]
    missing: Int[Array, " B"]
    key: Array
    monitor: Monitor | None = None


def open_stream(
    params: Params,
    model: ModelConfig,
    stream: StreamConfig,
    prompt: Float[Array, "B 384"],
    key: Array,
) -> StreamState:
    """A fresh state with the prompt in its slots; stream b draws noise from key b."""
    batch, tokens = stream.batch, model.denoiser.frame_tokens(stream.grid)
    latents = (batch, *stream.grid, model.codec.channels)
    state = StreamState(
        cache=frame_cache.empty_cache(
            model.denoiser, batch, tokens, jnp.dtype(stream.dtype)
        ),
        schedule=schedule(params["denoiser"], model, stream),
        # Two buffers: the state is donated, and a buffer can be donated once.
        source=jnp.zeros(latents),
        styled=jnp.zeros(latents),
        present=jnp.zeros(batch, bool),
        frame=jnp.zeros(batch, jnp.int32),
        # No source has ever arrived: there is nothing to hold.
        missing=jnp.full(batch, stream.hold, jnp.int32),
        key=jax.random.split(key, batch),
        monitor=new_monitor(batch, latents[-1]) if stream.monitor else None,
    )
    return set_prompt(params, model, state, prompt)


def pass_times(stream: StreamConfig) -> list[tuple[float, ...]]:
    """Flow times of the frames in each pass of a frame; 1 is a finished one's."""
    times: list[tuple[float, ...]] = [(t,) for t in flow.times_of_steps(stream.steps)]
    if stream.commit == "lagged":
        times[0] = (1.0, *times[0])
    if stream.commit == "clean":
        times.append((1.0,))
    return times


def schedule(denoiser: Params, model: ModelConfig, stream: StreamConfig) -> Condition:
    """The condition of all frames in all passes, one after the other."""
    tau = jnp.asarray([t for times in pass_times(stream) for t in times])
    tau = jnp.tile(tau[None], (stream.batch, 1))
    step_size = jnp.full_like(tau, 1 / stream.steps)
    dtype = jnp.dtype(stream.dtype)
    return condition(denoiser, model.denoiser, tau, step_size, stream.grid, dtype)


def set_prompt(
    params: Params,
    model: ModelConfig,
    state: StreamState,
    prompt: Float[Array, "B 384"],
    streams: Bool[Array, " B"] | None = None,
) -> StreamState:
    """Rewrites the prompt slots (of the chosen streams) and touches no frame."""
    c, cache = model.denoiser, state.cache
    if prompt.shape != (cache.k.shape[1], TEXT_WIDTH):
        raise ValueError(f"{prompt.shape=} does not fit {cache.k.shape[1]} streams")
    k, v = prompt_slots(params["denoiser"], c, prompt, cache.k.dtype)
    if streams is not None:
        chosen = streams[None, :, None, None, None]
        k = jnp.where(chosen, k, cache.k[:, :, : c.prompt_tokens])
        v = jnp.where(chosen, v, cache.v[:, :, : c.prompt_tokens])
    origin = (0,) * cache.k.ndim
    return dataclasses.replace(
        state,
        cache=dataclasses.replace(
            cache,
            k=jax.lax.dynamic_update_slice(cache.k, k, origin),
            v=jax.lax.dynamic_update_slice(cache.v, v, origin),
        ),
        monitor=monitor.anew(state.monitor, streams),
    )


def reset(state: StreamState, streams: Bool[Array, " B"], hold: int) -> StreamState:
    """Makes the chosen streams forget all frames; their prompts stay.

    They draw their noise anew, and with it the look of a style that has several.
    """
    fresh = jax.vmap(jax.random.fold_in, (0, None))(state.key, NEXT_KEY)
    return dataclasses.replace(
        state,
        cache=frame_cache.forget(state.cache, streams),
        present=state.present & ~streams,
        frame=jnp.where(streams, 0, state.frame),
        missing=jnp.where(streams, hold, state.missing),
        key=jnp.where(streams, fresh, state.key),
        monitor=monitor.anew(state.monitor, streams),
    )


def frame_noise(
    state: StreamState, stream: StreamConfig, model: ModelConfig
) -> Float[Array, "B h w C"]:
    """What the next frame of every stream starts from."""
    shape = (*stream.grid, model.codec.channels)
    offset = model.denoiser.noise_offset
    moment = jnp.zeros_like(state.frame) if stream.fixed_noise else state.frame

    def one(key, moment):
        return flow.draw_noise(jax.random.fold_in(key, moment), shape, offset)

    return jax.vmap(one)(state.key, moment)


def _denoise(
    params: Params,
    model: ModelConfig,
    stream: StreamConfig,
    state: StreamState,
    cache: FrameCache,
    source: Float[Array, "B h w C"],
    present: Bool[Array, " B"],
) -> tuple[Float[Array, "B h w C"], FrameCache]:
    """All passes of one frame; returns its clean latent and the committed cache."""
    weights, bias = params["denoiser"], params["denoiser"]["slot_bias"]
    dtype = jnp.dtype(stream.dtype)
    run = partial(
        denoise_frame,
        weights,
        model,
        dtype=dtype,
        backend=stream.attention,
        kernels=stream.kernels,
        eight_bit=stream.eight_bit,
        linear=stream.linear,
        unroll=stream.unrolled,
    )
    bias = bias.astype(jnp.float32)
    prompt = cache.prompt(model.denoiser)
    now = frame_cache.age_bias(bias, cache.age)
    x = frame_noise(state, stream, model)[:, None]
    source, present = source[:, None], present[:, None]
    step_size, done = jnp.full((stream.batch, 1), 1 / stream.steps), 0
    for number, times in enumerate(pass_times(stream)):
        name = "pass_clean" if times == (1.0,) else f"pass_{number}"
        one_pass = jax.named_scope(name)(run)
        given = state.schedule.of_frames(done, done + len(times))
        done += len(times)
        if len(times) == 2:  # the frame before this one, and this one
            before = frame_cache.age_bias(bias, frame_cache.previous_age(cache.age))
            predicted, cache = one_pass(
                jnp.concatenate([state.styled[:, None], x], axis=1),
                jnp.concatenate([state.source[:, None], source], axis=1),
                jnp.concatenate([state.present[:, None], present], axis=1),
                given,
                cache,
                prompt,
                jnp.concatenate([before, now], axis=2),
            )
            predicted = predicted[:, 1:]
        else:
            predicted, cache = one_pass(x, source, present, given, cache, prompt, now)
        if times[-1] < 1:  # else the pass is there for its commit alone
            tau = jnp.full((stream.batch, 1), times[-1])
            x = flow.take_step(x, predicted, tau, step_size)
    return x[:, 0], cache


def encode_frame(
    params: Params,
    source: UInt8[Array, "B H W 3"],
    *,
    model: ModelConfig,
    stream: StreamConfig,
) -> Float[Array, "B h w C"]:
    """Source frames to float32 latents."""
    if source.shape != (stream.batch, stream.height, stream.width, 3):
        raise ValueError(f"{source.shape=} does not fit {stream=}")
    with jax.named_scope("encode"):
        dtype = jnp.dtype(stream.dtype)
        return codec.encode(params["codec"], to_floats(source), model.codec, dtype)


def decode_frame(
    params: Params,
    styled: Float[Array, "B h w C"],
    place: UInt8[Array, "B H W 3"] | None = None,
    *,
    model: ModelConfig,
    stream: StreamConfig,
) -> UInt8[Array, "B H W 3"]:
    """Clean latents to frames; `place` is not read, the result may take its memory."""
    del place
    with jax.named_scope("decode"):
        dtype = jnp.dtype(stream.dtype)
        return to_bytes(codec.decode(params["codec"], styled, model.codec, dtype))


def style_latent(
    params: Params,
    state: StreamState,
    latent: Float[Array, "B h w C"],
    arrived: Bool[Array, " B"] | None = None,
    *,
    model: ModelConfig,
    stream: StreamConfig,
) -> StreamState:
    """What lies between `encode_frame` and `decode_frame`: passes and commit.

    Arguments are those of `stream_step`, with the latent of the source in its place;
    the styled latent is that of the state returned.
    """
    if arrived is None:
        arrived = jnp.ones(stream.batch, bool)
    latent = jnp.where(arrived[:, None, None, None], latent, state.source)
    missing = jnp.where(arrived, 0, state.missing + 1)
    present = missing <= stream.hold
    if model.denoiser.stand_in:
        gone = state.present & ~present
        latent = jnp.where(gone[:, None, None, None], state.styled, latent)
    cache = state.cache
    if not stream.memory:
        cache = frame_cache.forget(cache, jnp.ones(stream.batch, bool))
    cache = frame_cache.advance(cache)
    with jax.named_scope("denoise"):
        styled, cache = _denoise(params, model, stream, state, cache, latent, present)
    frame, watched = state.frame + 1, state.monitor
    if watched is not None:
        styled = monitor.softened(watched, state.styled, styled)
        watched = monitor.judge(watched, latent, styled, present)
        cache = frame_cache.forget(cache, watched.astray)
        frame = jnp.where(watched.astray, 0, frame)
    if stream.anchor:
        # With the lagged commit a frame's own K and V are final one frame later.
        lag = 1 if stream.commit == "lagged" else 0
        slot = (cache.cursor - lag) % (model.denoiser.ring + 1)
        first = state.frame == lag
        cache = frame_cache.keep_anchor(cache, model.denoiser, first, slot)
    return StreamState(
        cache=cache,
        schedule=state.schedule,
        source=latent,
        styled=styled,
        present=present,
        frame=frame,
        missing=missing,
        key=state.key,
        monitor=watched,
    )


def stream_step(
    params: Params,
    state: StreamState,
    source: UInt8[Array, "B H W 3"],
    arrived: Bool[Array, " B"] | None = None,
    *,
    model: ModelConfig,
    stream: StreamConfig,
) -> tuple[StreamState, UInt8[Array, "B H W 3"]]:
    """Styles one frame of every stream.

    Args:
      params: {"codec": ..., "denoiser": ...}.
      state: donated by `make_step`.
      source: RGB frames.
      arrived: which streams really got a new source frame; None means all. Where it
        is False the last source is repeated for `hold` frames, then the stream goes
        on from its history alone.

    Returns:
      The next state and the styled frames.
    """
    latent = encode_frame(params, source, model=model, stream=stream)
    state = style_latent(params, state, latent, arrived, model=model, stream=stream)
    return state, decode_frame(params, state.styled, model=model, stream=stream)


def make_step(
    model: ModelConfig,
    stream: StreamConfig,
    show: Callable[..., Any] = decode_frame,
) -> FrameStep:
    """`stream_step` for fixed configurations, compiled; state and source are donated.

    The styled frame takes the source's place in the device's memory, and the state its
    own: all addresses of a stream stay as they are, and a CUDA graph of its frame need
    not be changed before it is started. A source from the host may be used again, one
    on the device is gone.

    Args:
      model: sizes.
      stream: how it runs.
      show: is called as `decode_frame`, and gives what the step returns beside the
        state, with a picture in it.
    """
    return FrameStep(
        encode=frame_program(encode_frame, model, stream, donate=()),
        style=frame_program(style_latent, model, stream, donate=1),
        decode=frame_program(show, model, stream, donate=2),
    )


def make_scan(
    model: ModelConfig, stream: StreamConfig
) -> Callable[..., tuple[StreamState, Array]]:
    """The same step scanned over a clip [T, B, H, W, 3]; the state is donated.

    A scan over frames is too long a loop for a graph, and its layers are none in it.
    """

    def scan(params, state, clip):
        step = partial(stream_step, params, model=model, stream=stream)
        return jax.lax.scan(step, state, clip)

    load_convolutions()
    return jax.jit(scan, donate_argnums=1, compiler_options=frame_options())
