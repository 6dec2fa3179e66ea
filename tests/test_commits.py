"""The commit by its name in a config, for files and live streams."""

import pytest
from live_server import settings as live_settings

from configs import render
from mirage_jax.commits import COMMIT_CHOICES, commit_of
from mirage_jax.errors import MirageError
from mirage_jax.render_settings import RenderSettings
from mirage_jax.stream_config import COMMITS


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("name", COMMIT_CHOICES)
def test_every_choice_is_a_commit(name, platform):
    found = commit_of(name, platform)
    assert found in COMMITS
    assert name in ("auto", found), "what is named is taken"


def test_an_unknown_commit_names_those_that_are():
    with pytest.raises(MirageError, match="commit='never': choose one of auto, merged"):
        commit_of("never")


def test_a_gpu_has_the_best_one_and_a_cpu_the_cheap_one():
    for settings in (
        RenderSettings.from_values(render.get_config()),
        live_settings(),
    ):
        assert settings.stream("gpu").commit == "lagged"
        assert settings.stream("cpu").commit == "merged"
