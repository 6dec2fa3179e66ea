"""Warps, camera paths, and clips drawn from the frame store."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.data import camera_path, store
from mirage_jax.data.warp import warp as slow_warp

SIZE = (32, 32)
# Not op by op: one compile a test.
warp = jax.jit(slow_warp, static_argnums=(2, 3))
IDENTITY = jnp.eye(3)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def shifted(x: float = 0.0, y: float = 0.0) -> jax.Array:
    return jnp.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


@functools.cache
def sampler(draw, frames=8, probability=0.0, count=8, size=SIZE):
    return jax.jit(
        functools.partial(
            draw, count=count, frames=frames, size=size, anchor_probability=probability
        )
    )


def tiny_store(lengths, photos=2):
    """Every frame is grey and says its number in the store; neighbours differ."""
    total = sum(lengths)
    frames = np.zeros((total, 8, 8, 3), np.uint8)
    frames += np.arange(total, dtype=np.uint8)[:, None, None, None]
    return store.FrameStore(
        frames=frames,
        clip_start=np.cumsum([0, *lengths[:-1]]).astype(np.int32),
        clip_length=np.array(lengths, np.int32),
        clip_weight=np.ones(len(lengths), np.float32),
        photos=np.stack([picture(32, 32, i) for i in range(photos)]),
    )


def times_of(pictures, frames, probability, draws):
    """Frame numbers [draws, T] and anchored [draws]."""
    draw = jax.vmap(lambda d: store._draw_times(pictures, d, frames, probability))
    return jax.tree.map(
        np.asarray, jax.jit(draw)(jax.random.uniform(jax.random.key(0), (draws, 6)))
    )


@pytest.mark.parametrize("size", [(24, 24), (24, 32), (32, 24)])
def test_identity_is_the_largest_centred_crop(size):
    image = picture(*size)
    crop = image[(size[0] - 24) // 2 :, (size[1] - 24) // 2 :][:24, :24]
    np.testing.assert_allclose(
        warp(jnp.asarray(image), IDENTITY, (24, 24)), crop / 255.0, atol=1e-4
    )


def test_whole_pixel_shift_moves_pixels_and_mirrors_the_border():
    image = jnp.asarray(picture(16, 16))
    moved = warp(image, shifted(x=2 * 3 / 16), (16, 16))
    expected = jnp.concatenate([image[:, 3:], image[:, :-4:-1]], axis=1)
    np.testing.assert_allclose(moved, expected / 255.0, atol=1e-4)


def test_bytes_and_floats_warp_alike():
    image = jnp.asarray(picture(20, 28))
    maps = jnp.array([[0.7, -0.2, 0.1], [0.2, 0.7, -0.2], [0.1, 0.05, 1.0]])
    np.testing.assert_allclose(
        warp(image, maps, (12, 16)), warp(image / 255.0, maps, (12, 16)), atol=1e-6
    )


def test_batch_equals_singles_and_vmap():
    images = jnp.stack([jnp.asarray(picture(16, 16, i)) for i in range(3)])
    maps = jnp.stack([shifted(x=0.1 * i, y=-0.05 * i) for i in range(3)])
    batch = warp(images, maps, (8, 8))
    singles = jnp.stack([warp(i, m, (8, 8)) for i, m in zip(images, maps, strict=True)])
    mapped = jax.vmap(lambda i, m: warp(i, m, (8, 8)))(images, maps)
    np.testing.assert_allclose(batch, singles, atol=1e-6)
    np.testing.assert_allclose(batch, mapped, atol=1e-6)


def test_halving_averages_so_that_a_chequerboard_turns_grey():
    board = np.indices((32, 32)).sum(0) % 2 * 255
    image = jnp.asarray(np.repeat(board[..., None], 3, -1).astype(np.uint8))
    np.testing.assert_allclose(warp(image, IDENTITY, (16, 16)), 0.5, atol=1e-3)
    fine = warp(image, shifted(x=0.37 / 16), (16, 16))
    assert float(jnp.std(fine)) < 0.05


def test_warp_refuses_unequal_leading_axes():
    with pytest.raises(ValueError, match="leading axes"):
        warp(jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3)), SIZE)


def test_a_panned_path_is_a_shift_of_the_photograph():
    pose = jnp.zeros((5, camera_path.CHANNELS))
    pose = pose.at[:, camera_path.LOG_ZOOM].set(jnp.log(0.5))
    pose = pose.at[:, camera_path.PAN_X].set(jnp.arange(5) / 8)
    maps = camera_path.homographies(pose, (64, 64), (32, 32))
    photo = jnp.asarray(picture(64, 64))
    frames = warp(jnp.broadcast_to(photo, (5, 64, 64, 3)), maps, (32, 32), 1)
    for t in range(5):
        # Half of the picture is room: 16 pixels each way, so 1/8 of it is 2 pixels.
        expected = photo[16:48, 16 + 2 * t : 48 + 2 * t] / 255.0
        np.testing.assert_allclose(frames[t], expected, atol=1e-3)


def test_views_without_tilt_stay_inside_the_picture():
    draws = jax.random.uniform(jax.random.key(3), (64, camera_path.DRAWS))
    source, size = (48, 64), (32, 48)

    def corners(draws):
        pose = camera_path.poses(camera_path.draw_path(draws), jnp.arange(-200.0, 8.0))
        pose = pose.at[:, [camera_path.TILT_X, camera_path.TILT_Y]].set(0.0)
        maps = camera_path.homographies(pose, source, size)
        ends = jnp.array([[x, y, 1.0] for x in (-1.5, 1.5) for y in (-1.0, 1.0)])
        return jnp.einsum("tij,kj->tki", maps, ends)

    at = jax.jit(jax.vmap(corners))(draws)
    assert float(jnp.max(jnp.abs(at[..., 0]))) <= 64 / 48 + 1e-5
    assert float(jnp.max(jnp.abs(at[..., 1]))) <= 1 + 1e-5


def test_paths_range_from_still_to_fast():
    draws = jax.random.uniform(jax.random.key(4), (256, camera_path.DRAWS))

    def speed(draws):
        pose = camera_path.poses(camera_path.draw_path(draws), jnp.arange(8.0))
        maps = camera_path.homographies(pose, (64, 64), SIZE)
        return jnp.max(jnp.abs(jnp.diff(maps[:, :2, 2], axis=0)))

    speeds = np.asarray(jax.jit(jax.vmap(speed))(draws))
    assert 0.04 < np.mean(speeds == 0) < 0.3
    assert speeds.max() > 0.03
    assert speeds.max() < 0.3


@pytest.mark.parametrize("draw", [store.sample_clips, store.sample_paths])
def test_shapes_range_and_keys(draw):
    pictures = store.synthetic_store(jax.random.key(0))
    sample = sampler(draw, frames=3, count=2, size=(32, 64))
    first, again, other = (sample(pictures, jax.random.key(k)) for k in (1, 1, 2))
    assert first.frames.shape == (2, 3, 32, 64, 3)
    assert first.frames.dtype == jnp.float32
    assert first.anchored.shape == (2,)
    assert float(first.frames.min()) >= 0.0
    assert float(first.frames.max()) <= 1.0
    np.testing.assert_array_equal(first.frames, again.frames)
    assert float(jnp.abs(first.frames - other.frames).mean()) > 0.01


@pytest.mark.parametrize("lengths", [(100, 30, 40), (9, 17), (1, 2, 3), (5,)])
def test_frames_stay_inside_one_clip(lengths):
    pictures = tiny_store(lengths)
    position, anchored = times_of(pictures, 8, 0.5, 512)
    clip = np.searchsorted(pictures.clip_start, position[:, 0], side="right") - 1
    start = pictures.clip_start[clip][:, None]
    assert (position >= start).all()
    assert (position < start + pictures.clip_length[clip][:, None]).all()
    assert set(clip) == set(range(len(lengths)))
    step = np.abs(np.diff(position[:, 1:], axis=1))
    assert step.max() <= 3
    if min(lengths) > 24:
        assert (step == step[:, :1]).all()
        assert set(step[:, 0]) == {1, 2, 3}
        assert 0.3 < np.mean(np.diff(position[:, 1:3]) > 0) < 0.7


def test_anchors_come_from_much_earlier():
    position, anchored = times_of(tiny_store((250,)), 8, 0.5, 512)
    assert 0.4 < anchored.mean() < 0.6
    stride = np.abs(position[:, 2] - position[:, 1])
    gap = np.abs(position[:, 1] - position[:, 0]) // stride
    assert (gap[~anchored] == 1).all()
    assert gap[anchored].min() == 8
    assert 60 < gap[anchored].max() <= 200


def test_short_clips_have_no_anchors():
    _, anchored = times_of(tiny_store((12,)), 8, 1.0, 64)
    assert not anchored.any()


@pytest.mark.parametrize("draw", [store.sample_clips, store.sample_paths])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_anchored_flag_follows_the_probability(draw, probability):
    pictures = store.synthetic_store(jax.random.key(0), 1, 64)
    clip = sampler(draw, 4, probability)(pictures, jax.random.key(5))
    assert (np.asarray(clip.anchored) == (probability == 1.0)).all()


def test_augmentation_is_the_same_for_all_frames_of_a_clip():
    frame = picture(24, 32)
    pictures = tiny_store((20,)).replace(frames=np.stack([frame] * 20))
    clip = sampler(store.sample_clips)(pictures, jax.random.key(7))
    frames = np.asarray(clip.frames)
    np.testing.assert_allclose(frames - frames[:, :1], 0.0, atol=1e-5)
    assert np.abs(frames[0, 0] - frames[1, 0]).mean() > 0.02


def test_empty_stores_are_refused():
    empty = tiny_store((8,), photos=1)
    empty = empty.replace(frames=empty.frames[:0], photos=empty.photos[:0])
    with pytest.raises(ValueError, match="no clips"):
        store.sample_clips(empty, jax.random.key(0), 1, 2, SIZE)
    with pytest.raises(ValueError, match="no photographs"):
        store.sample_paths(empty, jax.random.key(0), 1, 2, SIZE)
