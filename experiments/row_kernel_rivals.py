"""The kernels that work on rows (norms, commit, quantisation), to be timed.

See `kernel_case` for how a call is kept from being left out. A call that reads the
results of the one before anyway needs no `linked` number.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.kernel_case import Contest, linked, whole
from pallas_kernels.eight_bit import Quantised, quantise_rows
from pallas_kernels.modulated_norm import problem as norm_problem
from pallas_kernels.modulated_norm import reference as norm
from pallas_kernels.modulated_norm import triton as norm_triton
from pallas_kernels.qk_norm_rope_commit import problem as commit_problem
from pallas_kernels.qk_norm_rope_commit import reference as commit
from pallas_kernels.qk_norm_rope_commit import triton as commit_triton
from pallas_kernels.quantise import problem as quantise_problem
from pallas_kernels.quantise import triton as quantise_triton
from pallas_kernels.timing import Step

HALF = jnp.bfloat16
SETS = 8
BACKENDS = ("triton", "xla")
# Rounded once by each, perhaps to either side. On a GPU XLA also keeps the residual's
# sum unrounded where it normalises it, and a float8 number's neighbour is far away.
TOLERANCE = 1e-2
TOLERANCE_FLOAT8 = 2e-2


def draw(seed: int, *shape: int, scale: float = 1.0) -> Array:
    """Normal numbers in bfloat16."""
    drawn = scale * jax.random.normal(jax.random.key(seed), shape)
    return drawn.astype(HALF)


def _room(to: str | None, *shape: int) -> Any:
    """What a call is told to come after, of the kind of its result."""
    if to is None:
        return draw(1002, *shape)
    return Quantised(jnp.ones(shape, jnp.dtype(to)), jnp.ones(shape[:-1]))


def _after(x: Array, last: Any) -> Array:
    """The last call's result, or x with one of its numbers if it is of another kind."""
    return linked(x, last.values) if isinstance(last, Quantised) else last


def _gated(carry: Any, operands: Any, *, call: Callable[..., Any]) -> Any:
    x, branch, last = carry
    branch = _after(branch, last)
    total, y = whole(call(x, branch, *operands))
    return total, branch, y


def _ungated(carry: Any, operands: Any, *, call: Callable[..., Any]) -> Any:
    x, last = carry
    x = _after(x, last)
    return x, whole(call(x, *operands))


def _draw_norm(p: norm_problem.Problem) -> tuple[Any, list[Any]]:
    shape, vectors = (1, p.frames, p.tokens, p.width), 3 if p.gated else 2
    sets = [
        tuple(draw(3 * n + i, 1, p.frames, p.width, scale=0.1) for i in range(vectors))
        for n in range(SETS)
    ]
    streams = [draw(1000 + n, *shape) for n in range(2 if p.gated else 1)]
    return (*streams, _room(p.to, *shape)), sets


def _norm_step(
    p: norm_problem.Problem, interpret: bool, backend: str, config: Any
) -> Step:
    name = "gated_residual_norm" if p.gated else "modulated_norm"
    if backend == "triton":
        call = getattr(norm_triton, name)
        call = functools.partial(call, config=config, interpret=interpret)
    else:  # the definition is what XLA fuses
        call = getattr(norm, name)
    call = functools.partial(call, to=p.to)
    return functools.partial(_gated if p.gated else _ungated, call=call)


def norm_contest(problem: norm_problem.Problem, interpret: bool) -> Contest:
    """The norm between two layers, behind a gated residual or alone."""
    p = problem
    numbers = p.frames * p.tokens * p.width
    written = 2 if p.to is None else 1
    return Contest(
        op=norm_problem.OP,
        problem=p,
        backends=BACKENDS,
        draw=functools.partial(_draw_norm, p),
        step=functools.partial(_norm_step, p, interpret),
        bytes_moved=float(numbers * ((6 if p.gated else 2) + written)),
        flops=0.0,
        tolerance=TOLERANCE_FLOAT8 if p.to == "float8_e4m3fn" else TOLERANCE,
    )


def _commit(carry: Any, operands: Any, *, call: Callable[..., Any]) -> Any:
    qkv, q, k, v = carry
    *tables, layer, starts = operands
    qkv = linked(qkv, q)
    return qkv, *whole(call(qkv, *tables, k, v, layer, starts))


def _draw_commit(p: commit_problem.Problem) -> tuple[Any, list[Any]]:
    queries, half = p.groups * p.tokens, p.width // 2
    angles = jnp.linspace(0.0, 6.0, queries * half).reshape(queries, half)
    slots = (p.layers, p.batch, p.keys, p.heads, p.width)
    prompt = p.keys % p.tokens
    frames = (p.keys - prompt) // p.tokens

    def operands(number: int) -> Any:
        ones = jnp.ones((p.layers, p.width))
        starts = [prompt + (number + g) % frames * p.tokens for g in range(p.groups)]
        return (
            *(ones, ones, jnp.cos(angles), jnp.sin(angles)),
            jnp.int32(number % p.layers),
            jnp.array(starts, jnp.int32),
        )

    q = draw(1000, p.batch, queries, p.heads, p.width)
    qkv = draw(1001, p.batch, queries, 3, p.heads, p.width)
    carry = qkv, q, draw(1002, *slots), draw(1003, *slots)
    return carry, [operands(number) for number in range(SETS)]


def _commit_step(interpret: bool, backend: str, config: Any) -> Step:
    call: Callable[..., Any] = commit.qk_norm_rope_commit
    if backend == "triton":
        call = commit_triton.qk_norm_rope_commit
        call = functools.partial(call, config=config, interpret=interpret)
    return functools.partial(_commit, call=call)


def commit_contest(problem: commit_problem.Problem, interpret: bool) -> Contest:
    """The q, k and v of a pass, k and v into the cache of several layers."""
    p = problem
    return Contest(
        op=commit_problem.OP,
        problem=p,
        backends=BACKENDS,
        draw=functools.partial(_draw_commit, p),
        step=functools.partial(_commit_step, interpret),
        bytes_moved=12.0 * p.batch * p.groups * p.tokens * p.heads * p.width,
        flops=0.0,
        tolerance=TOLERANCE,
    )


def _quantise(carry: Any, _: Any, *, call: Callable[..., Quantised]) -> Any:
    x, last = carry
    x = linked(x, last.values)
    return x, whole(call(x))


def _draw_quantise(p: quantise_problem.Problem) -> tuple[Any, list[Any]]:
    shape = (1, 1, p.rows, p.width)
    return (draw(1000, *shape), _room(p.to, *shape)), [None]


def _rows_xla(x: Array, *, to: str) -> Quantised:
    return quantise_rows(x.astype(jnp.float32), to)


def _quantise_step(
    p: quantise_problem.Problem, interpret: bool, backend: str, config: None
) -> Step:
    call: Callable[..., Quantised] = _rows_xla
    if backend == "triton":
        call = functools.partial(quantise_triton.quantise, interpret=interpret)
    return functools.partial(_quantise, call=functools.partial(call, to=p.to))


def quantise_contest(problem: quantise_problem.Problem, interpret: bool) -> Contest:
    """Rows that no norm has written, to 8 bits."""
    p = problem
    return Contest(
        op=quantise_problem.OP,
        problem=p,
        backends=BACKENDS,
        draw=functools.partial(_draw_quantise, p),
        step=functools.partial(_quantise_step, p, interpret),
        bytes_moved=3.0 * p.rows * p.width,
        flops=0.0,
        tolerance=TOLERANCE,
    )
