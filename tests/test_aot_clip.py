"""Training clips on a GPU: our kernel forward and backward, and nothing of it twice."""

import re

import jax
import jax.numpy as jnp
import pytest

from mirage_jax.config import model_config
from mirage_jax.denoiser import denoise_clip, init_denoiser
from pallas_kernels.targets import H100, RTX_3090, Target, compile_for, plugin_missing

missing = plugin_missing()
pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(missing is not None, reason=str(missing)),
    pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache"),
]

MODEL = model_config("test")


def compiled(target: Target, remat: str) -> str:
    """The gradient of a clip's loss with respect to the weights, as text."""
    params = jax.eval_shape(lambda key: init_denoiser(key, MODEL), jax.random.key(0))
    rows, frames = 2, 4
    shape = (rows, frames, 4, 4, MODEL.codec.channels)
    f32 = jnp.float32

    def loss(params, noisy, source, present, tau, size, prompt, anchored):
        found = denoise_clip(
            *(params, MODEL, noisy, source, present, tau, size, prompt, anchored),
            dtype=jnp.bfloat16,
            remat=remat,
        )
        return jnp.square(found).mean()

    operands = [
        jax.ShapeDtypeStruct(shape, f32),
        jax.ShapeDtypeStruct(shape, f32),
        jax.ShapeDtypeStruct(shape[:2], bool),
        jax.ShapeDtypeStruct(shape[:2], f32),
        jax.ShapeDtypeStruct(shape[:2], f32),
        jax.ShapeDtypeStruct((rows, 384), f32),
        jax.ShapeDtypeStruct((rows,), bool),
    ]
    return compile_for(target, jax.grad(loss), params, *operands).as_text()


def kernels(text: str) -> list[str]:
    """Names of our kernels' calls."""
    calls = [line for line in text.splitlines() if "custom-call(" in line]
    found = (re.search(r"(frame_attention\w*)/pallas_call", line) for line in calls)
    return [name[1] for name in found if name]


@pytest.mark.parametrize(("remat", "forward"), [("none", 1), ("light", 1), ("full", 2)])
@pytest.mark.parametrize("target", [RTX_3090, H100], ids=lambda t: t.file)
def test_what_runs_again_for_the_gradient(target, remat, forward):
    found = kernels(compiled(target, remat))
    assert found.count("frame_attention") == forward, "one loop body for all layers"
    assert found.count("frame_attention_keys_and_values") == 1
    assert found.count("frame_attention_queries") == 1
