"""Weights on disk: exact round trips, small int8 errors, every damage one line."""

import dataclasses
import errno
import functools
import json

import jax
import numpy as np
import pytest
import toy_model
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mirage_jax import weights
from mirage_jax.codec import init_codec
from mirage_jax.config import MODELS, CodecConfig, DenoiserConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.errors import MirageError
from mirage_jax.weights import load_model, load_weights, save_weights, weight_files

CODEC = toy_model.MODEL.codec


@functools.cache
def tree():
    return jax.device_get(toy_model.params()["codec"])


def load(path):
    init = functools.partial(init_codec, jax.random.key(0))
    return load_weights(path, CodecConfig, init)


def assert_same(found, expected):
    found, expected = weights.flatten(found), weights.flatten(expected)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "codec.safetensors"
    save_weights(path, tree(), CODEC)
    return path


@pytest.fixture
def split(tmp_path):
    """The same weights in several parts."""
    path = tmp_path / "codec.safetensors"
    save_weights(path, tree(), CODEC, part_bytes=20_000)
    assert len(weight_files(path)) > 2
    return path


def refused(path, loader=load):
    with pytest.raises(MirageError) as raised:
        loader(path)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_names_and_trees_are_inverses():
    assert_same(weights.unflatten(weights.flatten(tree())), tree())


def test_float32_round_trip_is_exact(saved, tmp_path):
    found, config, digest = load(saved)
    assert_same(found, tree())
    assert config == CODEC and len(digest) == 64
    assert save_weights(tmp_path / "again.safetensors", found, config) == digest
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "again.safetensors",
        "codec.safetensors",
    ]


@pytest.mark.parametrize("shape", [(3, 3, 6, 5), (7, 5), (4, 6, 5)])
def test_int8_errs_by_half_a_step_of_its_channel(shape):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3, shape[-1])
    kernel = kernel.astype(np.float32)
    kernel[..., 2] = 0
    values, scale = weights.quantise(kernel)
    assert values.dtype == np.int8 and scale.dtype == np.float32
    axes = (1,) if len(shape) == 3 else tuple(range(len(shape) - 1))
    largest = np.abs(kernel).max(axis=axes, keepdims=True)
    error = np.abs(values * scale - kernel)
    assert (error <= 0.5001 * largest / 127).all()
    # The largest weight of each channel uses the whole range.
    assert (np.abs(values).max(axis=axes, keepdims=True)[largest > 0] == 127).all()


def test_int8_on_disk_is_small_and_close(tmp_path, saved):
    path = tmp_path / "small.safetensors"
    is_kernel = lambda name, tensor: name.endswith("kernel")  # noqa: E731
    save_weights(path, tree(), CODEC, to_int8=is_kernel, dtype="float16")
    assert path.stat().st_size < 0.5 * saved.stat().st_size
    found, expected = (weights.flatten(x) for x in (load(path)[0], tree()))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        bound = np.abs(tensor).max() * (0.51 / 127 if is_kernel(name, tensor) else 1e-3)
        assert np.abs(found[name] - tensor).max() <= bound, name


def test_parts_hold_the_same_weights(split):
    assert not split.exists()
    largest = max(x.nbytes for x in weights.flatten(tree()).values())
    for part in weight_files(split):
        assert part.stat().st_size < max(20_000, largest) + 8192
    assert_same(load(split)[0], tree())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("io")]
)
def test_a_full_disk_is_one_line_and_keeps_the_old_weights(
    error, tmp_path, monkeypatch
):
    path = tmp_path / "codec.safetensors"
    old = save_weights(path, tree(), CODEC)
    written = []

    def fill_up(tensors, file, metadata):
        written.append(file)
        if len(written) == 2:
            file.write_bytes(b"half")
            raise error
        save_file(tensors, file, metadata)

    monkeypatch.setattr(weights, "save_file", fill_up)
    with pytest.raises(MirageError, match="cannot write .*-2-of-") as raised:
        save_weights(path, tree(), CODEC, part_bytes=20_000)
    assert "\n" not in str(raised.value)
    assert load(path)[2] == old
    assert list(tmp_path.iterdir()) == [path]


def test_rewriting_leaves_no_stale_parts(split):
    many = weight_files(split)
    beside = split.with_name("codec-older-1-of-1.safetensors")
    beside.write_bytes(b"another file")
    save_weights(split, tree(), CODEC, part_bytes=40_000)
    fewer = weight_files(split)
    assert 1 < len(fewer) < len(many)
    assert set(split.parent.iterdir()) == {*fewer, beside}
    assert_same(load(split)[0], tree())
    save_weights(split, tree(), CODEC)
    assert set(split.parent.iterdir()) == {split, beside}
    save_weights(split, tree(), CODEC, part_bytes=20_000)
    assert set(split.parent.iterdir()) == {*many, beside}
    assert_same(load(split)[0], tree())


