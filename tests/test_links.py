"""Links of all pages: relative ones and their anchors lead somewhere, others are https.

Nothing is fetched: whether another host still has its page is not known here.
"""

import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1`*\s*$", re.M | re.S)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")  # of pictures too
OTHER = re.compile(  # [name]: target, <https://...>, href="..."
    r"^\[[^\]]+\]:\s*(\S+)|<(https?:[^>\s]+)>|(?:href|src)=[\"']([^\"']+)", re.M
)
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?\s*$", re.M)
NAMED = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)")


def pages() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True
    )
    names = filter(None, listing.stdout.split("\0"))
    found = [ROOT / name for name in names] or [*ROOT.glob("*.md")]
    return [path for path in found if path.exists()]


def links(text: str) -> Iterator[str]:
    """Targets of all links; code has none, but may be what a link is called."""
    text = FENCED.sub("", text)
    yield from LINK.findall(CODE.sub("code", text))
    for found in OTHER.findall(CODE.sub("code", text)):
        yield next(filter(None, found))


def anchors(text: str) -> set[str]:
    """What a `#` may lead to: headings as GitHub and MkDocs call them, and names."""
    found: set[str] = set(NAMED.findall(text))
    for heading in HEADING.findall(FENCED.sub("", text)):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        count = sum(
            re.fullmatch(rf"{re.escape(slug)}(-\d+)?", a) is not None for a in found
        )
        found.add(f"{slug}-{count}" if count else slug)
    return found


@functools.cache
def anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text(encoding="utf-8"))


def fault(link: str, page: Path) -> str | None:
    """What is wrong with a link of a page."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        host = parts.hostname or ""
        if parts.scheme != "https":
            return "is not https"
        if not re.fullmatch(r"([\w-]+\.)+[a-z]{2,}", host) or parts.username:
            return f"names no host: {host!r}"
        return "ends in punctuation" if link[-1] in ".,;:'\"" else None
    target = page if not parts.path else page.parent / unquote(parts.path)
    if link.startswith("/") or not target.resolve().is_relative_to(ROOT.resolve()):
        return "leaves the repository"
    if not target.exists():
        return "leads nowhere"
    if parts.fragment:
        if target.suffix != ".md":
            return "has an anchor in what is no page"
        if parts.fragment not in anchors_of(target):
            return "has an anchor that its page lacks"
    return None


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    found = links(page.read_text(encoding="utf-8"))
    wrong = {link: told for link in found if (told := fault(link, page)) is not None}
    assert not wrong


def test_the_pages_have_links_of_every_kind() -> None:
    found = [link for page in pages() for link in links(page.read_text("utf-8"))]
    assert sum(link.startswith("https:") for link in found) > 10
    assert sum("#" in link for link in found) > 5
    assert sum(link.endswith(".json") for link in found) > 20


@pytest.mark.parametrize(
    "link, told",
    [
        ("none.md", "leads nowhere"),
        ("docs/none/", "leads nowhere"),
        ("../elsewhere.md", "leaves"),
        ("/README.md", "leaves"),
        ("README.md#none", "lacks"),
        ("#none", "lacks"),
        ("LICENSE#top", "no page"),
        ("http://example.org/", "not https"),
        ("https://", "no host"),
        ("https://localhost/x", "no host"),
        ("https://user@example.org/", "no host"),
        ("https://example.org/page.", "punctuation"),
        ("README.md#speed", None),
        ("docs/results.md", None),
        ("docs", None),
        ("https://example.org/a_(b)?c=d#e", None),
    ],
)
def test_a_wrong_link_is_told_from_a_right_one(link: str, told: str | None) -> None:
    found = fault(link, ROOT / "README.md")
    assert found is None if told is None else told in (found or "")


def test_links_are_found_outside_of_code() -> None:
    text = (
        "[a](a.md) and ![b](b.png 'no') [`c`](c.md#d) `[x](x.md)`\n"
        '```\n[y](y.md)\n```\n<https://e.org> [f]: g\n[f]: h.md\n<a href="i.md">\n'
    )
    assert sorted(links(text)) == ["a.md", "c.md#d", "h.md", "https://e.org", "i.md"]


def test_anchors_are_those_of_headings() -> None:
    text = (
        "# What's `new`, in 0.2?\n## A [link](b.md)\n## Twice\n## Twice\n"
        '```\n# a comment\n```\n<a id="here"></a>\n'
    )
    assert anchors(text) == {"whats-new-in-02", "a-link", "twice", "twice-1", "here"}
