"""Self-roll-outs: training on the stream itself, whose history is the model's own.

A batch of streams is opened and `style_latent`, the step that every stream runs, is
scanned over a clip; what each frame became is compared with the teacher's picture of
the same frame. So the loss is the error of the stream, in any commit and number of
steps, and there is no second implementation that could differ from it.

Gradients stay within a frame (truncated backpropagation): K and V in the cache are
data, but those that a pass writes, with the lagged commit the clean ones of the frame
before it among them, are learnt by that pass (see `mirage_jax.written_slots`). So the
streams run first, without gradients, and errors build up; then the opening and the
closing frames are learnt from side by side, each from the state that its stream had
come to, as if they were frames of streams of one batch.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax import cache as frame_cache
from mirage_jax import codec
from mirage_jax.cache import EMPTY, FrameCache
from mirage_jax.config import ModelConfig
from mirage_jax.errors import MirageError
from mirage_jax.stream import (
    StreamState,
    frame_noise,
    open_stream,
    schedule,
    set_prompt,
    style_latent,
)
from mirage_jax.stream_config import StreamConfig
from mirage_jax.training.clips import (
    ClipBatch,
    DenoiserData,
    presence,
    sample_pairs_of_styles,
)
from mirage_jax.training.denoiser import (
    DenoiserLoss,
    change_of_error,
    pixel_terms,
)
from mirage_jax.training.history import HistoryAugmentation, corrupt_history
from mirage_jax.training.prompts import sample_prompts
from mirage_jax.training.variants import variant_of_noise


@dataclasses.dataclass(frozen=True)
class RollOut:
    """How streams are unrolled in training; static.

    Attributes:
      commit, steps: of the streams, see `StreamConfig`.
      opening, closing: frames at the clip's start and end that are learnt from.
      anchored: share of the streams that keep their first frame as the anchor.
      together: most frames of a stream that are learnt from at once; fewer take less
        memory, but each group is computed again for its gradient. 0: all.
    """

    commit: str = "lagged"
    steps: int = 1
    opening: int = 4
    closing: int = 8
    anchored: float = 0.5
    together: int = 0

    def __post_init__(self):
        if self.opening < 0 or self.closing < 1:
            raise MirageError(
                f"opening={self.opening} closing={self.closing}: a roll-out learns "
                "from 0 or more opening frames and from 1 or more closing ones"
            )
        if self.together < 0:
            raise MirageError(
                f"together={self.together}: learn from 1 or more frames at once, or "
                "from all with 0"
            )

    @property
    def learnt(self) -> int:
        return self.opening + self.closing

    @property
    def group(self) -> int:
        """Frames that are learnt from at once: groups are of one size."""
        most = min(self.together or self.learnt, self.learnt)
        return max(n for n in range(1, most + 1) if self.learnt % n == 0)

    @property
    def name(self) -> str:
        return f"{self.commit}_{self.steps}"


def training_stream(
    rollout: RollOut, size: int, batch: int, dtype: Any
) -> StreamConfig:
    """The configuration of the streams that a training step unrolls."""
    return StreamConfig(
        size,
        size,
        steps=rollout.steps,
        commit=rollout.commit,
        batch=batch,
        anchor=rollout.anchored > 0,
        hold=0,  # a lost source is a free run at once
        dtype=jnp.dtype(dtype).name,
        kernels="xla",  # the others have no gradient, or none of their own
        linear="xla",
        unroll=False,
    )


def _advance(
    state: StreamState,
    frame: tuple[Float[Array, "B h w C"], Bool[Array, " B"], Array],
    *,
    params: Any,
    model: ModelConfig,
    stream: StreamConfig,
    anchored: Bool[Array, " B"],
    history: HistoryAugmentation,
) -> tuple[StreamState, StreamState]:
    """One frame of every stream: the state after it, and the one that it starts from.

    The latter has the history that the frame sees, corrupted if it is, and its ring
    turned as in `mirage_jax.cache.turned`.
    """
    latent, arrived, key = frame
    styled = corrupt_history(key, state.styled[:, None], history)[:, 0]
    begun = dataclasses.replace(state, styled=styled)
    weights = {"denoiser": params}
    state = style_latent(weights, begun, latent, arrived, model=model, stream=stream)
    age = state.cache.age.at[:, 0].set(
        jnp.where(anchored, state.cache.age[:, 0], EMPTY)
    )
    state = dataclasses.replace(state, cache=dataclasses.replace(state.cache, age=age))
    cache = frame_cache.turned(begun.cache, model.denoiser)
    return state, dataclasses.replace(begun, cache=cache)


def _learn(
    params: Any,
    begun: StreamState,
    latent: Float[Array, "t B h w C"],
    arrived: Bool[Array, "t B"],
    *,
    prompt: Float[Array, "B 384"],
    model: ModelConfig,
    stream: StreamConfig,
) -> Float[Array, "t B h w C"]:
    """Styled latents of frames of several moments, differentiable in `params` alone.

    Args:
      params: of the denoiser.
      begun: of `_advance`, stacked by moment.
      latent: of the sources.
      arrived: which of them there are.
      prompt: of each stream.
      model: sizes.
      stream: of the streams; here all moments are streams beside one another.
    """
    times, streams = arrived.shape
    stream = dataclasses.replace(stream, batch=times * streams)

    def joined(x: Array, axis: int = 0) -> Array:
        x = jnp.moveaxis(x, 0, axis)
        return x.reshape(*x.shape[:axis], stream.batch, *x.shape[axis + 2 :])

    cache = FrameCache(
        k=joined(begun.cache.k, 1),
        v=joined(begun.cache.v, 1),
        age=joined(begun.cache.age),
        cursor=begun.cache.cursor[0],  # 0, as that of all
    )
    state = StreamState(
        cache=cache,
        # What a stream prepares from its weights and stores is learnt from too.
        schedule=schedule(params, model, stream),
        source=joined(begun.source),
        styled=joined(begun.styled),
        present=joined(begun.present),
        frame=joined(begun.frame),
        missing=joined(begun.missing),
        key=joined(begun.key),
    )
    weights = {"denoiser": params}
    prompts = jnp.tile(prompt, (times, 1))
    state = set_prompt(weights, model, state, prompts)
    state = style_latent(
        weights, state, joined(latent), joined(arrived), model=model, stream=stream
    )
    return state.styled.reshape(latent.shape)


def roll_out(
    params: Any,
    state: StreamState,
    source: Float[Array, "B T h w C"],
    arrived: Bool[Array, "B T"],
    prompt: Float[Array, "B 384"],
    anchored: Bool[Array, " B"],
    key: Array,
    *,
    model: ModelConfig,
    stream: StreamConfig,
    rollout: RollOut,
    history: HistoryAugmentation,
) -> Float[Array, "B t h w C"]:
    """Styled latents of the opening and closing frames, differentiable in `params`.

    Args:
      params: of the denoiser.
      state: freshly opened.
      source: latents of the source frames, at least as many as are learnt from.
      arrived: which frames have a source.
      prompt: of each stream.
      anchored: which streams keep their first frame.
      key: of the corruption of history.
    """
    frames = source.shape[1]
    middle = frames - rollout.learnt
    if middle < 0:
        raise MirageError(
            f"a roll-out of {frames} frames is too short for opening="
            f"{rollout.opening} and closing={rollout.closing}"
        )
    advance = partial(
        _advance,
        params=jax.lax.stop_gradient(params),
        model=model,
        stream=stream,
        anchored=anchored,
        history=history,
    )
    clip = (source.swapaxes(0, 1), arrived.T, jax.random.split(key, frames))

    def part(start: int, count: int) -> Any:
        return jax.tree.map(lambda x: x[start : start + count], clip)

    def unlearnt(state: StreamState, frame: Any) -> tuple[StreamState, None]:
        return advance(state, frame)[0], None

    # All that comes before a frame is data: the streams run first, and then all frames
    # that are learnt from at once, each from where its stream had come to.
    end = frames - rollout.closing
    state = jax.lax.stop_gradient(state)
    state, opening = jax.lax.scan(advance, state, part(0, rollout.opening))
    state, _ = jax.lax.scan(unlearnt, state, part(rollout.opening, middle))
    _, closing = jax.lax.scan(advance, state, part(end, rollout.closing))

    def both(first: Array, last: Array) -> Array:
        return jnp.concatenate([first, last])

    begun = jax.lax.stop_gradient(jax.tree.map(both, opening, closing))
    ends = jax.tree.map(both, part(0, rollout.opening), part(end, rollout.closing))
    learn = partial(_learn, prompt=prompt, model=model, stream=stream)
    moments = (begun, *ends[:2])
    if rollout.group == rollout.learnt:
        return learn(params, *moments).swapaxes(0, 1)

    # Of a group only what it begins with is kept for the way back.
    @partial(jax.checkpoint, prevent_cse=False)
    def group(params: Any, moments: Any) -> Array:
        return learn(params, *moments)

    groups = jax.tree.map(lambda x: x.reshape(-1, rollout.group, *x.shape[1:]), moments)
    styled = jax.lax.map(partial(group, params), groups)
    return styled.reshape(-1, *styled.shape[2:]).swapaxes(0, 1)


def make_rollout_loss(
    model: ModelConfig,
    batch: ClipBatch,
    loss: DenoiserLoss,
    rollout: RollOut,
    dtype: Any = jnp.bfloat16,
) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """The error of unrolled streams, as the training loop wants a loss.

    A clip is used once, whatever `batch.draws` says; of `loss` the mix of flow times
    has no meaning here, and of its history the parts `own` and `round_trip` neither.
    """
    # An old first frame would be the frame before the second.
    batch = dataclasses.replace(batch, anchor_probability=0.0)
    places = [*range(rollout.opening), *range(-rollout.closing, 0)]

    def run(
        params: Any, key: Array, data: DenoiserData, step: Array
    ) -> tuple[Array, dict[str, Array]]:
        del step
        keys = jax.random.split(key, 7)
        embeddings, counts = jnp.asarray(data.embeddings), jnp.asarray(data.counts)
        prompt = sample_prompts(embeddings, counts, keys[1], loss.prompts)
        clips = len(prompt)
        stream = training_stream(rollout, batch.size, clips, dtype)
        # Streams run with what they hold from here on; learnt frames prepare it anew.
        state = open_stream({"denoiser": params}, model, stream, prompt, keys[2])
        present = presence(keys[3], clips, batch)
        with jax.named_scope("draw"):
            opening = frame_noise(state, stream, model)
            variants = variant_of_noise(opening)
            source, target, _ = sample_pairs_of_styles(
                data, keys[0], batch, present, variants
            )
            learnt = jnp.array(places)
            target = target[:, learnt]

        def encode(frames: Array) -> Array:
            latents = codec.encode(data.codec, frames, model.codec, dtype)
            return jax.lax.stop_gradient(latents)

        with jax.named_scope("encode"):
            source_latent, clean = encode(source), encode(target)
        with jax.named_scope("roll_out"):
            predicted = roll_out(
                params,
                state,
                source_latent,
                present,
                prompt,
                jax.random.uniform(keys[4], (clips,)) < rollout.anchored,
                keys[5],
                model=model,
                stream=stream,
                rollout=rollout,
                history=loss.history,
            )
        present = present[:, learnt]
        difference = predicted - clean
        error = jnp.square(difference).mean((2, 3, 4))  # [s, t]
        terms = {
            "latent": (jnp.where(present, 1.0, loss.missing_source) * error).mean()
        }
        if loss.steady:
            closing = difference[:, rollout.opening :]
            terms["steady"] = change_of_error(
                closing, jnp.ones(closing.shape[:2], bool)
            )
        if loss.in_pixels:
            terms |= pixel_terms(data, keys[6], predicted, target, model, loss, dtype)
        value = sum(getattr(loss, name) * term for name, term in terms.items())
        seen = jnp.where(present, error, 0).sum(0) / jnp.maximum(present.sum(0), 1)
        terms |= {"first": seen[0], "last": seen[-1]}
        metrics = {
            f"{name}_{rollout.name}_{batch.size}": term for name, term in terms.items()
        }
        return jnp.asarray(value), metrics

    return run
