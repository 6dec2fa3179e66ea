"""What the memory check calls: every operation at shapes that fill no block.

The shapes are those of attention's specs, for all operations alike: a spec says how
many streams, frames and tokens there are, how wide they are and what the cache holds.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_kernels import device
from pallas_kernels._compat import HAS_TRITON
from pallas_kernels._mosaic import HAS_MOSAIC, HOPPER
from pallas_kernels.eight_bit import LARGEST, quantise_rows
from pallas_kernels.frame_attention import frame_attention
from pallas_kernels.frame_attention import mosaic as attention_mosaic
from pallas_kernels.frame_attention import triton as attention_triton
from pallas_kernels.frame_attention.specs import SPECS, Spec
from pallas_kernels.linear import mosaic as linear_mosaic
from pallas_kernels.linear import reference as linear
from pallas_kernels.linear_8bit import mosaic as linear_8bit_mosaic
from pallas_kernels.linear_8bit import quantise_weight
from pallas_kernels.linear_8bit import reference as linear_8bit
from pallas_kernels.linear_8bit import triton as linear_8bit_triton
from pallas_kernels.modulated_norm import reference as norm
from pallas_kernels.modulated_norm import triton as norm_triton
from pallas_kernels.qk_norm_rope_commit import reference as commit
from pallas_kernels.qk_norm_rope_commit import triton as commit_triton
from pallas_kernels.quantise import quantise
from pallas_kernels.quantise import triton as quantise_triton

# Odd tokens and widths, no prompt, more keys than queries, rings partly filled, frames
# side by side, a cache of several layers: small enough for the interpreter.
SMALL = ("odd_tokens", "head_12", "no_prompt", "wide", "one_slot_left", "layers")
# The model's own sizes beside them, 3 streams of 49 tokens, a lagged commit of 144.
SHAPES = (
    *SMALL,
    *("half", "tokens_49", "tokens_144", "default_64", "default_256"),
    *("default_256_lagged", "default_256_batch_8"),
)
# Relative errors. Half precision and 8 bits: one rounding, perhaps to either side.
ROUNDED, EXACT = 1e-2, 1e-5


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
      operands: of the kernel and of its definition.
      named: further arguments of both, static.
      tolerance: largest relative error that rounding explains.
    """

    operands: tuple[Any, ...]
    named: Mapping[str, Any]
    tolerance: float


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation and our ways to compute it.

    Attributes:
      kernels: by backend.
      definition: takes the same arguments.
      calls: what to call at the sizes of one spec.
    """

    kernels: Mapping[str, Callable[..., Any]]
    definition: Callable[..., Any]
    calls: Callable[[Spec], Iterator[Call]]


def able(backend: str, card: device.Device | None) -> bool:
    """Whether the card runs this backend at all; None is the interpreter of Triton."""
    if backend == "mosaic":
        return HAS_MOSAIC and card is not None and card.capability == HOPPER
    return HAS_TRITON and (card is None or card.capability >= device.LEAST_CAPABILITY)


class _Draw:
    """Arrays of a spec's type, the same ones each time."""

    def __init__(self, spec: Spec):
        self._dtype = spec.problem.dtype
        self._rng = np.random.default_rng(0)
        self.tolerance = EXACT if self._dtype == "float32" else ROUNDED

    def __call__(self, *shape: int) -> Array:
        return jnp.asarray(self._rng.normal(size=shape), self._dtype)


def _tokens(spec: Spec) -> tuple[int, int, int, int]:
    """[B, G, N, D] of the tokens of a pass."""
    p = spec.problem
    return p.batch, p.groups, p.queries, p.heads * p.width


def _attention(spec: Spec) -> Iterator[Call]:
    p = spec.problem
    named = {
        "prompt_tokens": p.prompt,
        "layer": p.layers - 1 if p.layers else None,
    }
    yield Call(spec.operands(seed=0), named, _Draw(spec).tolerance)


