"""Counts of programs: each shows what it is for, and the step keeps to them."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import compare, count_program
from experiments.comparison import Limits, compare_records
from experiments.program_counts import count_program as counts_of
from experiments.program_counts import launched
from mirage_jax.errors import MirageError
from mirage_jax.results import Record, read_record

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
BASELINE = RESULTS / f"program_counts_test_cpu_jax_{jax.__version__}.json"


def run(script, *operands, **settings):
    importlib.reload(script)  # other scripts have flags of the same names
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**settings):
        script.main([script.__name__, *operands])


@pytest.mark.smoke
@pytest.mark.skipif(
    not BASELINE.exists(), reason=f"no counts are stored for JAX {jax.__version__}"
)
def test_the_stream_step_has_the_stored_counts(tmp_path):
    out = str(tmp_path / "counts.json")
    # In a process without the flags of conftest.py, which change what is fused.
    subprocess.run(
        [sys.executable, "-m", "experiments.count_program", f"--out={out}"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        check=True,
    )
    found = compare_records(
        [read_record(BASELINE)], [read_record(out)], Limits(0.0, 0.0)
    )
    told = compare.table(found, 1)
    cure = "if this is meant, store them: python -m experiments.count_program"
    assert not found.missing and not found.of("regressed"), f"{told}\n{cure}"
    # What got better is stored too, so that it cannot be lost again unseen.
    assert not found.added and not found.of("improved"), f"{told}\n{cure}"


def test_stored_counts_say_what_the_design_asks_of_the_step():
    stored = sorted(RESULTS.glob("program_counts_test_cpu_jax_*.json"))
    assert stored
    for path in stored:
        record = read_record(path)
        assert path.stem.endswith(f"_{record.setup['jax']}")
        values = {name: result.value for name, result in record.results.items()}
        for name, value in values.items():
            if name.startswith("host_transfers/"):
                assert value == 0
        # More work for two steps and a frame carried along, in the same buffers.
        assert values["flops/float32/lagged/2"] > values["flops/float32/merged/1"]
        # Every result takes the place of a part of the state, or of the source, but
        # for the latent that goes from the encoder to the denoiser.
        for row in ("float32/merged/1", "float32/lagged/2"):
            outputs = values[f"output_buffers/{row}"]
            assert values[f"donated_buffers/{row}"] == outputs - 1


SQUARE = jax.ShapeDtypeStruct((64, 64), jnp.float32)


def record_of(call, *operands, **options):
    compiled = jax.jit(call, **options).lower(*operands).compile()
    results = counts_of("x", compiled)
    return Record("a script", {}, {result.name: result for result in results})


def values_of(*operands, **options):
    record = record_of(*operands, **options)
    return {name[:-2]: result.value for name, result in record.results.items()}


def regressed(before, after):
    found = compare_records([before], [after], Limits(0.0, 0.0))
    return {change.name.split("/")[0] for change in found.of("regressed")}


def test_flops_are_those_of_the_products():
    one = values_of(lambda a: a @ a, SQUARE)
    assert one["flops"] == pytest.approx(2 * 64**3, rel=0.01)
    assert one["bytes_accessed"] >= 2 * 4 * 64**2
    assert (one["input_buffers"], one["output_buffers"]) == (1, 1)
    assert "flops" in regressed(
        record_of(lambda a: a @ a, SQUARE), record_of(lambda a: a @ a @ a, SQUARE)
    )


def test_a_transfer_to_the_host_shows():
    def told(a):
        shape = jax.ShapeDtypeStruct(a.shape, a.dtype)
        return jax.pure_callback(np.sin, shape, a @ a)

    plain, calls_back = record_of(lambda a: a @ a, SQUARE), record_of(told, SQUARE)
    assert {"host_transfers", "custom_calls"} <= regressed(plain, calls_back)


def test_a_lost_donation_shows_as_a_copy():
    def step(state):
        return jax.lax.dynamic_update_slice(state, jnp.ones((1, 64)), (3, 0))

    kept = record_of(step, SQUARE, donate_argnums=0)
    lost = record_of(step, SQUARE)
    assert kept.results["donated_buffers/x"].value == 1
    assert kept.results["copies/x"].value == 0
    assert regressed(kept, lost) >= {"copies", "donated_buffers"}


def test_an_unused_buffer_is_none():
    def first(a, b):
        return a + 1

    assert values_of(first, SQUARE, SQUARE)["input_buffers"] == 1
    kept = values_of(first, SQUARE, SQUARE, keep_unused=True)
    assert kept["input_buffers"] == 2


MODULE = """\
HloModule jit_f, input_output_alias={ {0}: (0, {}, may-alias) }, entry={(f32[8]{0})}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %copy.1 = f32[8]{0} copy(%p), metadata={op_name="jit(f)/call(%x)"}
  ROOT %add.1 = f32[8]{0} add(%copy.1, %p)
}

body (t: (s32[], /*index=1*/f32[8])) -> (s32[], f32[8]) {
  t = (s32[], /*index=1*/f32[8]{0:T(8,128)}) parameter(0)
  a = f32[8]{0:T(8,128)} get-tuple-element(t), index=1
  copy-start.1 = (f32[8]{0}, f32[8]{0}, u32[]) copy-start(a)
  copy-done.1 = f32[8]{0} copy-done(copy-start.1)
  ROOT r = (s32[], /*index=1*/f32[8]{0}) tuple(b, copy-done.1)
}

%condition (t: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%left (x: f32[8]) -> f32[8] {
  ROOT %sort.1 = f32[8]{0} sort(%x), to_apply=%order
}

%right (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %fusion.1 = f32[8]{0} fusion(%p), kind=kLoop, calls=%fused
  %loop = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body
  %choice = f32[8]{0} conditional(%i, %p), branch_computations={%left, %right}
  ROOT %same = f32[8]{0} call(%choice), to_apply=%left
}
"""


def test_what_runs_is_found_in_loops_and_branches_but_not_in_fusions():
    opcodes = sorted(opcode for opcode, _ in launched(MODULE))
    assert opcodes == ["compare", "copy-start", "fusion", "sort"]


def test_programs_by_name():
    stream = count_program.stream_of("int8/lagged/2", 64)
    assert (stream.eight_bit, stream.commit, stream.steps) == ("int8", "lagged", 2)
    assert count_program.stream_of("float32/clean/1", 64).dtype == "float32"
    for wrong in ("float32", "float32/merged", "float32/merged/one", "int4/merged/1"):
        with pytest.raises(MirageError, match=re.escape(wrong.split("/")[0])):
            count_program.stream_of(wrong, 64)
