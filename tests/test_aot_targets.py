"""Every configuration compiles for sm_86, sm_80 and sm_90, without any of them.

`make test-aot` installs what it takes (JAX's CUDA plugin and NVIDIA's compilers; no
GPU, no driver, no cuDNN) and runs it.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from gpu_targets import HOPPER_CASES, requested_shared_memory

from pallas_kernels import choice, tuned_table
from pallas_kernels._mosaic import HAS_MOSAIC, SHARED_MEMORY
from pallas_kernels.device import Device
from pallas_kernels.frame_attention import mosaic, mosaic_config, triton
from pallas_kernels.frame_attention.backward import Backward
from pallas_kernels.frame_attention.choice import OP
from pallas_kernels.frame_attention.config import (
    Config,
    default_backward,
    default_config,
    search_space,
    shared_memory,
)
from pallas_kernels.frame_attention.problem import Problem
from pallas_kernels.frame_attention.specs import BARS, DEFAULT_MODEL, SPECS, UNEVEN
from pallas_kernels.targets import (
    H100,
    RTX_3090,
    TARGETS,
    Target,
    compile_for,
    plugin_missing,
)

missing = plugin_missing()
pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(missing is not None, reason=str(missing)),
    # What was compiled without a device cannot be loaded without one: no harm.
    pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache"),
]

LAYER = jax.ShapeDtypeStruct((1,), jnp.int32)
PROBLEMS = {
    name: spec.problem for name, spec in (BARS | DEFAULT_MODEL | UNEVEN).items()
}
# K of more than 2**32 bytes: addresses of 64 bits.
PROBLEMS["huge"] = Problem(40, 1, 256, 8, 256, 32, 12, 128, layers=30)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.file)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_default_compiles(name: str, target: Target) -> None:
    problem = PROBLEMS[name]
    config = default_config(problem, target.device)
    compile_for(target, triton.Forward(problem, config), *problem.abstract, LAYER)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.file)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_compiles(name: str, target: Target) -> None:
    problem = dataclasses.replace(PROBLEMS[name], layers=0)
    backward = Backward(problem, *default_backward(problem, target.device))
    q, k, v, bias = problem.abstract
    sums = jax.ShapeDtypeStruct((problem.batch, problem.heads, q.shape[1]), jnp.float32)
    compile_for(target, backward, q, k, v, bias, q, sums, q)


@pytest.mark.parametrize(
    "path", sorted(tuned_table.FOLDER.glob("*.json")), ids=lambda path: path.stem
)
def test_every_tuned_configuration_compiles_on_its_card(path: Path) -> None:
    table = json.loads(path.read_text())
    capability = tuple(table["capability"])
    card = Device(table["device"], capability, table["cores"])
    target = next(t for t in TARGETS if t.device.capability == capability)
    assert tuned_table.path_of(card) == path and choice.measured(OP, card)
    for row in choice.measured(OP, card):
        for backend, config in row.configs:
            if backend == "mosaic" and not HAS_MOSAIC:
                continue
            ours = mosaic if backend == "mosaic" else triton
            call = ours.Forward(row.problem, config)
            compile_for(target, call, *row.problem.abstract, LAYER)


@pytest.mark.skipif(not HAS_MOSAIC, reason="Mosaic for Hopper needs jax 0.11")
@pytest.mark.parametrize("case", HOPPER_CASES)
def test_the_hopper_kernel_compiles(case: str) -> None:
    name, numbers = HOPPER_CASES[case]
    problem, config = SPECS[name].problem, mosaic_config.MosaicConfig(*numbers)
    call = mosaic.Forward(problem, config)
    compile_for(H100, call, *problem.abstract, LAYER)


@pytest.mark.skipif(not HAS_MOSAIC, reason="Mosaic for Hopper needs jax 0.11")
@pytest.mark.parametrize("name", ["lsd_256_lagged", "layers_of_30"])
def test_the_hopper_kernels_gradient_is_tritons(name: str) -> None:
    problem = SPECS[name].problem
    layer = 0 if problem.layers else None

    def loss(*operands: jax.Array) -> jax.Array:
        out = mosaic.attend(*operands, prompt_tokens=problem.prompt, layer=layer)
        return out.astype(jnp.float32).sum()

    gradient = jax.grad(loss, argnums=(0, 1, 2, 3))
    text = compile_for(H100, gradient, *problem.abstract).as_text()
    for kernel in ("frame_attention_keys_and_values", "frame_attention_queries"):
        assert kernel in text


@pytest.mark.skipif(not HAS_MOSAIC, reason="Mosaic for Hopper needs jax 0.11")
def test_the_hopper_search_offers_what_fits() -> None:
    problem = SPECS["lsd_256"].problem
    space = mosaic_config.search_space(problem, H100.device)
    largest = max(space, key=lambda c: mosaic_config.shared_memory(c, problem))
    assert mosaic_config.shared_memory(largest, problem) <= SHARED_MEMORY
    call = mosaic.Forward(problem, largest)
    compile_for(H100, call, *problem.abstract, LAYER)


@pytest.mark.parametrize("target", [RTX_3090, H100], ids=lambda t: t.file)
@pytest.mark.parametrize("name", ["lsd_256", "default_256", "float32_128"])
def test_shared_memory_is_what_the_search_counts_on(name: str, target: Target) -> None:
    """The count may not be below the truth: the search would offer what cannot run."""
    problem = PROBLEMS[name]
    space = search_space(problem, target.device)
    for config in space[:: max(1, len(space) // 4)]:
        asked = requested_shared_memory(
            target, triton.Forward(problem, config), *problem.abstract, LAYER
        )
        assert asked <= shared_memory(config, problem), config


def test_too_much_shared_memory_is_refused() -> None:
    """The check above means something: what does not fit does not compile."""
    problem = PROBLEMS["lsd_256"]
    config = Config(128, 128, 1, 8, 3)
    assert shared_memory(config, problem) > RTX_3090.device.shared_memory
    with pytest.raises(jax.errors.JaxRuntimeError, match="Shared memory size limit"):
        compile_for(RTX_3090, triton.Forward(problem, config), *problem.abstract, LAYER)


def test_the_cache_of_all_layers_is_read_without_a_copy() -> None:
    """A pass that writes each layer's slot and attends holds no second cache."""
    problem = Problem(1, 1, 256, 9, 256, 32, 12, 128, layers=4)
    config = default_config(problem, H100.device)
    q, k, v, bias = problem.abstract

    def frame(q, k, v, bias, start):
        for layer in range(problem.layers):
            at = (layer, 0, start[0], 0, 0)
            k = jax.lax.dynamic_update_slice(k, q[None], at)
            v = jax.lax.dynamic_update_slice(v, -q[None], at)
            index = jnp.full((1,), layer, jnp.int32)
            q = triton.Forward(problem, config)(q, k, v, bias, index)
        return q, k, v

    program = compile_for(H100, frame, q, k, v, bias, LAYER, donate=(1, 2))
    layer_bytes = k.size // problem.layers * k.dtype.itemsize
    partial_sums = config.split * q.size * 4
    temporary = program.memory_analysis().temp_size_in_bytes
    assert temporary < partial_sums + layer_bytes // 2
    copies = [
        line
        for line in program.as_text().splitlines()
        if f" = {_hlo(k)}" in line and " copy" in line
    ]
    assert not copies


def _hlo(x: jax.ShapeDtypeStruct) -> str:
    return "bf16[" + ",".join(map(str, x.shape)) + "]"
