"""The tutorials do what they say: their Python blocks run, one after another."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def blocks(path: Path) -> list[tuple[int, str]]:
    """Line number and text of every block."""
    text = path.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(1)), found[1])
        for found in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    found = blocks(path)
    if not found:
        pytest.skip("this one is made of commands, which test_documented_commands runs")
    monkeypatch.chdir(tmp_path)  # what it writes goes there
    session: dict[str, object] = {"__name__": "__main__"}
    for line, text in found:
        # Empty lines in front, so that an error names the line of the page.
        exec(compile("\n" * line + text, str(path), "exec"), session)


def test_there_are_tutorials_with_blocks_to_run():
    assert any(blocks(path) for path in TUTORIALS)
