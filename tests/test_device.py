"""A card that is only pretended."""

import pytest

from mirage_jax.chips import chip_of
from pallas_kernels import device
from pallas_kernels.targets import RTX_3090, TARGETS, Target


def test_a_pretended_card_is_present_until_the_end_even_of_a_failure() -> None:
    before = device.present()
    with pytest.raises(ValueError), device.pretended(RTX_3090.device):
        assert device.present() == RTX_3090.device
        raise ValueError
    assert device.present() == before


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.file)
def test_what_is_compiled_for_is_the_chip_of_the_table(target: Target) -> None:
    chip = chip_of(target.device.kind)
    described = dict(
        line.strip().split(": ", 1)
        for line in target.description.splitlines()
        if ": " in line and not line.startswith("#")
    )
    assert int(described["l2_cache_size"]) == chip.l2
    assert float(described["memory_bandwidth"]) == pytest.approx(
        chip.bandwidth, rel=0.01
    )
    assert 0.95 < float(described["device_memory_size"]) / chip.memory <= 1.0
    assert int(described["core_count"]) == target.device.cores
