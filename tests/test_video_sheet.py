"""The contact sheet shows evenly spaced pairs and holds little."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from video_clips import counting

from mirage_jax.video.sheet import ContactSheet


@given(frames=st.integers(1, 90), columns=st.integers(1, 7))
def test_pairs_are_evenly_spaced_and_few(frames, columns):
    sheet = ContactSheet(columns, cell=16)
    for index in range(frames):
        sheet.add(counting(16, 16)(index), counting(16, 16)(index), float(index))
    times = [time for time, _, _ in sheet.pairs()]
    assert len(times) == min(columns, frames)
    assert times[0] == 0
    gaps = np.diff(times)
    if len(gaps):
        assert gaps.min() > 0
        assert gaps.max() <= 2 * gaps.min() + 1
        # The last pair comes from the last part of the run.
        assert frames - 1 - times[-1] <= gaps.max()
    assert sheet.kept <= 2 * columns


def test_source_is_above_styled(tmp_path):
    sheet = ContactSheet(columns=3, cell=64)
    source = np.full((32, 64, 3), 250, np.uint8)
    styled = np.full((32, 64, 3), (250, 0, 0), np.uint8)
    for index in range(3):
        sheet.add(source, styled, index / 2)
    sheet.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image)
    white = (pixels == 250).all(axis=-1)
    red = (pixels == (250, 0, 0)).all(axis=-1)
    assert white.sum() == red.sum() == 3 * 32 * 64
    assert np.nonzero(white)[0].max() < np.nonzero(red)[0].min()


def test_an_empty_sheet_is_an_error():
    with pytest.raises(ValueError, match="no frame"):
        ContactSheet().render()
    with pytest.raises(ValueError, match="columns=0"):
        ContactSheet(columns=0)