def _norm(spec: Spec, vectors: int, *, gated: bool) -> Iterator[Call]:
    draw, (b, g, n, d) = _Draw(spec), _tokens(spec)
    matrices = [draw(b, g, n, d) for _ in range(1 + gated)]
    operands = (*matrices, *(draw(b, g, d) for _ in range(vectors)))
    yield Call(operands, {"to": None}, draw.tolerance)
    for to in LARGEST:
        yield Call(operands, {"to": to}, ROUNDED)


def _commit(spec: Spec) -> Iterator[Call]:
    """Into the last layer and the last slots: what lies behind is not ours."""
    draw, p = _Draw(spec), spec.problem
    layers, tokens, half = max(p.layers, 2), p.groups * p.queries, p.width // 2
    angles = np.linspace(0, 6, tokens * half, dtype=np.float32).reshape(tokens, half)
    slots = (layers, p.batch, p.total_keys, p.heads, p.width)
    frames = np.arange(p.frames - p.groups, p.frames)
    operands = (
        draw(p.batch, tokens, 3, p.heads, p.width),
        draw(layers, p.width),
        draw(layers, p.width),
        *(jnp.asarray(np.cos(angles)), jnp.asarray(np.sin(angles))),
        *(draw(*slots), draw(*slots)),
        jnp.int32(layers - 1),
        jnp.asarray(p.prompt + p.keys * frames, jnp.int32),
    )
    yield Call(operands, {}, draw.tolerance)


def _layers(
    spec: Spec,
) -> Iterator[tuple[Array, Array, tuple[Array | None, ...], str | None]]:
    """x, kernel, (bias, residual, gate) and activation of both layers of an MLP."""
    draw, (b, g, n, d) = _Draw(spec), _tokens(spec)
    yield draw(b, g, n, d), draw(d, 2 * d), (draw(2 * d), None, None), "gelu"
    added = draw(d), draw(b, g, n, d), draw(b, g, d)
    yield draw(b, g, n, 2 * d), draw(2 * d, d), added, None


def _linear(spec: Spec) -> Iterator[Call]:
    for x, kernel, added, activation in _layers(spec):
        named = {"activation": activation}
        yield Call((x, kernel, *added), named, _Draw(spec).tolerance)


def _linear_8bit(spec: Spec) -> Iterator[Call]:
    for to in LARGEST:
        for x, kernel, added, activation in _layers(spec):
            operands = (
                quantise_rows(x.astype(jnp.float32), to),
                *quantise_weight(kernel, to),
                *added,
            )
            named = {"activation": activation, "dtype": x.dtype}
            yield Call(operands, named, ROUNDED)


def _quantise(spec: Spec) -> Iterator[Call]:
    for to in LARGEST:
        yield Call((_Draw(spec)(*_tokens(spec)),), {"to": to}, ROUNDED)


OPERATIONS = {
    "frame_attention": Operation(
        {"triton": attention_triton.attend, "mosaic": attention_mosaic.attend},
        functools.partial(frame_attention, backend="reference"),
        _attention,
    ),
    "modulated_norm": Operation(
        {"triton": norm_triton.modulated_norm},
        norm.modulated_norm,
        functools.partial(_norm, vectors=2, gated=False),
    ),
    "gated_residual_norm": Operation(
        {"triton": norm_triton.gated_residual_norm},
        norm.gated_residual_norm,
        functools.partial(_norm, vectors=3, gated=True),
    ),
    "qk_norm_rope_commit": Operation(
        {"triton": commit_triton.qk_norm_rope_commit},
        commit.qk_norm_rope_commit,
        _commit,
    ),
    "linear": Operation({"mosaic": linear_mosaic.linear}, linear.linear, _linear),
    "linear_8bit": Operation(
        {
            "triton": linear_8bit_triton.linear_8bit,
            "mosaic": linear_8bit_mosaic.linear_8bit,
        },
        linear_8bit.linear_8bit,
        _linear_8bit,
    ),
    "quantise": Operation(
        {"triton": quantise_triton.quantise},
        functools.partial(quantise, backend="xla"),
        _quantise,
    ),
}


def calls(op: str, *, small: bool) -> Iterator[tuple[str, Call]]:
    """(name of the shape, call) of one operation, drawn on the default device."""
    for name in SMALL if small else SHAPES:
        for call in OPERATIONS[op].calls(SPECS[name]):
            yield name, call
