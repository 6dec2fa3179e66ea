"""The table of chips against itself and what else the project says about them."""

import math

import pytest

from mirage_jax.chips import CHIPS, KINDS, PRECISIONS, chip_of, measured_chip
from mirage_jax.errors import MirageError


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_is_whole_and_has_its_sources(name):
    chip = CHIPS[name]
    assert {"bfloat16", "int8"} <= set(chip.rates) <= set(PRECISIONS)
    assert chip.rate("int8") >= 2 * chip.rate("bfloat16") * 0.999
    assert 1e11 < chip.bandwidth < 1e13 and chip.l2 < chip.memory / 100
    assert all(source.startswith("https://") for source in chip.sources)
    assert chip.sources and chip_of(name) is chip


def test_geforce_halves_floats_that_are_summed_in_float32():
    for name in ("rtx3090", "rtx4090"):
        chip = CHIPS[name]
        assert chip.rate("int8") == pytest.approx(4 * chip.rate("bfloat16"), rel=0.01)


def test_chips_by_the_names_that_jax_gives():
    assert set(KINDS.values()) == set(CHIPS)
    assert chip_of("NVIDIA H100 80GB HBM3") is CHIPS["h100"]
    with pytest.raises(MirageError, match="no chip 'tpu': take one of rtx3090"):
        chip_of("tpu")


@pytest.mark.parametrize("name", ["rtx3090", "a100_80gb"])
def test_a_precision_that_a_chip_lacks_is_refused(name):
    with pytest.raises(MirageError, match="float8_e4m3fn: take one of bfloat16, int8"):
        CHIPS[name].rate("float8_e4m3fn")


def test_measured_ceilings_keep_the_known_caches():
    known = measured_chip("NVIDIA H100 80GB HBM3", 2e12, 6e14)
    assert (known.bandwidth, known.l2) == (2e12, CHIPS["h100"].l2)
    assert known.rate("int8") == known.rate("float8_e4m3fn") == 12e14
    assert measured_chip("some card", 1.0, 1.0).l2 == math.inf
