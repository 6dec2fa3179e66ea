"""Our model in PyTorch makes what the library makes; skipped without PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import cache as frame_cache
from mirage_jax import codec
from mirage_jax.config import MODELS
from mirage_jax.cost_model import count_parameters
from mirage_jax.denoiser import denoise_frame
from tests import toy_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from experiments.peers.rivals import RIVALS, Settings  # noqa: E402
from experiments.peers.torch_stream import Memory, TorchStream  # noqa: E402
from experiments.peers.torch_weights import count, drawn, loaded, on_torch  # noqa: E402

MODEL, SIDE = toy_model.MODEL, toy_model.SIDE
TOY = Settings("test", SIDE, 1, "eager", on_gpu=False)


def played(frames, anchor):
    """A stream's state after some frames; fewer than the ring has leave slots empty."""
    stream = toy_model.settings(anchor=anchor)
    return toy_model.play(stream, toy_model.frames(frames))[2]


def in_torch(state):
    """The same stream in PyTorch, float32."""
    cache = state.cache
    memory = Memory(
        on_torch(cache.k[:, 0]),
        on_torch(cache.v[:, 0]),
        on_torch(cache.age[0]).long(),
        on_torch(cache.cursor).long(),
    )
    weights = loaded(toy_model.params(), torch.float32)
    stream = TorchStream(MODEL, weights, memory, SIDE, "eager")
    stream.shared = on_torch(state.schedule.blocks[0, 0])
    stream.last = on_torch(state.schedule.head[0, 0])
    return stream


@jax.jit
def library_pass(noisy, source, state):
    denoiser = toy_model.params()["denoiser"]
    cache = frame_cache.advance(state.cache)
    latents, cache = denoise_frame(
        denoiser,
        MODEL,
        noisy[None, None],
        source[None, None],
        jnp.ones((1, 1), bool),
        state.schedule,
        cache,
        cache.prompt(MODEL.denoiser),
        frame_cache.age_bias(denoiser["slot_bias"], cache.age),
        backend="xla",
        unroll=False,
    )
    return latents[0, 0], cache


def same(found, wanted, tolerance=2e-5):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


# 2 frames leave slots empty, 7 fill the ring of 3 twice and let the anchor be seen.
@pytest.mark.parametrize("frames, anchor", [(2, False), (7, True)])
def test_a_pass_and_its_commit_are_those_of_the_library(frames, anchor):
    state = played(frames, anchor)
    stream = in_torch(state)
    random = np.random.default_rng(0)
    noisy, source = random.normal(size=(2, *toy_model.CELLS)).astype(np.float32)
    with torch.no_grad():
        found = stream.denoise(on_torch(noisy), on_torch(source), True)
    wanted, cache = library_pass(noisy, source, state)
    assert float(jnp.std(wanted)) > 0.3  # else anything would be near it
    same(found, wanted)
    same(stream.memory.k, cache.k[:, 0])
    same(stream.memory.v, cache.v[:, 0])
    assert stream.memory.age.tolist() == cache.age[0].tolist()
    assert int(stream.memory.cursor) == int(cache.cursor)
    # The mask is what tells them apart: without it the latents are others.
    other = in_torch(state)
    with torch.no_grad():
        bare = other.denoise(on_torch(noisy), on_torch(source), False)
    assert float((bare - found).abs().max()) > 1e-2


def test_a_frame_from_bytes_to_bytes_is_that_of_the_library():
    state = played(2, False)
    stream = in_torch(state)
    source = toy_model.frames(1)[0, 0]
    torch.manual_seed(5)
    with torch.no_grad():
        found = stream.frame(torch.from_numpy(source), True)
    torch.manual_seed(5)
    noise = torch.randn(toy_model.CELLS).numpy()
    params = toy_model.params()["codec"]
    latent = codec.encode(params, jnp.asarray(source / 255, jnp.float32), MODEL.codec)
    styled, _ = library_pass(noise, latent, state)
    picture = codec.decode(params, styled, MODEL.codec)
    wanted = np.asarray(jnp.round(jnp.clip(picture, 0, 1) * 255)).astype(int)
    assert 10 < wanted.std() < 245
    difference = np.abs(found.numpy().astype(int) - wanted)
    # Half-way values may be rounded to either side.
    assert difference.max() <= 1 and difference.mean() < 0.01


def test_random_weights_have_the_shapes_of_the_librarys():
    weights = drawn(MODEL, torch.bfloat16, "cpu")
    library = loaded(toy_model.params(), torch.bfloat16)
    both = jax.tree.map(
        lambda x, y: (x.shape, x.dtype, y.shape, y.dtype), weights, library
    )
    for shape, dtype, wanted, of in jax.tree.leaves(
        both, is_leaf=lambda x: isinstance(x, tuple)
    ):
        assert (shape, dtype) == (wanted, of)
    assert count(weights) == sum(x.size for x in jax.tree.leaves(toy_model.params()))
    for name in ("test", "lsd_880m"):
        shapes = drawn(MODELS[name], torch.bfloat16, "meta")
        assert count(shapes["denoiser"]) == count_parameters(MODELS[name])
    down = weights["denoiser"]["blocks"]["down"]["kernel"].float()
    assert 0.9 < float(down.std()) * down.shape[1] ** 0.5 < 1.1


def test_the_u_net_has_the_size_of_sd_turbos():
    pytest.importorskip("diffusers")
    from experiments.peers.sd_turbo import UNET, pipeline

    pipe = pipeline(on_gpu=True, device="meta")  # shapes alone
    assert sum(part.numel() for part in pipe.unet.parameters()) == 865_910_724
    latent = pipe.encode(torch.empty(512, 512, 3, dtype=torch.uint8, device="meta"))
    assert latent.shape == (1, 4, UNET["sample_size"], UNET["sample_size"])
    picture = pipe.decode(pipe.denoise(latent, torch.randn_like(latent)))
    assert picture.shape == (512, 512, 3) and picture.dtype == torch.uint8


@pytest.mark.parametrize("name", ["torch_dit", "sd_turbo_unet_taesd"])
def test_toys_are_measured(name):
    for package in RIVALS[name].needs:
        pytest.importorskip(package)
    found = RIVALS[name].measure(name, TOY)
    assert found.times[name].p50 > 0 and found.parameters > 0
    assert all(0 < error < 0.03 for error in found.errors.values())
    if name == "torch_dit":
        assert found.errors.keys() == {"torch_dit_pass", "torch_dit_no_bias_pass"}
        assert found.setup["incomplete"] == ["torch_dit_no_bias"]
