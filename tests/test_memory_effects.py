"""Properties of the effects that need the frames before."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.data.filters import blur
from mirage_jax.data.teachers import apply_long, comparable_styles, find_style

NAMES = ("low_light", "light_trails", "signal_loss")
KEY = jax.random.key(3)
SIZE = 64


def effect(name):
    return find_style(name, comparable_styles())


@functools.cache
def compiled(name):
    """The effect, compiled once a shape for all tests."""
    return jax.jit(effect(name).apply)


def moving_clip(count, size=SIZE):
    """A bright square that moves over a coloured ramp, a few pixels a frame."""
    down, right = np.mgrid[0:size, 0:size] / size
    ground = np.stack([right, down, 0.5 + 0 * down], axis=-1) * 0.7
    frames = []
    for t in range(count):
        left = (0.1 + 0.03 * t) % 0.8
        inside = (right > left) & (right < left + 0.2) & (down > 0.3) & (down < 0.6)
        frames.append(np.where(inside[..., None], 0.95, ground))
    return np.stack(frames).astype(np.float32)


def still_clip(count, size=SIZE):
    return np.broadcast_to(moving_clip(1, size), (count, size, size, 3)).copy()


def lost_frames(source):
    return np.asarray(source).max(axis=(1, 2, 3)) == 0.0


def psnr(one, other):
    return -10 * np.log10(np.mean(np.square(np.asarray(one) - np.asarray(other))))


@pytest.mark.parametrize("name", NAMES)
def test_range_shape_and_type(name):
    frames = moving_clip(8)
    for result in compiled(name)(frames, jnp.arange(8), KEY):
        assert result.shape == frames.shape
        assert result.dtype == jnp.float32
        assert float(result.min()) >= 0.0
        assert float(result.max()) <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_chunks_do_not_matter(name):
    frames = moving_clip(16)
    whole = apply_long(effect(name), frames, KEY, chunk=16)
    parts = apply_long(effect(name), frames, KEY, chunk=6)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_context_of_the_stated_history_is_enough(name):
    history = effect(name).history
    frames = moving_clip(32)
    index = np.arange(32, dtype=np.int32)
    whole = compiled(name)(frames, index, KEY)
    # Every start, so that lost runs cross the cut in all ways.
    for start in range(history, 30):
        part = slice(start - history, start + 2)
        chunk = compiled(name)(frames[part], index[part], KEY)
        for one, other in zip(whole, chunk, strict=True):
            np.testing.assert_allclose(
                one[start : start + 2], other[history:], atol=2e-6
            )


@pytest.mark.parametrize("name", NAMES)
def test_repeats_exactly_and_can_be_vmapped(name):
    frames = jnp.asarray(np.stack([moving_clip(8), moving_clip(8)[::-1]]))
    index = jnp.arange(8)
    keys = jax.random.split(KEY, 2)
    batched = jax.jit(jax.vmap(effect(name).apply, in_axes=(0, None, 0)))
    together = batched(frames, index, keys)
    for one, other in zip(together, batched(frames, index, keys), strict=True):
        np.testing.assert_array_equal(one, other)
    alone = compiled(name)(frames[1], index, keys[1])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one[1], other, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_target_of_a_still_clip_is_still(name):
    _, styled = compiled(name)(still_clip(8), jnp.arange(8), KEY)
    for frame in styled[1:]:
        np.testing.assert_allclose(frame, styled[0], atol=1e-6)


def test_low_light_noise_depends_on_key_and_number():
    frames = still_clip(2)
    low_light = compiled("low_light")
    source, _ = low_light(frames, jnp.asarray([4, 5]), KEY)
    later, _ = low_light(frames, jnp.asarray([5, 6]), KEY)
    np.testing.assert_array_equal(source[1], later[0])
    assert np.abs(source[0] - source[1]).mean() > 0.03
    other, _ = low_light(frames, jnp.asarray([4, 5]), jax.random.key(4))
    assert np.abs(source[0] - other[0]).mean() > 0.03


def test_low_light_needs_more_than_one_frame():
    """Eight frames give at least 2 dB more than one, each with its best blur."""
    frames = still_clip(8, 128)
    source, _ = compiled("low_light")(frames, jnp.arange(8), KEY)
    assert float(source.mean()) < 0.5 * frames.mean()

    def best(picture):
        return max(
            psnr(jnp.clip((blur(picture, width) - 0.06) / 0.25, 0, 1), frames[0])
            for width in (0.002, 0.004, 0.008, 0.015, 0.03, 0.06)
        )

    assert best(source.mean(axis=0)) - best(source[0]) > 2.0


def test_low_light_has_as_much_noise_at_every_size():
    spreads = []
    for size in (128, 256):
        frames = np.full((1, size, size, 3), 0.9, np.float32)
        source, _ = compiled("low_light")(frames, jnp.arange(1), KEY)
        spreads.append(float(source.std()))
    assert max(spreads) < 1.15 * min(spreads)


def test_light_trails_show_only_what_moved():
    trails = compiled("light_trails")
    moving = moving_clip(8, 96)
    source, styled = trails(moving, jnp.arange(8), KEY)
    np.testing.assert_array_equal(source, moving)
    # The very frame without a past gives the scene without any light.
    _, alone = trails(moving[7:], jnp.arange(7, 8), KEY)
    light = np.asarray(styled[7] - alone[0])
    assert light[30:58].max() > 0.5
    assert np.abs(light[80:]).max() < 0.02
    # What moved six frames ago has faded away.
    stopped = np.concatenate([moving, np.repeat(moving[7:], 6, axis=0)])
    _, after = trails(stopped, jnp.arange(14), KEY)
    np.testing.assert_allclose(after[13], alone[0], atol=1e-5)


def test_light_trails_ignore_camera_noise():
    noise = np.random.default_rng(0).normal(scale=0.01, size=(4, 128, 128, 3))
    frames = np.clip(0.5 + noise, 0, 1).astype(np.float32)
    _, styled = compiled("light_trails")(frames, jnp.arange(4), KEY)
    _, alone = compiled("light_trails")(frames[3:], jnp.arange(3, 4), KEY)
    assert np.abs(styled[3] - alone[0]).max() < 0.02


def test_signal_loss_holds_the_last_good_picture():
    frames = moving_clip(64, 32)
    share = []
    for seed in range(12):
        key = jax.random.key(seed)
        source, styled = compiled("signal_loss")(frames, jnp.arange(64), key)
        lost = lost_frames(source)
        share.append(lost.mean())
        assert not lost[0]
        run = 0
        for t in range(64):
            run = run + 1 if lost[t] else 0
            assert run <= 4
            if lost[t]:
                np.testing.assert_array_equal(styled[t], styled[t - 1])
                assert float(source[t].std()) == 0.0
            else:
                np.testing.assert_array_equal(source[t], frames[t])
                if t and not lost[t - 1]:
                    assert np.abs(styled[t] - styled[t - 1]).max() > 0.1
    assert 0.25 < np.mean(share) < 0.35


def test_signal_loss_differs_between_clips():
    frames = moving_clip(64, 32)
    patterns = set()
    for seed in range(6):
        source, _ = compiled("signal_loss")(
            frames, jnp.arange(64), jax.random.key(seed)
        )
        patterns.add(tuple(lost_frames(source)))
    assert len(patterns) == 6
