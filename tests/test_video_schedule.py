"""Prompt schedules: what is read, and what is said about what cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_jax.errors import MirageError
from mirage_jax.schedule import parse_schedule


def test_each_prompt_holds_until_the_next():
    schedule = parse_schedule("0s: a watercolour; 4s: neon city: night;1m10.5s:sepia;")
    assert schedule.times == (0, 4, 70.5)
    assert schedule.prompts == ("a watercolour", "neon city: night", "sepia")
    moments = {0: 0, 3.999: 0, 4: 1, 70.49: 1, 70.5: 2, 1e9: 2}
    assert {t: schedule.index_at(t) for t in moments} == moments


def test_an_empty_schedule_is_the_prompt():
    for text in ("", "  \n"):
        schedule = parse_schedule(text, "oil")
        assert (schedule.times, schedule.prompts) == ((0.0,), ("oil",))


def test_the_prompt_holds_until_the_schedule_begins():
    schedule = parse_schedule("2: sepia", "oil")
    assert (schedule.times, schedule.prompts) == ((0, 2), ("oil", "sepia"))


@pytest.mark.parametrize(
    ("text", "part", "reason"),
    [
        ("a watercolour", "a watercolour", "begin with a time"),
        ("0s: oil; neon", "neon", "begin with a time"),
        ("0s: oil; soon: neon", "soon: neon", "begin with a time"),
        ("0s: oil; 4x: neon", "4x: neon", "begin with a time"),
        ("0s: oil; -4s: neon", "-4s: neon", "begin with a time"),
        ("0s: oil; : neon", ": neon", "begin with a time"),
        ("0s: oil; 4s:  ", "4s:", "no prompt"),
        ("0s: oil;; 4s: neon", "''", "begin with a time"),
        ("0s: oil; 4s: neon; 4s: sepia", "4s: sepia", "not later than 4 s"),
        ("0s: oil; 4s: neon; 1s: sepia", "1s: sepia", "not later than 4 s"),
        ("3s: oil", "3s: oil", "nothing is said for 0s"),
        ("0s: oil; " + "x" * 9000, "xxx...", "begin with a time"),
    ],
)
def test_the_bad_part_is_named(text, part, reason):
    with pytest.raises(MirageError, match=reason) as caught:
        parse_schedule(text)
    assert part in str(caught.value)
    assert len(str(caught.value)) < 300


@given(
    st.lists(st.integers(1, 10**6), max_size=8, unique=True).map(sorted),
    st.integers(1, 60),
)
def test_the_frame_at_a_given_time_already_has_its_prompt(frames, rate):
    times = [0, *frames]
    text = ";".join(f"{n / rate:.9f}s: p{n}" for n in times)
    schedule = parse_schedule(text)
    for index, n in enumerate(times):
        assert schedule.index_at(n / rate) == index
        if n:
            assert schedule.index_at((n - 0.5) / rate) == index - 1
