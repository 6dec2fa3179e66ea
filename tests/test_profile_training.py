"""Which part of a training step an operation is counted for."""

import importlib
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver

from configs.train_denoiser import get_config
from experiments import profile_training
from experiments.denoiser_stage import Program, Stage
from experiments.training_scopes import PARTS, REST, scope_times, scopes_of
from mirage_jax.config import MODELS
from mirage_jax.errors import MirageError
from mirage_jax.results import read_record
from mirage_jax.training.optimiser import TrainConfig

STYLES = ("sepia", "mosaic")


def loss(params, key, data, step):
    """A little of what the denoiser's loss does, under the same scopes."""
    del data, step
    with jax.named_scope("draw"):
        with jax.named_scope("clips"):
            frames = jax.random.normal(key, (64, 64))
        with jax.named_scope("mosaic"):
            target = jnp.sort(frames, axis=0)
    with jax.named_scope("roll_out"):

        def frame(x, _):
            return jnp.tanh(x @ params), None

        x, _ = jax.lax.scan(frame, frames, None, length=3)
    with jax.named_scope("decode"):
        found = jnp.exp(jnp.sin(x @ x.T))
    return jnp.square(found - target).mean(), {}


def test_every_operation_of_a_step_has_its_scope():
    step = jax.jit(jax.value_and_grad(lambda p: loss(p, jax.random.key(0), 0, 0)[0]))
    text = step.lower(jnp.ones((64, 64))).compile().as_text()
    assert text is not None
    scopes = scopes_of(text, STYLES)
    assert {
        "draw/clips",
        "draw/mosaic",
        "roll_out",
        "roll_out/backward",
        "decode",
        "decode/backward",
    } <= set(scopes.values())
    parts = {scope.partition("/")[0] for scope in scopes.values()}
    assert parts <= {*PARTS, REST}
    loops = re.findall(r"%([\w.]+) = \(.*\) while\(", text)
    assert loops and not scopes.keys() & set(loops), "their bodies count"


def test_products_and_attention_are_told_apart():
    lines = {
        "a.1": (
            'f32[8] custom-call(%x), custom_call_target="__cublas$gemm"',
            "mlp/dot",
        ),
        "b.1": ("f32[8] fusion(%x)", "mlp/add"),
        "c.1": ("f32[8] custom-call(%x)", "frame_attention_queries/pallas_call"),
    }
    under = "jit(s)/transpose(jvp(denoise))"
    text = "\n".join(
        f'  %{name} = {call}, metadata={{op_name="{under}/{op}"}}'
        for name, (call, op) in lines.items()
    )
    assert scopes_of(text, STYLES) == {
        "a.1": "denoise/backward/products",
        "b.1": "denoise/backward",
        "c.1": "denoise/backward/attention",
    }


def test_only_the_programs_own_operations_count():
    def event(op, module="jit_step"):
        stats = {"hlo_op": op, "hlo_module": module}.items()
        return SimpleNamespace(stats=stats, duration_ns=2e6)

    events = [event("a"), event("a"), event("b"), event("while"), event("a", "other")]
    line = SimpleNamespace(name="Stream #1", events=events)
    profile = SimpleNamespace(
        planes=[SimpleNamespace(name="/device:GPU:0", lines=[line])]
    )
    scopes = {"a": "encode", "b": "denoise"}
    found = scope_times(profile, scopes, "jit_step")
    assert found == {"encode": (4.0, 2.0), "denoise": (2.0, 1.0)}
    assert list(found) == ["encode", "denoise"], "the longest first"
    with pytest.raises(MirageError, match="no operation of jit_other"):
        scope_times(profile, scopes, "jit_other")


def test_a_stage_is_profiled_and_recorded(tmp_path, capsys):
    importlib.reload(profile_training)  # other scripts have flags of the same names
    profile_training.load_stage = lambda config: Stage(  # type: ignore[assignment]
        TrainConfig(optimiser="adamw"),
        MODELS["test"],
        jnp.ones((64, 64)),
        jnp.zeros(1),  # type: ignore[arg-type]
        STYLES,
        [Program("toy", loss, 1, None)],
        (0,),
    )
    out = tmp_path / "profile.json"
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(out=str(out), traced=2):
        profile_training.profile_training(get_config("rollout"))
    values = {name: one.value for name, one in read_record(out).results.items()}
    assert values["step_ms/toy"] > 0
    assert values["ms/toy/draw/mosaic"] > 0 and values["ms/toy/optimiser"] > 0
    assert values["operations/toy/roll_out"] >= 3, "one product a frame"
    shown = capsys.readouterr().out
    assert "toy: " in shown and "draw/mosaic" in shown


@pytest.mark.parametrize("flag", ["programs", "graphs"])
def test_what_is_not_there_is_named(flag, tmp_path):
    importlib.reload(profile_training)
    profile_training.load_stage = lambda config: SimpleNamespace(  # type: ignore
        programs=[Program("toy", loss, 1, None)]
    )
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**{flag: ["other"]}), pytest.raises(MirageError) as raised:
        profile_training.profile_training(get_config("rollout"))
    assert f"--{flag}=other" in str(raised.value) and "\n" not in str(raised.value)
