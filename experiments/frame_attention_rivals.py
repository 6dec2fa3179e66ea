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

from experiments.kernel_case import DEFINITION, Case, Contest, Rival
from pallas_kernels import choice, device
from pallas_kernels.frame_attention import (
    cudnn,
    mosaic,
    mosaic_config,
    reference,
    triton,
    xla,
)
from pallas_kernels.frame_attention.choice import OP
from pallas_kernels.frame_attention.config import default_config
from pallas_kernels.frame_attention.reference import expand_slot_bias
from pallas_kernels.frame_attention.specs import Spec
from pallas_kernels.timing import Step

Operands = tuple[Array, Array, Array, Array]  # k, v, slot_bias, layer
L2_BYTES = 64 * 2**20  # at least the last-level cache of any card so far


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
    *stacks, layer = operands
    k, v, slot_bias = (jax.lax.dynamic_index_in_dim(x, layer, 0, False) for x in stacks)
    return attend(q, k, v, slot_bias, prompt_tokens=spec.problem.prompt)


def _indexed(q: Array, operands: Operands, *, attend: Any, spec: Spec) -> Array:
    """One of our kernels, told the layer."""
    k, v, slot_bias, layer = operands
    return attend(q, k, v, slot_bias, prompt_tokens=spec.problem.prompt, layer=layer)


def _definition(q: Array, operands: Operands, *, spec: Spec) -> Array:
    return expected(spec, q, operands, biased=True)


def step(spec: Spec, interpret: bool, backend: str, config: Any) -> Step:
    """A backend of the dispatcher; None takes the configuration that it would."""
    ours = {"config": config, "interpret": interpret}
    attend: dict[str, Callable[..., Array]] = {
        "triton": functools.partial(triton.attend, **ours),
        "mosaic": functools.partial(mosaic.attend, config=config),
        "cudnn": cudnn.attend,
        "xla": xla.attend,
    }
    if backend == DEFINITION:
        return functools.partial(_definition, spec=spec)
    return functools.partial(_backend, attend=attend[backend], spec=spec)


def contest(spec: Spec, most_sets: int, interpret: bool) -> Contest:
    """What the dispatcher chooses from where it reads one layer's keys."""
    return Contest(
        op=OP,
        problem=spec.problem,
        backends=("triton", "mosaic", "cudnn", "xla"),
        draw=functools.partial(make_sets, spec, False, most_sets),
        step=functools.partial(step, spec, interpret),
        bytes_moved=spec.bytes_moved,
        flops=spec.flops,
        tolerance=tolerance(spec),
    )


def marks(spec: Spec) -> dict[str, Step]:
    """cuDNN in other ways, with the bias as a tensor and without one: no backends."""
    return {
        "cudnn_bias_tensor": functools.partial(_cudnn_bias_tensor, spec=spec),
        "cudnn_no_bias": _cudnn_plain,
    }


def layer_steps(spec: Spec, interpret: bool) -> dict[str, Step]:
    """What finds its layer in the whole cache: read in place, or behind a slice."""
    kernel = functools.partial(triton.attend, interpret=interpret)
    one: Callable[..., Any] = functools.partial(functools.partial, spec=spec)
    return {
        "triton_layer": one(_indexed, attend=kernel),
        "mosaic_layer": one(_indexed, attend=mosaic.attend),
        "cudnn_layer": one(_sliced, attend=cudnn.attend),
    }


def attention_case(spec: Spec, most_sets: int, interpret: bool) -> Case:
    """All rivals at one shape; those that do without the bias count as incomplete."""
    case = contest(spec, most_sets, interpret).case()
    sets = case.rivals["xla"].sets
    biased = case.rivals["xla"].wanted
    rivals = dict(case.rivals)
    for name, mark in marks(spec).items():
        complete = name != "cudnn_no_bias"
        wanted = biased if complete else expected(spec, case.carry, sets[0], False)
        rivals[name] = Rival(mark, sets, wanted, complete)
    stacked = make_sets(spec, True, most_sets)[1]
    for name, layered in layer_steps(spec, interpret).items():
        rivals[name] = Rival(layered, stacked, biased)
    record = {"shape": dataclasses.asdict(spec), "configs": _configs(spec)}
    return dataclasses.replace(case, rivals=rivals, record=record)


def _configs(spec: Spec) -> dict[str, Any]:
    """What our kernels take, measured or not, so that the record can say it."""
    card = device.present() or device.INTERPRETER
    defaults: dict[str, Any] = {"triton": default_config(spec.problem, card)}
    if mosaic_config.unsuited(spec.problem) is None:
        defaults["mosaic"] = mosaic_config.default_config(spec.problem, card)
    return {
        backend: dataclasses.asdict(
            choice.tuned_config(OP, spec.problem, card, backend) or default
        )
        for backend, default in defaults.items()
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
    k, v, bias = (jnp.stack(x) for x in list(zip(*drawn, strict=True))[1:])
    return q, [(k, v, bias, jnp.int32(layer)) for layer in range(count)]


def expected(spec: Spec, q: Array, operands: Operands, biased: bool) -> Array:
    """The float32 reference for one set."""
    k, v, slot_bias, layer = operands
    if k.ndim == 5:
        k, v, slot_bias = k[layer], v[layer], slot_bias[layer]
    if not biased:
        slot_bias = jnp.zeros_like(slot_bias)
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    attend = functools.partial(reference.attend, prompt_tokens=spec.problem.prompt)
    wanted: Array = jax.jit(attend)(q, k, v, slot_bias)
    return wanted


def tolerance(spec: Spec) -> float:
    """Largest relative error that rounding explains.

    Half precision: operands are exact, softmax weights and output are rounded to 8
    bits or more, and cuDNN's carried bias too. Float32: the order of the sums, and
    products of XLA in TF32 on a GPU.
    """
    return 1.5e-2 if spec.problem.itemsize == 2 else 2e-3
