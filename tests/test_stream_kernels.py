"""The frame loop on the Triton kernels, run by the interpreter, is the same loop."""

import functools

import jax
import numpy as np
import pytest
from toy_model import RING, frames, play, settings

from pallas_kernels.frame_attention import api as attention
from pallas_kernels.frame_attention import triton as attention_triton
from pallas_kernels.linear_8bit import api as linear
from pallas_kernels.linear_8bit import triton as linear_triton
from pallas_kernels.modulated_norm import triton as norms
from pallas_kernels.qk_norm_rope_commit import api as commit
from pallas_kernels.qk_norm_rope_commit import triton as commit_triton
from pallas_kernels.quantise import api as quantise
from pallas_kernels.quantise import triton as quantise_triton

CLOSE = 2e-4  # float32 through two layers, differently fused


@pytest.fixture
def interpreted(monkeypatch):
    norm = functools.partial(norms.gated_residual_norm, interpret=True)
    monkeypatch.setattr(norms, "gated_residual_norm", norm)
    for api, function in (
        (attention, attention_triton.attend),
        (commit, commit_triton.qk_norm_rope_commit),
        (linear, linear_triton.linear_8bit),
        (quantise, quantise_triton.quantise),
    ):
        interpreted = functools.partial(function, interpret=True)
        monkeypatch.setitem(api._BACKENDS, "triton", interpreted)


@pytest.mark.parametrize("commit", ["merged", "lagged"])
def test_the_stream_is_the_same_on_triton_kernels(commit, interpreted):
    clip = frames(RING + 3)
    found = play(settings(commit=commit, attention="triton", kernels="triton"), clip)
    wanted = play(settings(commit=commit), clip)
    np.testing.assert_allclose(found[1], wanted[1], atol=CLOSE)
    # The memory too: what was committed is what the next frames will read.
    np.testing.assert_allclose(found[2].cache.k, wanted[2].cache.k, atol=CLOSE)
    np.testing.assert_allclose(found[2].cache.v, wanted[2].cache.v, atol=CLOSE)


@pytest.mark.parametrize("to", ["int8", "float8_e4m3fn"])
def test_the_stream_in_8_bits_is_the_same_on_triton_kernels(to, interpreted):
    clip = frames(3)
    names = dict.fromkeys(("attention", "kernels", "linear"), "triton")
    found = play(settings(eight_bit=to, **names), clip)[1]
    wanted = play(settings(eight_bit=to), clip)[1]
    # Some numbers fall on the other side of a rounding edge.
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert error < {"int8": 0.01, "float8_e4m3fn": 0.04}[to]


def test_a_card_that_cannot_says_so():
    if jax.default_backend() == "gpu":
        pytest.skip("this machine has a GPU")
    with pytest.raises(NotImplementedError, match="Ampere"):
        play(settings(kernels="triton", steps=4), frames(1))
