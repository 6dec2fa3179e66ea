"""The commit: the kernel is the definition, and touches only its own slots."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.transformer import rms_norm, rope_angles, rotate
from pallas_kernels.qk_norm_rope_commit import qk_norm_rope_commit, triton
from pallas_kernels.qk_norm_rope_commit.problem import (
    Config,
    Problem,
    default_config,
    search_space,
)
from pallas_kernels.qk_norm_rope_commit.reference import (
    qk_norm_rope_commit as definition,
)

# name: batch, groups, tokens, heads, width, layers, prompt keys, slots
SHAPES = {
    "one_frame": (1, 1, 4, 2, 16, 2, 4, 3),
    "lagged": (2, 2, 9, 1, 8, 1, 3, 4),
    "odd_tokens": (3, 1, 49, 2, 64, 2, 7, 3),
    "head_96": (1, 1, 6, 2, 96, 1, 0, 2),
    "head_128": (1, 2, 16, 1, 128, 2, 8, 3),
}
CASES = [pytest.param(shape, id=name) for name, shape in SHAPES.items()]
# Both compute in float32 and round once, which bfloat16 may do to either side.
TOLERANCE = {"float32": 5e-6, "bfloat16": 2**-6}


def operands(shape, dtype="float32"):
    batch, groups, tokens, heads, width, layers, prompt, slots = shape
    rng = np.random.default_rng(0)

    def draw(*dims: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=dims), dtype)

    keys, queries = prompt + slots * tokens, groups * tokens
    angles = 3 * rng.normal(size=(queries, width // 2))
    # Ring slots in any order: the last one first.
    starts = [prompt + (slots - 1 - group) * tokens for group in range(groups)]
    return (
        draw(batch, queries, 3, heads, width),
        1 + 0.2 * draw(layers, width),
        1 + 0.2 * draw(layers, width),
        jnp.asarray(np.cos(angles), jnp.float32),
        jnp.asarray(np.sin(angles), jnp.float32),
        draw(layers, batch, keys, heads, width),
        draw(layers, batch, keys, heads, width),
        jnp.int32(layers - 1),
        jnp.asarray(starts, jnp.int32),
    )


def run(values, config=None):
    call = functools.partial(triton.qk_norm_rope_commit, config=config, interpret=True)
    return jax.jit(call)(*values)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", CASES)
def test_the_kernel_is_the_definition(shape, dtype):
    values = operands(shape, dtype)
    wanted = jax.jit(definition)(*values)
    for config in (None, Config(4, 2)):
        for one, other in zip(run(values, config), wanted, strict=True):
            assert one.dtype == other.dtype == dtype and one.shape == other.shape
            np.testing.assert_allclose(
                np.asarray(one, np.float32),
                np.asarray(other, np.float32),
                atol=TOLERANCE[dtype],
            )


@pytest.mark.parametrize("shape", CASES)
def test_nothing_else_of_the_cache_is_touched(shape):
    values = operands(shape)
    batch, groups, tokens, heads, width, layers, _, _ = shape
    for before, after in zip(values[5:7], run(values)[1:], strict=True):
        gap = np.abs(np.asarray(after) - np.asarray(before))
        changed = gap.max(axis=(3, 4)) > 0  # [L, B, M]
        assert not changed[:-1].any(), "another layer"
        own = np.zeros(changed.shape[2], bool)
        for start in np.asarray(values[8]):
            own[start : start + tokens] = True
        assert changed[-1][:, own].all() and not changed[-1][:, ~own].any()


def test_the_definition_is_what_the_model_computes():
    batch, groups, tokens, heads, width, layers, prompt, slots = SHAPES["odd_tokens"]
    values = operands(SHAPES["odd_tokens"])
    qkv, q_scale, k_scale = values[:3]
    angles = rope_angles(7, 7, width)
    cache, place = values[5:7], values[7:]
    q, k, v = qk_norm_rope_commit(
        qkv, q_scale, k_scale, jnp.cos(angles), jnp.sin(angles), *cache, *place
    )
    wanted = rotate(rms_norm(qkv[:, :, 0], q_scale[-1]), angles)
    np.testing.assert_allclose(q, wanted, atol=2e-6)
    start = int(values[8][0])
    frame = slice(start, start + tokens)
    wanted = rotate(rms_norm(qkv[:, :, 1], k_scale[-1]), angles)
    np.testing.assert_allclose(k[-1][:, frame], wanted, atol=2e-6)
    np.testing.assert_array_equal(v[-1][:, frame], qkv[:, :, 2])


@pytest.mark.parametrize(
    "place, change, named",
    [
        (0, lambda x: x[:, :, :2], "qkv.shape"),
        (0, lambda x: x[..., :15], "even E"),
        (1, lambda x: x[0], "q_scale.shape"),
        (3, lambda x: x[:, :3], "cos.shape"),
        (6, lambda x: x[:, :, :5], "v_slots.shape"),
        (8, lambda x: jnp.zeros(3, jnp.int32), "starts.shape"),
    ],
)
def test_what_does_not_fit_is_refused(place, change, named):
    values = list(operands(SHAPES["one_frame"]))
    values[place] = change(values[place])
    with pytest.raises(ValueError, match=named):
        qk_norm_rope_commit(*values)


def test_backends_are_known_by_name():
    values = operands(SHAPES["one_frame"])
    with pytest.raises(ValueError, match="backend='cuda'"):
        qk_norm_rope_commit(*values, backend="cuda")
    if jax.default_backend() != "gpu":
        with pytest.raises(NotImplementedError, match="Ampere"):
            qk_norm_rope_commit(*values, backend="triton")
    integers = values[0].astype(jnp.int32)
    with pytest.raises(NotImplementedError, match="int32"):
        triton.qk_norm_rope_commit(integers, *values[1:], interpret=True)


@pytest.mark.parametrize("change", [{"rows": 12}, {"num_warps": 16}])
def test_configurations_check_themselves(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Config(**change)


def test_the_default_is_among_what_is_searched():
    problem = Problem(1, 1, 256, 12, 128, 30, 2080)
    assert default_config(problem) in search_space(problem)