def test_a_missing_file_is_named(tmp_path):
    message = refused(tmp_path / "codec.safetensors")
    assert "no weights at" in message and str(tmp_path) in message


def test_a_missing_part_is_named(split):
    weight_files(split)[1].unlink()
    message = refused(split)
    assert "lacks a part" in message and "codec.safetensors" in message


def test_parts_of_two_trainings_do_not_mix(split, tmp_path):
    other = tmp_path / "other" / split.name
    changed = jax.tree.map(lambda x: x + 1, tree())
    save_weights(other, changed, CODEC, part_bytes=20_000)
    weight_files(other)[0].replace(weight_files(split)[0])
    assert "damaged" in refused(split)


@pytest.mark.parametrize("place", np.linspace(0, 1, 40, endpoint=False))
def test_a_damaged_byte_is_noticed(saved, place):
    # Half of the places lie in the header, half in the numbers.
    data = bytearray(saved.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    span = (0, header) if place < 0.5 else (header, len(data))
    at = span[0] + int((place * 2 % 1) * (span[1] - span[0]))
    data[at] ^= 0x15
    saved.write_bytes(data)
    refused(saved)


@pytest.mark.parametrize("kept", [0, 5, 200, 30_000])
def test_a_cut_file_is_noticed(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    assert "codec.safetensors" in refused(saved)


def metadata_of(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "codec.safetensors"
    save_file({"weight": np.zeros((2, 2), np.float32)}, path)
    assert "holds no CodecConfig weights" in refused(path)
    path.write_bytes(b"GIF89a" * 100)
    assert "cannot read" in refused(path)
    # What most other programs write: a type that numpy lacks.
    header = b'{"weight":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "holds no CodecConfig weights" in refused(path)
    path.unlink()
    path.mkdir()
    assert "cannot read" in refused(path)


def test_weights_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "codec.safetensors"
    denoiser = toy_model.params()["denoiser"]
    save_weights(path, denoiser, toy_model.MODEL.denoiser)
    assert "holds no CodecConfig weights" in refused(path)


def test_tensors_that_do_not_fit_their_configuration_are_named(tmp_path):
    path = tmp_path / "codec.safetensors"
    save_weights(path, tree(), MODELS["default"].codec)
    assert "is (16,) where (160,) belongs" in refused(path)
    lacking = {key: value for key, value in tree().items() if key != "statistics"}
    save_weights(path, lacking, CODEC)
    assert "tensor statistics/mean is None" in refused(path)
    more = tree() | {"extra": np.zeros(3, np.float32)}
    save_weights(path, more, CODEC)
    assert "tensor extra" in refused(path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        json.dumps({"depth": 3}),
        json.dumps({"channels": "many"}),
        json.dumps({"encoder_widths": [1]}),
        "[]",
    ],
)
def test_a_configuration_that_fits_nothing_is_refused(saved, text):
    with safe_open(saved, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, saved, metadata_of(saved) | {"config": text})
    assert "another version" in refused(saved)


@pytest.mark.parametrize("heads", [0, 5])
def test_a_denoiser_of_impossible_heads_is_refused(tmp_path, heads):
    path = tmp_path / "denoiser.safetensors"
    save_weights(path, toy_model.params()["denoiser"], toy_model.MODEL.denoiser)
    metadata = metadata_of(path)
    config = json.loads(metadata["config"]) | {"heads": heads}
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata | {"config": json.dumps(config)})

    def loader(path):
        init = functools.partial(init_denoiser, jax.random.key(0))
        return load_weights(path, DenoiserConfig, init)

    assert "another version" in refused(path, loader)


def test_a_folder_is_a_model(tmp_path):
    params = jax.device_get(toy_model.params())
    for kind, config in (
        ("codec", toy_model.MODEL.codec),
        ("denoiser", toy_model.MODEL.denoiser),
    ):
        save_weights(tmp_path / f"{kind}.safetensors", params[kind], config)
    model = load_model(str(tmp_path))
    assert model.config == toy_model.MODEL
    assert_same(model.params, params)
    before = model.sha256
    changed = jax.tree.map(lambda x: x * 2, params["denoiser"])
    save_weights(tmp_path / "denoiser.safetensors", changed, model.config.denoiser)
    assert load_model(str(tmp_path)).sha256 != before


def test_the_shipped_model_is_the_default_size():
    model = load_model("default")
    size = MODELS["default"]
    trained = dataclasses.replace(size.denoiser, stand_in=True, noise_offset=0.5)
    assert model.config == dataclasses.replace(size, denoiser=trained)
    for name, tensor in weights.flatten(model.params).items():
        assert tensor.dtype == np.float32 and np.isfinite(tensor).all(), name
    assert (model.params["codec"]["statistics"]["spread"] > 0).all()


def test_an_unknown_model_is_named():
    assert "no-such-model" in refused("no-such-model", load_model)
