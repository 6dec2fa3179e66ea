"""The commands that README.md and docs/*.md show in their fenced `bash` blocks.

A block is run by the tests unless a comment on the line above its fence says why not:

    <!-- not run: needs an NVIDIA GPU -->
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARKER = re.compile(r"<!-- not run: *(.*?) *-->")
FENCE = re.compile(r"^```(\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its text, and why it is not run ("" if it is)."""

    place: str
    text: str
    reason: str

    @property
    def page(self) -> str:
        """The file that it stands in."""
        return self.place.rpartition(":")[0]

    @property
    def commands(self) -> list[str]:
        """The block's lines, joined where one ends in a backslash."""
        joined = self.text.replace("\\\n", " ")
        lines = [line.strip() for line in joined.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def bash_blocks(name: str, text: str) -> Iterator[Block]:
    """Yields the blocks of a page whose fence says `bash`, `sh`, `shell` or `console`.

    Raises:
      ValueError: a marker has no reason or stands above nothing, or a fence stays open.
    """
    lines = text.splitlines()
    opened: int | None = None
    language = reason = ""
    for number, line in enumerate(lines, start=1):
        if opened is not None:
            if line.strip() == "```":
                if language in ("bash", "sh", "shell", "console"):
                    block = "\n".join(lines[opened : number - 1])
                    yield Block(f"{name}:{opened}", block, reason)
                opened, reason = None, ""
        elif fence := FENCE.match(line):
            opened, language = number, fence[1]
        elif "<!-- not run" in line:
            marker = MARKER.search(line)
            if marker is None or not marker[1]:
                raise ValueError(f"{name}:{number}: the marker gives no reason: {line}")
            reason = marker[1]
        elif reason:
            raise ValueError(f"{name}:{number}: the marker above stands above no fence")
    if opened is not None:
        raise ValueError(f"{name}:{opened}: this fence is never closed")


def documented_blocks(root: Path) -> list[Block]:
    """All blocks of README.md, CONTRIBUTING.md and docs/, in that order."""
    pages = [root / "README.md", root / "CONTRIBUTING.md"]
    pages += sorted((root / "docs").rglob("*.md"))
    return [
        block
        for page in pages
        if page.exists()
        for block in bash_blocks(
            str(page.relative_to(root)), page.read_text(encoding="utf-8")
        )
    ]
