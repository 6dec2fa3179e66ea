"""The committed rooflines are what is counted now, and the page says what they say."""

import re
from pathlib import Path

import pytest

from experiments.pass_programs import side_of
from experiments.roofline_report import Roofline, to_results
from mirage_jax.chips import CHIPS, chip_of
from mirage_jax.config import model_config
from mirage_jax.frame_cost import frame_parts
from mirage_jax.precision import EIGHT_BIT
from mirage_jax.results import read_record, read_results
from mirage_jax.stream_config import StreamConfig

DOCS = Path(__file__).parent.parent / "docs"
FILES = sorted((DOCS / "results").glob("roofline_*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_committed_floor_is_what_is_counted_now(path: Path) -> None:
    setup, found = read_record(path).setup, read_results(path)
    model = model_config(setup["model"])
    side = side_of(setup["tokens"], model)
    stream = StreamConfig(
        side,
        side,
        setup["steps"],
        setup["commit_mode"],
        setup["streams"],
        eight_bit=EIGHT_BIT.get(setup["precision"]),
    )
    [name] = [name for name in CHIPS if CHIPS[name].name == setup["chip"]["name"]]
    roofline = Roofline(name, chip_of(name), frame_parts(model, stream))
    assert setup["bound"] == roofline.bounds()
    for result in to_results(roofline):
        assert found[result.name] == pytest.approx(result.value, rel=1e-5)


def test_the_page_says_what_the_files_say() -> None:
    page = (DOCS / "roofline.md").read_text()
    rows = re.findall(r"\((results/\S+\.json)\) \| (\w+) \| (\S+) \| (\S+) \|", page)
    assert {Path(file).name for file, *_ in rows} == {path.name for path in FILES}
    for file, chip, one, frame in rows:
        found = read_results(DOCS / file)
        assert float(one) == round(found[f"floor_ms/{chip}/pass"], 2)
        assert float(frame) == round(found[f"floor_ms/{chip}/frame"], 2)
    planned = re.search(r"plans (\S+) GiB .* and (\S+) GiB in int8, of 24", page)
    assert planned is not None
    for text, name in zip(planned.groups(), ("", "_int8"), strict=True):
        path = DOCS / f"results/roofline_lsd_880m{name}_rtx3090.json"
        total = read_results(path)["memory_gib/rtx3090/total"]
        assert float(text) == round(total, 2)


def test_the_same_pass_is_bound_by_other_things_on_other_chips() -> None:
    for chip, bound in (("h100", "memory"), ("rtx3090", "compute")):
        path = DOCS / f"results/roofline_lsd_880m_{chip}.json"
        assert read_record(path).setup["bound"]["pass"] == bound
