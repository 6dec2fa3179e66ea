"""A projection is the floor of another chip over the shares that were reached."""

import pytest

from mirage_jax.chips import Chip
from mirage_jax.cost_model import Stage
from mirage_jax.projection import Measurement, Piece, bound_of, projected_ms


def chip(bandwidth, rate):
    return Chip("of a test", bandwidth, {"bfloat16": rate}, 2**40, 2**40, ())


# A second a byte and a second an operation; the other chip is slow at products.
HERE, THERE = chip(1.0, 1.0), chip(2.0, 0.1)
READING = Stage("up", "bfloat16", weight_bytes=8, flops=2)
WORKING = Stage("attention", "bfloat16", cache_bytes=1, flops=4)
CODING = Stage("encode", "bfloat16", frame_bytes=1, flops=3)


def measurement(memory=0.5, compute=0.25, codec=0.1):
    """The three stages, each at such a share of its floor's speed."""
    return Measurement(
        HERE,
        "a test",
        (
            Piece("reading", (READING,), 8e3 / memory),
            Piece("working", (WORKING,), 4e3 / compute),
            Piece("coding", (CODING,), 3e3 / codec),
        ),
    )


def test_what_bounds_stages_depends_on_the_chip():
    assert bound_of([READING], HERE) == "memory"
    assert bound_of([WORKING], HERE) == bound_of([READING], THERE) == "compute"
    assert bound_of([READING, WORKING], HERE) == "memory"


def test_where_it_was_measured_the_projection_is_the_measurement():
    measured = measurement()
    for piece in measured.pieces:
        found = projected_ms(piece.stages, measured, HERE)
        assert found == pytest.approx(piece.milliseconds)


def test_a_stage_takes_the_share_of_the_class_that_it_is_of_there():
    measured = measurement()
    # READING takes 4 s of memory and 20 s of products there: the share of WORKING.
    assert projected_ms([READING], measured, THERE) == pytest.approx(20e3 / 0.25)
    assert projected_ms([CODING], measured, THERE) == pytest.approx(30e3 / 0.1)
    both = projected_ms([READING, WORKING], measured, THERE)
    assert both == pytest.approx((20e3 + 40e3) / 0.25)


def test_a_class_that_was_not_measured_takes_what_its_half_reached():
    only = Measurement(HERE, "a test", (Piece("reading", (READING,), 16e3),))
    assert projected_ms([WORKING], only, THERE) == pytest.approx(40e3 / 0.5)
    assert projected_ms([CODING], only, THERE) is None


def test_pieces_of_one_class_count_by_their_time():
    slow, quick = Piece("a", (READING,), 32e3), Piece("b", (READING,), 8e3)
    measured = Measurement(HERE, "a test", (slow, quick))
    assert measured.share(codec=False) == pytest.approx(16 / 40)
    assert slow.share(HERE) == pytest.approx(0.25)
