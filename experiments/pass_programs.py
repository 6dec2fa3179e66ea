"""A pass of the denoiser as it is timed: combinations of backends, operands, programs.

A combination is written "base" or "base+change+change", for example "kernels+int8" or
"xla+float8+linear=triton".
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mirage_jax import cache as frame_cache
from mirage_jax.cache import FrameCache
from mirage_jax.config import DOWNSAMPLE, ModelConfig
from mirage_jax.denoiser import Condition, condition, denoise_frame
from mirage_jax.errors import MirageError
from mirage_jax.precision import EIGHT_BIT
from mirage_jax.stream_config import StreamConfig

Params = dict[str, Any]
Carry = tuple[Array, FrameCache, Condition]
BACKENDS = ("attention", "kernels", "linear")  # fields of StreamConfig
BASES = ("xla", "kernels", "triton", "mosaic")


def stream_of(combination: str, side: int, on_gpu: bool) -> StreamConfig:
    """The stream that a combination's name stands for, bfloat16 unless it says 8 bits.

    Bases: "xla" is what runs without our kernels, XLA with cuDNN's attention where
    there is a GPU; "kernels" leaves every choice to the library; "triton" takes our
    Triton kernels everywhere, "mosaic" those for Hopper where there are any. Changes:
    "int8", "float8", or one backend by name, "attention=", "kernels=" (norms and
    commit) or "linear=" (dense layers).

    Raises:
      MirageError: a name that means nothing.
    """
    base, *changes = combination.split("+")
    named: dict[str, Any]
    if base == "xla":
        attention = "cudnn" if on_gpu else "xla"
        named = {"attention": attention, "kernels": "xla", "linear": "xla"}
    elif base == "triton":
        linear = "triton" if set(changes) & set(EIGHT_BIT) else "xla"
        named = {"attention": "triton", "kernels": "triton", "linear": linear}
    elif base == "mosaic":
        named = {"attention": "mosaic", "kernels": "triton", "linear": "mosaic"}
    elif base == "kernels":
        named = {}
    else:
        raise MirageError(f"no combination begins with {base!r}: take one of {BASES}")
    for change in changes:
        field, _, backend = change.partition("=")
        if change in EIGHT_BIT:
            named["eight_bit"] = EIGHT_BIT[change]
        elif field in BACKENDS and backend:
            named[field] = backend
        else:
            raise MirageError(
                f"{combination}: {change!r} is none of {tuple(EIGHT_BIT)} and names no "
                f"backend of {BACKENDS}"
            )
    return StreamConfig(side, side, **named)


def side_of(tokens: int, model: ModelConfig) -> int:
    """Pixels along the side of a square frame of so many tokens."""
    cells = round(tokens**0.5)
    if cells * cells != tokens:
        raise MirageError(f"{tokens} tokens are no square frame: take 256 or 1024")
    return cells * model.denoiser.patch * DOWNSAMPLE


def exact_stream(stream: StreamConfig) -> StreamConfig:
    """The same stream by the definition: float32, nothing of ours, not made to be fast.

    Its weights are float32 too, or narrow ones that widen; its products should be of
    highest precision.
    """
    return dataclasses.replace(
        stream,
        dtype="float32",
        attention="xla",
        kernels="xla",
        linear="xla",
        eight_bit=None,
        unroll=False,
    )


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass of one combination, from a carry to the next.

    The carry is (latents, cache, condition): what a pass predicts is the next pass's
    noisy latent, so that nothing of a pass can be left out or taken out of a loop, and
    every pass begins a frame of its own. The condition stays as it is, as in a stream.
    """

    model: ModelConfig
    stream: StreamConfig

    def carry(self, denoiser: Params) -> Carry:
        """A full ring and a noisy latent, both random; to be compiled.

        K are of unit spread, as after their norm.
        """
        c, s = self.model.denoiser, self.stream
        dtype = jnp.dtype(s.dtype)
        cache = frame_cache.empty_cache(c, s.batch, c.frame_tokens(s.grid), dtype)
        keys = jax.random.split(jax.random.key(1), 3)
        k, v = (jax.random.normal(key, cache.k.shape, dtype) for key in keys[:2])
        ring = (-jnp.arange(c.ring + 1)) % (c.ring + 1)  # slot 0 is the current frame's
        age = jnp.concatenate([jnp.full(1, frame_cache.EMPTY), ring])
        age = jnp.tile(age[None].astype(jnp.int32), (s.batch, 1))
        latents = (s.batch, 1, *s.grid, self.model.codec.channels)
        noise = jax.random.normal(keys[2], latents)
        cache = dataclasses.replace(cache, k=k, v=v, age=age)
        return noise, cache, self._condition(denoiser)

    def _condition(self, denoiser: Params) -> Condition:
        """That of the middle of two steps."""
        s, half = self.stream, jnp.full((self.stream.batch, 1), 0.5)
        dtype = jnp.dtype(s.dtype)
        return condition(denoiser, self.model.denoiser, half, half, s.grid, dtype)

    def __call__(self, denoiser: Params, carry: Carry) -> Carry:
        """One frame's pass; the cache is written in place if the carry is donated."""
        s = self.stream
        latents, cache, given = carry
        cache = frame_cache.advance(cache)
        bias = denoiser["slot_bias"].astype(jnp.float32)
        ones = jnp.ones(latents.shape[:2])
        latents, cache = denoise_frame(
            denoiser,
            self.model,
            latents,
            0.5 * latents[:, :, ::-1],  # some source
            ones > 0,
            given,
            cache,
            cache.prompt(self.model.denoiser),
            frame_cache.age_bias(bias, cache.age),
            dtype=jnp.dtype(s.dtype),
            backend=s.attention,
            kernels=s.kernels,
            eight_bit=s.eight_bit,
            linear=s.linear,
            unroll=s.unrolled,
        )
        return latents, cache, given

    def chained(self, passes: int) -> Callable[..., Any]:
        """As many passes in one program, each on what the one before it left."""

        def program(denoiser: Params, carry: Any) -> Any:
            return jax.lax.fori_loop(0, passes, lambda _, c: self(denoiser, c), carry)

        return program

    def exact(self) -> Callable[..., Any]:
        """The same pass in float32, the definition; not made to be fast."""
        plain = Pass(self.model, exact_stream(self.stream))

        def program(denoiser: Params, carry: Any) -> Any:
            latents, cache, _ = carry
            k, v = (x.astype(jnp.float32) for x in (cache.k, cache.v))
            cache = dataclasses.replace(cache, k=k, v=v)
            with jax.default_matmul_precision("highest"):
                given = plain._condition(denoiser)
                return plain(denoiser, (latents, cache, given))

        return program

    def outcome(self, carry: Carry) -> dict[str, Array]:
        """What a pass leaves: latents, and K and V of the frame in all layers."""
        latents, cache, _ = carry
        return {"latents": latents, **committed(cache, self.model)}


def one_pass(
    denoiser: Params, carry: Carry, *, model: ModelConfig, stream: StreamConfig
) -> Carry:
    """A pass, as `frame_program` takes it."""
    return Pass(model, stream)(denoiser, carry)


def committed(cache: FrameCache, model: ModelConfig) -> dict[str, Array]:
    """K and V that the current frame wrote, of all layers."""
    c = model.denoiser
    tokens = frame_cache.frame_tokens(cache, c)
    start = frame_cache.slot_start(cache.cursor, c, tokens)
    k, v = (
        jax.lax.dynamic_slice_in_dim(x, start, tokens, axis=2)
        for x in (cache.k, cache.v)
    )
    return {"k": k, "v": v}
