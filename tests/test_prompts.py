"""Every style has enough wordings, and no wording is used twice."""

import pytest

from mirage_jax.data.prompts import HELD_OUT_PROMPTS, PROMPTS
from mirage_jax.data.teachers import all_styles
from mirage_jax.styler import NEURAL_STYLES


def test_every_style_with_a_teacher_has_prompts_and_nothing_else_has():
    names = {style.name for style in all_styles()} | set(NEURAL_STYLES)
    assert set(PROMPTS) == names
    assert set(HELD_OUT_PROMPTS) == names


@pytest.mark.parametrize("style", sorted(PROMPTS))
def test_counts(style):
    assert 12 <= len(PROMPTS[style]) <= 20
    assert len(HELD_OUT_PROMPTS[style]) == 4


def test_no_wording_twice_in_training_or_evaluation():
    everything = [
        prompt.casefold().strip(" .")
        for table in (PROMPTS, HELD_OUT_PROMPTS)
        for prompts in table.values()
        for prompt in prompts
    ]
    assert len(everything) == len(set(everything))


def test_wordings_are_clean_text():
    for table in (PROMPTS, HELD_OUT_PROMPTS):
        for prompts in table.values():
            for prompt in prompts:
                assert prompt == " ".join(prompt.split())
                assert 3 <= len(prompt) <= 80
