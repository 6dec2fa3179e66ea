"""What the documents tell people to type works: run it, or at least find it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented_commands import Block, bash_blocks, documented_blocks
from tests.documented_flags import unknown

ROOT = Path(__file__).parent.parent
BLOCKS = documented_blocks(ROOT)
# Blocks of a page may build on each other: they run in their order.
PAGES = sorted({block.page for block in BLOCKS if not block.reason})


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, so that commands write nothing into this tree."""
    folder = tmp_path_factory.mktemp("checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_documented_blocks_run(page: str, checkout: Path) -> None:
    for block in BLOCKS:
        if block.page == page and not block.reason:
            run_block(block, checkout)


def run_block(block: Block, checkout: Path) -> None:
    environment = {
        **os.environ,
        "VENV": sys.prefix,
        "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}",
    }
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = f"{block.place}\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    assert run.returncode == 0, told


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_documented_block_names_what_exists(block: Block) -> None:
    """Also for blocks that are not run: their scripts, configs and targets exist."""
    for command in block.commands:
        words = shlex.split(command, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words[0] == "make":
            goals = {word for word in words[1:] if not re.match(r"-|\w+=", word)}
            assert goals <= targets(), command
        elif re.fullmatch(r"python[\d.]*", Path(words[0]).name):
            if words[1] == "-m" and words[2].startswith("experiments."):
                words[1] = words[2].replace(".", "/") + ".py"
            for word in words[1:]:
                if re.fullmatch(r"(experiments/|configs/)?\w+\.py", word):
                    assert (ROOT / word).exists(), command


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_documented_block_gives_flags_that_exist(block: Block) -> None:
    for command in block.commands:
        assert not list(unknown(ROOT, command)), command


@pytest.mark.parametrize(
    "command, missing",
    [
        ("python -m experiments.compare --percent=0 a b", []),
        ("python -m experiments.compare --percents=0 a b", ["--percents=0"]),
        ("python -m experiments.drift --noheld --clips=c", []),  # of what it imports
        ("python -m experiments.drift --holds", ["--holds"]),
        ("mirage --config demo --config.size=64", []),
        ("JAX_PLATFORMS=cpu python main.py --config.size=64", ["--config.size=64"]),
        (
            "python main.py --config configs/demo.py --config.port=1",
            ["--config.port=1"],
        ),
        (
            "python -m experiments.train_denoiser "
            "--config=configs/train_denoiser.py:pixel --config.loss.remats=full",
            ["--config.loss.remats=full"],
        ),
        ("ls --all", []),
    ],
)
def test_a_flag_that_is_missing_is_found(command: str, missing: list[str]) -> None:
    assert list(unknown(ROOT, command)) == missing


PAGE = """\
```bash
make test
```
<!-- not run: needs a GPU -->
```bash
python main.py \\
  --config configs/demo.py
```
```python
not_a_command()
```
"""


def test_blocks_and_markers_are_found() -> None:
    run, marked = bash_blocks("page", PAGE)
    assert (run.text, run.reason, run.place) == ("make test", "", "page:1")
    assert marked.reason == "needs a GPU"
    [command] = marked.commands
    assert shlex.split(command) == "python main.py --config configs/demo.py".split()


@pytest.mark.parametrize(
    "page",
    [
        "<!-- not run: -->\n```bash\nls\n```\n",
        "<!-- not run -->\n```bash\nls\n```\n",
        "<!-- not run: needs a GPU -->\n\n```bash\nls\n```\n",
        "```bash\nls\n",
    ],
)
def test_marker_without_reason_or_block_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="page:1|page:2"):
        list(bash_blocks("page", page))
