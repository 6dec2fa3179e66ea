"""Kernels on a real GPU: run by `make test-gpu`, skipped elsewhere."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import device
from pallas_kernels._mosaic import HAS_MOSAIC, HOPPER
from pallas_kernels.frame_attention import (
    frame_attention,
    mosaic,
    mosaic_config,
    reference,
    triton,
)
from pallas_kernels.frame_attention.config import default_config, search_space
from pallas_kernels.frame_attention.specs import SPECS

pytestmark = pytest.mark.gpu


def hopper() -> bool:
    card = device.present()
    return HAS_MOSAIC and card is not None and card.capability == HOPPER


def relative(found: Any, wanted: Any) -> float:
    a, b = (np.asarray(x, np.float64) for x in (found, wanted))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def expected(spec, q, k, v, bias):
    if spec.problem.layers:
        k, v, bias = k[-1], v[-1], bias[-1]
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    return reference.attend(q, k, v, bias, prompt_tokens=spec.problem.prompt)


@pytest.mark.parametrize("name", SPECS)
def test_the_triton_kernel_is_the_reference(name: str) -> None:
    spec = SPECS[name]
    operands = spec.operands(seed=0)
    layer = spec.problem.layers - 1 if spec.problem.layers else None
    call = functools.partial(
        frame_attention,
        prompt_tokens=spec.problem.prompt,
        layer=layer,
        backend="triton",
    )
    found = jax.jit(call)(*operands)
    wanted = jax.jit(functools.partial(expected, spec))(*operands)
    # bfloat16 rounds weights and outputs to 8 bits; float32 products are exact.
    assert relative(found, wanted) <= (1e-2 if spec.problem.itemsize == 2 else 1e-5)


HOPPER_SPECS = [
    name
    for name, spec in SPECS.items()
    if mosaic_config.unsuited(spec.problem) is None and name != "default_clip"
]


@pytest.mark.skipif(not hopper(), reason="needs a Hopper GPU and jax 0.11")
@pytest.mark.parametrize("name", HOPPER_SPECS)
def test_the_hopper_kernel_is_the_reference(name: str) -> None:
    """With every number of shares, which meet in each other's shared memory."""
    spec = SPECS[name]
    problem, card = spec.problem, device.present()
    assert card is not None
    operands = spec.operands(seed=0)
    layer = problem.layers - 1 if problem.layers else None
    wanted = jax.jit(functools.partial(expected, spec))(*operands)
    by_split = {c.split: c for c in mosaic_config.search_space(problem, card)}
    for config in by_split.values():
        call = functools.partial(
            mosaic.attend, prompt_tokens=problem.prompt, layer=layer, config=config
        )
        first = jax.jit(call)(*operands)
        # Weights, outputs and what the shares exchange are rounded to 8 bits.
        assert relative(first, wanted) <= 1e-2, config
        again = jax.jit(call)(*operands)
        assert np.array_equal(first, again), f"not the same twice: {config}"


def test_configurations_change_nothing_but_the_time() -> None:
    spec = SPECS["default_64"]
    card = device.present()
    assert card is not None
    operands = spec.operands(seed=1)
    wanted = jax.jit(functools.partial(expected, spec))(*operands)
    space = search_space(spec.problem, card)
    for config in (default_config(spec.problem, card), *space[:: len(space) // 6 + 1]):
        call = functools.partial(
            triton.attend, prompt_tokens=spec.problem.prompt, config=config
        )
        assert relative(jax.jit(call)(*operands), wanted) <= 1e-2, config


@pytest.mark.parametrize(
    "name", ["default_256_lagged", "default_clip", "layers", "odd_tokens"]
)
def test_gradients_are_those_of_the_reference(name: str) -> None:
    spec = SPECS[name]
    operands = spec.operands(seed=2)
    layer = spec.problem.layers - 1 if spec.problem.layers else None

    def gradients(call):
        def loss(*operands):
            return jnp.square(call(*operands).astype(jnp.float32)).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*operands)

    call = functools.partial(
        frame_attention,
        prompt_tokens=spec.problem.prompt,
        layer=layer,
        backend="triton",
    )
    # In bfloat16 weights and slopes are rounded before they are multiplied.
    for a, b in zip(
        gradients(call), gradients(functools.partial(expected, spec)), strict=True
    ):
        assert relative(np.nan_to_num(a.astype(jnp.float32)), b) <= 2e-2


def test_the_automatic_choice_works_for_every_shape() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for spec in SPECS.values():
            layer = 0 if spec.problem.layers else None
            out = frame_attention(
                *spec.operands(seed=3), prompt_tokens=spec.problem.prompt, layer=layer
            )
            assert np.isfinite(out.astype(jnp.float32)).all()
