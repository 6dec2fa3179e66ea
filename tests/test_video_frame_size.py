"""Every picture can be fitted into every size that the model takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_jax.errors import MirageError
from mirage_jax.video.frame_size import check_size, fit_frame, parse_size

sides = st.integers(1, 150)
model_sides = st.integers(2, 8).map(lambda n: 32 * n)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", (512, 512)),
        (256, (256, 256)),
        ("288x512", (288, 512)),
        (" 64 X 96 ", (64, 96)),
    ],
)
def test_a_size_is_height_by_width(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("500", "the nearest is 512"),
        ("512x289", "the nearest is 288"),
        ("32", "the nearest is 64"),
        ("0", "the nearest is 64"),
        ("99999", "the nearest is 4096"),
        ("", "not a size"),
        ("512x", "not a size"),
        ("-512", "not a size"),
        ("wide", "not a size"),
        ("9" * 5000, "not a size"),
    ],
)
def test_a_size_that_does_not_fit_is_named_with_its_cure(text, part):
    with pytest.raises(MirageError, match=part) as caught:
        parse_size(text)
    assert len(str(caught.value)) < 200


@given(side=st.integers(-100, 5000))
def test_sizes_are_multiples_of_32_from_64_on(side):
    if side % 32 == 0 and 64 <= side <= 4096:
        check_size(side, side)
    else:
        with pytest.raises(MirageError):
            check_size(side, 64)


@given(sides, sides, model_sides, model_sides, st.sampled_from(["crop", "pad"]))
def test_a_picture_of_one_colour_keeps_it(rows, columns, height, width, fit):
    image = np.full((rows, columns, 3), (200, 10, 90), np.uint8)
    fitted = fit_frame(image, height, width, fit)
    assert fitted.shape == (height, width, 3)
    assert fitted.dtype == np.uint8
    is_colour = (fitted == (200, 10, 90)).all(axis=-1)
    if fit == "crop":
        assert is_colour.all()
    else:  # one bar pair at most, of the right size
        scale = min(height / rows, width / columns)
        inner = max(1, round(rows * scale)) * max(1, round(columns * scale))
        assert is_colour.sum() == inner
        assert (is_colour | (fitted == 0).all(axis=-1)).all()


@given(model_sides, model_sides)
def test_a_picture_of_the_right_size_is_untouched(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for fit in ("crop", "pad"):
        np.testing.assert_array_equal(fit_frame(image, height, width, fit), image)


@given(st.integers(64, 130), st.booleans())
def test_cropping_one_side_keeps_the_middle_pixels(side, tall):
    image = np.random.default_rng(0).integers(0, 256, (64, side, 3), np.uint8)
    start = (side - 64) // 2
    middle = image[:, start : start + 64]
    if tall:
        image, middle = image.transpose(1, 0, 2), middle.transpose(1, 0, 2)
    np.testing.assert_array_equal(fit_frame(image, 64, 64), middle)


def test_crop_is_centred_when_it_scales():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    assert (fit_frame(image, 64, 64)[:, 1:-1] == 255).all()


def test_an_unknown_fit_is_named():
    with pytest.raises(MirageError, match="'stretch'"):
        fit_frame(np.zeros((4, 4, 3), np.uint8), 64, 64, "stretch")
