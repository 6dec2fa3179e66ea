"""The Hopper kernel of frame attention as far as a CPU goes: traced, never run.

Tracing goes through every line of the kernel, and finds shapes, types and names that do
not fit; tests/test_aot_targets.py compiles it, tests/test_gpu_kernels.py runs it.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from gpu_targets import HOPPER_CASES

from pallas_kernels._mosaic import HAS_MOSAIC
from pallas_kernels.device import pretended
from pallas_kernels.frame_attention import mosaic
from pallas_kernels.frame_attention.mosaic_config import MosaicConfig
from pallas_kernels.frame_attention.specs import SPECS
from pallas_kernels.targets import H100, RTX_3090

new_jax = pytest.mark.skipif(not HAS_MOSAIC, reason="Mosaic for Hopper needs jax 0.11")


@pytest.mark.parametrize("case", HOPPER_CASES)
def test_it_gives_what_the_queries_are(case):
    name, numbers = HOPPER_CASES[case]
    problem = SPECS[name].problem
    layer = jax.ShapeDtypeStruct((1,), jnp.int32)
    with pretended(H100.device):
        forward = mosaic.Forward(problem, MosaicConfig(*numbers))
        found = jax.eval_shape(forward, *problem.abstract, layer)
    assert (found.shape, found.dtype) == (
        problem.abstract[0].shape,
        problem.abstract[0].dtype,
    )


def attend(name):
    """Traces the call that chooses its configuration; returns its result's shape."""
    problem = SPECS[name].problem
    call = functools.partial(mosaic.attend, prompt_tokens=problem.prompt)
    return jax.eval_shape(call, *problem.abstract)


@new_jax
def test_it_finds_a_configuration_for_the_model():
    problem = SPECS["lsd_256"].problem
    with pretended(H100.device):
        assert attend("lsd_256").shape == problem.abstract[0].shape


@new_jax
def test_it_says_where_it_cannot_run():
    with pytest.raises(NotImplementedError, match="needs a Hopper GPU"):
        attend("lsd_256")
    with pretended(RTX_3090.device):
        with pytest.raises(NotImplementedError, match="GeForce RTX 3090"):
            attend("lsd_256")
    with pretended(H100.device):
        with pytest.raises(NotImplementedError, match="not for the Mosaic kernel"):
            attend("float32_128")
