"""What the tuner lowers in a process without a GPU compiles for one that is not there.

`make test-aot` installs what it takes and runs it.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from experiments.chain_builder import lower
from experiments.kernel_case import OURS
from experiments.kernel_cases import contests, frame_loop
from experiments.search_spaces import search_space
from pallas_kernels import _mosaic
from pallas_kernels.targets import H100, compile_for, plugin_missing
from pallas_kernels.timing import Program

missing = plugin_missing()
if missing is None and not _mosaic.HAS_MOSAIC:
    missing = "Mosaic for Hopper as used here came with jax 0.11"
pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(missing is not None, reason=str(missing)),
]
CONTESTS = contests(False, most_sets=2)
# Both kinds of kernels, every operation, aliased operands, both models.
SOME = (
    "lsd_256_lagged",
    "norm_512_int8",
    "default_commit_512",
    "qkv_256",
    "default_up_256_float8",
    "quantise_down_1024_int8",
)


def shapes(contest):
    """What `draw` gives, without values."""
    if contest.op.name != "frame_attention":
        return jax.eval_shape(contest.draw)
    q, *rest = contest.problem.abstract
    return q, [(*rest, jax.ShapeDtypeStruct((), jnp.int32))] * 2


@pytest.mark.parametrize("name", SOME)
def test_what_a_process_lowers_compiles(name: str) -> None:
    contest = CONTESTS[name]
    carry, sets = shapes(contest)
    ours = [backend for backend in contest.backends if backend in OURS]
    for backend in ours:
        space = search_space(contest.op, contest.problem, H100.device, backend, 3)
        program = Program(contest.step(backend, space[-1]), len(sets), 8)
        data = lower(program, (carry, sets), H100.device)
        exported = export.deserialize(bytearray(data))
        compiled = compile_for(H100, exported.call, *jax.tree.leaves((carry, sets)))
        kernels = "__gpu$xla.gpu.triton", "mosaic_gpu_v2", "triton_kernel"
        assert any(kernel in compiled.as_text() for kernel in kernels), backend


@pytest.mark.parametrize(
    "name, result",
    [
        ("norm_256_int8", r"= s8\[1,1,256,1536\]\S* fusion"),
        ("commit_256", r"= bf16\[(?:1,)?256,12,128\]\S* fusion"),
        ("quantise_down_256_int8", r"= s8\[1,1,256,6144\]\S* fusion"),
        ("out_256", r"= bf16\[(?:1,1,)?256,1536\]\S* fusion.*convert"),
    ],
)
def test_xla_leaves_nothing_out_of_a_chain(name: str, result: str) -> None:
    """The next call reads one number of a result, and XLA may not compute it alone."""
    contest = CONTESTS[name]
    carry, sets = shapes(contest)
    program = Program(contest.step("xla", None), len(sets), 8)
    text = compile_for(H100, program, carry, sets).as_text()
    found = [line for line in text.splitlines() if re.search(result, line)]
    assert len(found) >= program.calls, found


@pytest.mark.parametrize("name", frame_loop(False))
def test_every_case_has_something_to_try(name: str) -> None:
    contest = CONTESTS[name]
    ours = [backend for backend in contest.backends if backend in OURS]
    for backend in ours:
        space = search_space(contest.op, contest.problem, H100.device, backend, 48)
        assert space, backend
