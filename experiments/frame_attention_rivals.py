"""Everything that can do frame attention's job, or nearly: steps to be timed.

A step takes queries and (k, v, slot_bias, layer) and returns the output, which has the
shape of the queries and is fed to the next call.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.frame_attention import cudnn, mosaic, reference, triton, xla
from pallas_kernels.frame_attention.reference import expand_slot_bias
from pallas_kernels.frame_attention.specs import Spec
from pallas_kernels.timing import Step

Operands = tuple[Array, Array, Array, Array]  # k, v, slot_bias, layer
L2_BYTES = 64 * 2**20  # at least the last-level cache of any card so far


@dataclasses.dataclass(frozen=True)
class Rival:
    """One way to do it.

    Attributes:
      step: what is timed.
      biased: whether it adds the slot bias; else it is no substitute, only a mark.
      stacked: whether k and v hold all sets, one a layer, of which it reads one.
    """

    step: Step
    biased: bool = True
    stacked: bool = False


def _cudnn_plain(q: Array, operands: Operands) -> Array:
    """cuDNN's flash attention over all keys alike: no bias, no empty slots."""
    k, v, _, _ = operands
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _cudnn_bias_tensor(q: Array, operands: Operands, *, spec: Spec) -> Array:
    """cuDNN with the bias written out as a tensor [B, K, Q, M], as it asks for it."""
    k, v, slot_bias, _ = operands
    bias = jnp.maximum(slot_bias, cudnn.MASKED)
    bias = expand_slot_bias(bias, k.shape[1], spec.problem.prompt)
    bias = jnp.repeat(bias.transpose(0, 2, 1, 3), spec.problem.queries, axis=2)
    return jax.nn.dot_product_attention(
        q, k, v, bias.astype(q.dtype), implementation="cudnn"
    )


def _backend(q: Array, operands: Operands, *, attend: Any, spec: Spec) -> Array:
    """A backend of the dispatcher that reads one layer's keys."""
    k, v, slot_bias, _ = operands
    return attend(q, k, v, slot_bias, prompt_tokens=spec.problem.prompt)


def _sliced(q: Array, operands: Operands, *, attend: Any, spec: Spec) -> Array:
    """The same behind a slice of the layer out of the whole cache."""
    k, v, slot_bias, layer = operands
    k, v = (jax.lax.dynamic_index_in_dim(x, layer, 0, False) for x in (k, v))
    return attend(q, k, v, slot_bias, prompt_tokens=spec.problem.prompt)


def _indexed(q: Array, operands: Operands, *, attend: Any, spec: Spec) -> Array:
    """One of our kernels, told the layer."""
    k, v, slot_bias, layer = operands
    return attend(q, k, v, slot_bias, prompt_tokens=spec.problem.prompt, layer=layer)


def config_step(spec: Spec, backend: str, config: Any, interpret: bool) -> Step:
    """One of our kernels with a configuration; None takes what the dispatcher would."""
    if backend == "mosaic":
        attend: Callable[..., Array] = functools.partial(mosaic.attend, config=config)
    else:
        attend = functools.partial(triton.attend, config=config, interpret=interpret)
    return functools.partial(_backend, attend=attend, spec=spec)


def rivals(spec: Spec, interpret: bool) -> dict[str, Rival]:
    """All of them by name, the dispatcher's backends under theirs.

    Our kernels take the configurations that the dispatcher would.
    """
    kernel = functools.partial(triton.attend, interpret=interpret)
    one: Callable[..., Any] = functools.partial(functools.partial, spec=spec)
    return {
        "triton": Rival(config_step(spec, "triton", None, interpret)),
        "triton_layer": Rival(one(_indexed, attend=kernel), stacked=True),
        "mosaic": Rival(config_step(spec, "mosaic", None, interpret)),
        "mosaic_layer": Rival(one(_indexed, attend=mosaic.attend), stacked=True),
        "cudnn": Rival(one(_backend, attend=cudnn.attend)),
        "cudnn_layer": Rival(one(_sliced, attend=cudnn.attend), stacked=True),
        "cudnn_bias_tensor": Rival(one(_cudnn_bias_tensor)),
        "cudnn_no_bias": Rival(_cudnn_plain, biased=False),
        "xla": Rival(one(_backend, attend=xla.attend)),
    }


def make_sets(spec: Spec, stacked: bool, most: int) -> tuple[Array, list[Operands]]:
    """Queries, and as many sets of operands as keep the L2 cache cold.

    Args:
      stacked: put the sets side by side on a leading axis, as layers of one cache.
      most: upper limit of their number.
    """
    count = int(min(most, max(2, -(-3 * L2_BYTES // spec.bytes_moved))))
    drawn = [spec.operands(seed) for seed in range(count)]
    q = drawn[0][0]
    if not stacked:
        return q, [(k, v, bias, jnp.int32(0)) for _, k, v, bias in drawn]
    k = jnp.stack([k for _, k, _, _ in drawn])
    v = jnp.stack([v for _, _, v, _ in drawn])
    return q, [(k, v, x[3], jnp.int32(layer)) for layer, x in enumerate(drawn)]


def expected(spec: Spec, q: Array, operands: Operands, biased: bool) -> Array:
    """The float32 reference for the first set."""
    k, v, slot_bias, layer = operands
    if k.ndim == 5:
        k, v = k[layer], v[layer]
    if not biased:
        slot_bias = jnp.zeros_like(slot_bias)
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    attend = functools.partial(reference.attend, prompt_tokens=spec.problem.prompt)
    return jax.jit(attend)(q, k, v, slot_bias)


def tolerance(spec: Spec) -> float:
    """Largest relative error that rounding explains.

    Half precision: operands are exact, softmax weights and output are rounded to 8
    bits or more, and cuDNN's carried bias too. Float32: the order of the sums, and
    products of XLA in TF32 on a GPU.
    """
    return 1.5e-2 if spec.problem.itemsize == 2 else 2e-3
