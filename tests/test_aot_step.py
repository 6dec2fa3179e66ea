"""The stream compiles for an RTX 3090 that is not there, and fits it.

`make test-aot` installs what it takes and runs it.
"""

import dataclasses
import re
from functools import partial

import jax
import pytest

from experiments.absent_card import compile_step, target_of
from experiments.pass_programs import Pass, stream_of
from mirage_jax.chips import CHIPS
from mirage_jax.config import MODELS, ModelConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.device_weights import device_weights
from mirage_jax.errors import MirageError
from mirage_jax.stream_config import StreamConfig
from pallas_kernels._mosaic import HAS_MOSAIC
from pallas_kernels.targets import H100, RTX_3090, compile_for, plugin_missing

missing = plugin_missing()
pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(missing is not None, reason=str(missing)),
    pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache"),
]
BIG = MODELS["lsd_880m"]
SHALLOW = dataclasses.replace(BIG, denoiser=dataclasses.replace(BIG.denoiser, layers=2))


def held_bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def weights(model: ModelConfig, stream: StreamConfig) -> dict:
    key = jax.random.key(0)
    held: dict = jax.eval_shape(
        lambda: device_weights({"denoiser": init_denoiser(key, model)}, stream)
    )
    return held["denoiser"]


def test_the_whole_step_of_the_default_model_fits_an_rtx_3090() -> None:
    stream = stream_of("triton", 512, on_gpu=True)
    memory = compile_step(target_of("rtx3090"), MODELS["default"], stream)
    assert memory.arguments > held_bytes(weights(MODELS["default"], stream))
    assert 0 < memory.temporaries < 2**28 and 0 < memory.outputs < 2**21
    assert memory.total < CHIPS["rtx3090"].memory


@pytest.mark.parametrize("combination", ["triton", "triton+int8"])
def test_a_pass_of_the_880m_model_fits_an_rtx_3090(combination: str) -> None:
    stream = stream_of(combination, 512, on_gpu=True)
    runs = Pass(SHALLOW, stream)
    held = weights(SHALLOW, stream)
    carry = jax.eval_shape(runs.carry, held)
    program = compile_for(RTX_3090, runs, held, carry, donate=(1,))
    plan = program.memory_analysis()
    cache = held_bytes((carry[1].k, carry[1].v))
    assert plan.alias_size_in_bytes >= cache  # written in place
    # No second cache: in 8 bits stacked layers are copied out, one at a time.
    assert plan.temp_size_in_bytes < cache
    shape = ",".join(map(str, carry[1].k.shape))
    copies = [
        line
        for line in program.as_text().splitlines()
        if f" = bf16[{shape}]" in line and " copy" in line
    ]
    assert not copies
    calls = re.findall(r'custom_call_target="([^"]+)"', program.as_text())
    # Attention, two norms, commit are ours and, in 8 bits, three dense layers and the
    # quantisation before the last.
    ours = 2 * (4 if stream.eight_bit is None else 8)
    assert sum("triton" in call for call in calls) >= ours


@pytest.mark.skipif(not HAS_MOSAIC, reason="Mosaic for Hopper needs jax 0.11")
@pytest.mark.parametrize("combination", ["mosaic", "mosaic+int8"])
def test_a_loop_over_layers_is_their_kernels_and_a_counter(combination: str) -> None:
    """Nothing is sliced out of a stack and nothing carried is copied."""
    three = dataclasses.replace(BIG.denoiser, layers=3)  # two would be unrolled by XLA
    model = dataclasses.replace(BIG, denoiser=three)
    stream = stream_of(combination, 512, on_gpu=True)
    stream = dataclasses.replace(stream, unroll=False)
    runs, held = Pass(model, stream), weights(model, stream)
    carry = jax.eval_shape(runs.carry, held)
    text = compile_for(H100, runs, held, carry, donate=(1,)).as_text()
    found = re.search(r"\bwhile\(.*body=%?([\w.-]+)", text)
    assert found is not None
    body = re.search(rf"^%?{re.escape(found[1])} .*?^}}", text, re.M | re.S)
    assert body is not None
    launched = re.findall(r" = (.*) (fusion|custom-call|copy)\S*\((.*)", body[0])
    # A dense layer is a fusion that tells its kernel where the layer's weights begin.
    calls = [op == "custom-call" or "kind=kCustom" in rest for _, op, rest in launched]
    assert sum(calls) == (8 if stream.eight_bit is None else 9)
    rest = [
        shape for (shape, *_), call in zip(launched, calls, strict=True) if not call
    ]
    assert rest == ["s32[]"]


def test_what_does_not_fit_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above mean something: a card with less shared memory is refused."""
    small = RTX_3090.description.replace("optin: 101376", "optin: 1024")
    tiny = partial(compile_for, description=small)
    monkeypatch.setattr("experiments.absent_card.compile_for", tiny)
    stream = stream_of("triton", 64, on_gpu=True)
    with pytest.raises(MirageError, match="does not compile for .*Shared memory size"):
        compile_step(RTX_3090, MODELS["test"], stream)
