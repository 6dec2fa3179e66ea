"""Training on several devices and processes: the same numbers on every mesh."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import mesh_training
import numpy as np
import pytest

from configs import train_880m
from configs import train_denoiser as train_denoiser_settings
from experiments import train_denoiser
from mirage_jax.chips import CHIPS
from mirage_jax.config import MODELS
from mirage_jax.errors import MirageError
from mirage_jax.training.checkpoint import Checkpoints
from mirage_jax.training.hosts import HostsConfig, join
from mirage_jax.training.mesh import SMALL, MeshConfig, make_mesh, split_axis
from mirage_jax.training.optimiser import TrainConfig
from mirage_jax.training.step import init_state
from mirage_jax.training.work import SampleWork, StepWork, clip_work

ROOT = pathlib.Path(__file__).parent.parent


def start(arguments: list[str], devices: int, flags: str = "") -> subprocess.Popen[str]:
    """Python with so many devices, and with flags of XLA."""
    flags = f"{flags} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ".:tests",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> str:
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return out


def losses_of(workdir: pathlib.Path) -> dict[int, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def test_the_mesh_takes_all_devices():
    assert make_mesh().shape == {"data": jax.device_count(), "fsdp": 1}
    for wrong in (MeshConfig(2, 1), MeshConfig(-1, 2), MeshConfig(-1, -1)):
        with pytest.raises(MirageError, match=f"data={wrong.data} x fsdp={wrong.fsdp}"):
            make_mesh(wrong, jax.devices()[:1])


def test_the_largest_axis_that_can_be_split_is():
    assert split_axis((30, 1536, 4608), 4) == 2
    assert split_axis((30, 4608, 1536), 4) == 1
    assert split_axis((512, 512), 2) == 1
    assert split_axis((4, 4097), 4) == 0, "4097 is longer, but 4 does not divide it"
    assert split_axis((4097, 5), 4) is None
    assert split_axis((SMALL - 4,), 4) is None, "small ones are copied"
    assert split_axis((SMALL,), 4) == 0
    assert split_axis((1536, 1536), 1) is None


@pytest.mark.parametrize("process", [-1, 2])
def test_a_wrong_number_of_a_process_is_named(process):
    with pytest.raises(MirageError, match=f"process={process} of processes=2"):
        join(HostsConfig("127.0.0.1:1", 2, process))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"mesh": {"fsdp": 2}}, "fsdp=2"),
        ({"hosts": {"coordinator": "127.0.0.1:1"}}, "process=-1 of processes=0"),
        ({"loss": {"remat": "some"}}, "remat='some'"),
    ],
)
def test_the_script_names_wrong_settings(change, named):
    config = train_880m.get_config()
    config.update({"data": "synthetic", "codec": "", "model": "test"})
    config.update(change)
    with pytest.raises(MirageError, match=named):
        train_denoiser.run(config)


@pytest.mark.parametrize("stage", ["diffusion", "pixel"])
def test_settings_of_the_880m_model_are_those_of_the_default_one(stage):
    config = train_880m.get_config(stage).to_dict()
    default = train_denoiser_settings.get_config(stage).to_dict()
    assert config.keys() == default.keys()
    assert config["model"] == "lsd_880m" and config["workdir"] != default["workdir"]
    assert config["loss"] == default["loss"] | {"remat": "full"}
    assert set(config["pattern"]) <= set(range(len(config["sizes"])))


def test_one_process_is_left_alone(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    join(HostsConfig())
    assert jax.process_count() == 1


@pytest.mark.slow
def test_splitting_changes_where_arrays_lie_and_nothing_else():
    """Steps of Muon, and checkpoints that go from mesh to mesh.

    Muon makes much of the last bit, so that XLA compiles as it does for users.
    """
    program = """
        import dataclasses, tempfile
        import jax, jax.numpy as jnp, numpy as np
        from test_training_loop import CONFIG
        from mirage_jax.training.checkpoint import Checkpoints
        from mirage_jax.training import mesh as meshes
        from mirage_jax.training.step import init_state, make_step

        meshes.SMALL = 64
        config = dataclasses.replace(CONFIG, optimiser="muon", steps=4)
        draw = np.random.default_rng(0).normal
        params = {"block": {"kernel": draw(size=(3, 16, 24)), "bias": draw(size=24)},
                  "conv": {"kernel": draw(size=(3, 3, 4, 8))},
                  "head": {"kernel": draw(size=(24, 16))}}

        def loss(params, key, data, step):
            x = jax.random.normal(key, (8, 16))
            for layer in range(3):
                y = jnp.tanh(x @ params["block"]["kernel"][layer])
                x = x + (y + params["block"]["bias"][None]) @ params["head"]["kernel"]
            conv = jnp.square(params["conv"]["kernel"].sum((0, 1)) - data).sum()
            return jnp.square(x - 1).mean() + conv, {"conv": conv}

        data = np.ones((4, 8), np.float32)
        one = meshes.make_mesh(devices=jax.devices()[:1])
        copied = meshes.make_mesh(meshes.MeshConfig(2, 1))
        split = meshes.make_mesh(meshes.MeshConfig(1, 2))

        found = []
        for mesh in (copied, split):
            state = init_state(config, params)
            state = meshes.place(state, meshes.split(state, mesh))
            step = make_step(config, loss, state, mesh)
            for _ in range(3):
                state, metrics = step(state, data, np.float32(0.1))
            found.append((state, metrics))
            parts = 2 if mesh is split else 1
            for leaves in (state.params, state.ema):
                part = leaves["block"]["kernel"].addressable_data(0)
                assert part.shape == (3, 16, 24 // parts), part.shape
            shapes = {x.addressable_data(0).shape for x in jax.tree.leaves(
                state.opt_state) if x.shape == (3, 16, 24)}
            assert shapes == {(3, 16, 24 // parts)}, shapes
            assert state.params["block"]["bias"].is_fully_replicated
        (a, told_a), (b, told_b) = found
        for name in told_a:
            np.testing.assert_allclose(told_a[name], told_b[name], rtol=1e-4)
        for x, y in zip(jax.tree.leaves((a.params, a.ema, a.opt_state)),
                        jax.tree.leaves((b.params, b.ema, b.opt_state))):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)

        # What was split when it was saved is whole for one device, and the other way.
        rate = np.float32(0.1)
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(folder)
            for number, mesh in enumerate((one, split, one), start=3):
                checkpoints.save(number, b, 1.0)
                checkpoints.wait()
                state, _ = checkpoints.restore(init_state(config, params))
                state = meshes.place(state, meshes.split(state, mesh))
                assert int(state.step) == number
                for x, y in zip(jax.tree.leaves(b.opt_state),
                                jax.tree.leaves(state.opt_state)):
                    np.testing.assert_array_equal(x, y)
                b, told_b = make_step(config, loss, state, mesh)(state, data, rate)
                assert np.isfinite(told_b["loss"])
            checkpoints.close()
        print("equal")
    """
    assert end(start(["-c", textwrap.dedent(program)], 2)) == "equal\n"


@pytest.mark.slow
def test_two_processes_train_like_one_with_two_devices(tmp_path):
    """With weights split over both, and layers computed again, which changes nothing.

    Then one process reads what they saved.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def run(folder: str, devices: int, **settings: Any) -> subprocess.Popen:
        settings = {"steps": 3, "optimiser": "adamw", "data": 1, "fsdp": 2} | settings
        settings["workdir"] = str(tmp_path / folder)
        flags = os.environ.get("XLA_FLAGS", "")
        return start(["tests/mesh_training.py", json.dumps(settings)], devices, flags)

    joined = {"coordinator": address, "processes": 2, "remat": "full"}
    both = [run("two", 1, process=process, **joined) for process in range(2)]
    for process in both:
        assert end(process).endswith("trained to step 3\n")
    assert end(run("one", 2)).endswith("trained to step 3\n")
    wanted = losses_of(tmp_path / "one")
    assert sorted(wanted) == [1, 2, 3]
    for folder in ("two", "two/process_1"):
        found = losses_of(tmp_path / folder)
        assert found == pytest.approx(wanted, rel=1e-4), folder
    # What two processes saved can be read by one, and is what one saved.
    like = init_state(TrainConfig(), mesh_training.fresh())
    saved = []
    for folder in ("one", "two"):
        checkpoints = Checkpoints(tmp_path / folder / "checkpoints")
        found_state = checkpoints.restore(like)
        checkpoints.close()
        assert found_state is not None
        saved.append(found_state[0])
    assert [int(state.step) for state in saved] == [3, 3]
    for x, y in zip(*(jax.tree.leaves(state.ema) for state in saved), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_what_is_computed_again_is_not_kept():
    params = jax.eval_shape(mesh_training.fresh)
    data = {
        "latents": jnp.zeros((8, 3, 2, 2, mesh_training.MODEL.codec.channels)),
        "prompts": jnp.zeros((2, 384)),
    }

    def kept(remat: str) -> int:
        def backward(params):
            def value(params):
                key, step = jax.random.key(0), jnp.int32(0)
                return mesh_training.loss(params, key, data, step, remat)[0]

            return jax.vjp(value, params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(backward, params))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    none, light, full = (kept(name) - weights for name in ("none", "light", "full"))
    assert none > 1.3 * light > 1.3 * 1.3 * full, (none, light, full)


def test_work_of_a_clip_counts_what_its_frames_can_see():
    model = MODELS["lsd_880m"]
    c = model.denoiser
    one, two = (clip_work(model, 512, frames) for frames in (1, 2))
    assert (one.tokens, two.tokens) == (256, 512)
    # About 6 operations a parameter and token; the convolutions of the head and
    # attention come to it, prompts and conditioning do not.
    assert one.flops == pytest.approx(6 * 880e6 * 256, rel=0.1)
    # The second frame sees the first one as well.
    attention = 3 * 4 * c.layers * c.width * 256 * 256
    assert two.flops - 2 * one.flops == attention
    full = [clip_work(model, 512, frames).flops for frames in (15, 16, 17)]
    assert full[2] - full[1] == full[1] - full[0], "the ring is full"


def test_use_is_a_share_of_all_devices_peak():
    devices = np.array([[SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")] * 2])
    mesh: Any = SimpleNamespace(devices=devices, size=2)
    peak = CHIPS["h100"].rate("bfloat16")
    step = StepWork.of(mesh, 3, SampleWork(10, int(peak) // 6))
    speeds = (step + step).speeds(2.0)
    assert speeds["samples_per_s"] == 6 and speeds["tokens_per_s"] == 60
    assert speeds["model_flop_use"] == pytest.approx(0.5)
    assert "model_flop_use" not in StepWork(4, 4, 4).speeds(1.0)
    assert StepWork.of(mesh, 3, None).speeds(1.0) == {"samples_per_s": 6.0}
    assert StepWork().speeds(1.0) == {}
