"""The cases of benchmark and tuner: what the frame loop calls, and steps that count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from experiments.kernel_case import DEFINITION
from experiments.kernel_cases import contests, frame_loop
from experiments.random_model import random_params
from mirage_jax.config import MODELS, TEXT_WIDTH
from mirage_jax.device_weights import device_weights
from mirage_jax.stream import open_stream, stream_step
from mirage_jax.stream_config import StreamConfig
from pallas_kernels import device, timing
from pallas_kernels.device import Device
from pallas_kernels.trial import Trials

TINY = contests(True, most_sets=2)
# Where the result of a call lies among the leaves of a carry.
RESULTS = {
    "plain": -1,
    "norm_tiny": -1,
    "norm_tiny_int8": -2,
    "ungated_norm_tiny_int8": -2,
    "commit_tiny": 1,
    "up_tiny": -1,
    "up_tiny_int8": -1,
    "quantise_tiny_int8": -2,
}


def asked_for(monkeypatch, size, stream):
    """(operation, problem) of every call of a stream step of two layers."""
    model = MODELS[size]
    model = dataclasses.replace(
        model, denoiser=dataclasses.replace(model.denoiser, layers=2)
    )
    found = set()

    def pick(self, name, problem, run, *operands):
        found.add((self._op, problem))
        return self._op.unmeasured[-1]

    def step(key):
        params = device_weights(random_params(key, model, stream.dtype), stream)
        prompt = jnp.zeros((1, TEXT_WIDTH))
        state = open_stream(params, model, stream, prompt, key)
        found.clear()  # of what is called to know the shapes of parameters
        frame = jnp.zeros((1, stream.height, stream.width, 3), jnp.uint8)
        return stream_step(params, state, frame, model=model, stream=stream)

    monkeypatch.setattr(Trials, "pick", pick)
    jax.eval_shape(step, jax.random.key(0))
    return found


def comparable(problem):
    """Without what says nothing: the cache's layers, and its slot of the anchor.

    A model attends to the anchor, too, which is mostly empty; the bars do without.
    """
    sizes = dataclasses.asdict(problem)
    sizes.pop("layers", None)
    if "frames" in sizes and "keys" in sizes:
        sizes.pop("frames")
    return type(problem), tuple(sizes.items())


@pytest.mark.parametrize("to", [None, "int8", "float8_e4m3fn"])
@pytest.mark.parametrize(
    "size, side, commit",
    [
        ("lsd_880m", 512, "merged"),
        ("lsd_880m", 512, "lagged"),
        ("lsd_880m", 1024, "merged"),
        ("default", 512, "merged"),
        ("default", 512, "lagged"),
    ],
)
def test_a_stream_asks_for_what_is_tuned_by_default(
    monkeypatch, size, side, commit, to
):
    known = contests(False, most_sets=2)
    tuned = {comparable(known[name].problem) for name in frame_loop(False)}
    asked = asked_for(
        monkeypatch, size, StreamConfig(side, side, commit=commit, eight_bit=to)
    )
    operations = {"frame_attention", "modulated_norm", "qk_norm_rope_commit"}
    operations |= {"linear"} if to is None else {"linear", "linear_8bit", "quantise"}
    assert {op.name for op, _ in asked} == operations
    for op, problem in asked:
        assert comparable(problem) in tuned, (op.name, problem)
        # And what was measured there is what a call takes.
        rows = [c.problem for c in known.values() if c.op == op]
        assert min(op.distance(problem, row) for row in rows) < 0.2


@pytest.mark.parametrize("name", RESULTS)
def test_every_call_reads_the_one_before(name):
    """Else XLA would make calls of equal operands once, and leave the others out."""
    contest = TINY[name]
    carry, sets = contest.draw()
    step = jax.jit(contest.step("xla", None))
    leaves, tree = jax.tree.flatten(step(carry, sets[0]))
    last = leaves[RESULTS[name]]
    leaves[RESULTS[name]] = (last.astype(jnp.float32) + 3).astype(last.dtype)
    changed = step(jax.tree.unflatten(tree, leaves), sets[0])
    leaves[RESULTS[name]] = last
    same = step(jax.tree.unflatten(tree, leaves), sets[0])
    equal = [
        bool(jnp.array_equal(a.astype(jnp.float32), b.astype(jnp.float32)))
        for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(same), strict=True)
    ]
    assert not all(equal)


@pytest.mark.parametrize("name", RESULTS)
def test_a_chain_of_the_kernel_gives_the_definition(name):
    contest = TINY[name]
    carry, sets = contest.draw()
    wanted = jax.jit(contest.step(DEFINITION, None))(carry, sets[0])
    for backend in {"triton", "xla"} & set(contest.backends):
        found = jax.jit(contest.step(backend, None))(carry, sets[0])
        assert timing.relative_error(found, wanted) <= contest.tolerance
        alike = jax.tree.map(
            lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), found, carry
        )
        assert jax.tree.all(alike)


def test_a_pretended_card_is_present_for_the_while():
    card = Device("NVIDIA H100 80GB HBM3", (9, 0), 132)
    before = device.present()
    with device.pretended(card):
        assert device.present() == card
        with device.pretended(dataclasses.replace(card, cores=114)):
            assert device.present() != card
        assert device.present() == card
    assert device.present() == before
    with (
        pytest.raises(NotImplementedError, match="7, 5"),
        device.pretended(Device("Tesla T4", (7, 5), 40)),
    ):
        pass
    assert device.present() == before
