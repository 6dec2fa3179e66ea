"""The site of the documentation: what can be checked where MkDocs is not installed.

`make docs` builds it strictly and is a step of `.ci/run`.
"""

import ast
import functools
import importlib.util
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^```output\n(.*?)\n```$", TROUBLESHOOTING, re.M | re.S)


def script(name: str) -> types.ModuleType:
    """A file of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site_hooks = script("site_hooks")


def anything_but(parts: list[str]) -> re.Pattern[str]:
    """Matches these constant parts of a message with anything between them."""
    return re.compile("(?s:.+)".join(map(re.escape, parts)))


def constant_parts(message: ast.expr) -> list[str]:
    if isinstance(message, ast.Constant):
        return [str(message.value)]
    assert isinstance(message, ast.JoinedStr)
    parts = [""]
    for value in message.values:
        if isinstance(value, ast.Constant):
            parts[-1] += str(value.value)
        else:
            parts.append("")
    return parts


@functools.cache
def known_messages() -> list[list[str]]:
    return [*raised_messages(), *setup_messages()]


def raised_messages() -> Iterator[list[str]]:
    """The constant parts of every message that is given to a MirageError."""
    folders = ("mirage_jax", "pallas_kernels", "experiments")
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    for path in [ROOT / "main.py", *paths]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "MirageError"
                and isinstance(node.args[0], ast.Constant | ast.JoinedStr)
            ):
                yield constant_parts(node.args[0])


def setup_messages() -> Iterator[list[str]]:
    """The constant parts of what scripts/setup.sh says before it gives up."""
    script = (ROOT / "scripts/setup.sh").read_text(encoding="utf-8")
    for strings in re.findall(r'\bdie ((?:"[^"]*"[\s\\]*)+)', script):
        message = "setup: " + " ".join(re.findall(r'"([^"]*)"', strings))
        yield re.split(r"\$\{(?:[^{}]|\{[^{}]*\})*\}|\$\w+", message)


def test_troubleshooting_quotes_the_usual_messages() -> None:
    assert len(QUOTED) >= 15
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("message", QUOTED)
def test_quoted_message_is_in_the_sources(message: str) -> None:
    found = [
        parts
        for parts in known_messages()
        # A message of hardly more than values would match whatever is quoted.
        if len("".join(parts)) > 12 and anything_but(parts).fullmatch(message)
    ]
    assert found


def test_a_reworded_message_is_noticed() -> None:
    parts = constant_parts(ast.parse('f"there is no {x}: give {y}"', mode="eval").body)
    assert anything_but(parts).fullmatch("there is no my.mp4: give another")
    assert not anything_but(parts).fullmatch("there is no my.mp4: take another")


def pages(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for below in nav.values():
            yield from pages(below)
    elif isinstance(nav, list):
        for below in nav:
            yield from pages(below)


def test_every_page_is_in_the_navigation_once() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = list(pages(config["nav"]))
    docs = ROOT / "docs"
    there = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    assert sorted(named) == sorted(there | set(site_hooks.INCLUDED))


def test_reference_has_every_public_module_once(tmp_path: Path) -> None:
    for name in ("__init__", "cache", "_private", "live/__init__", "live/engine"):
        path = tmp_path / "pkg" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    modules = set(site_hooks.public_modules(tmp_path, "pkg"))
    assert modules == {"pkg", "pkg.cache", "pkg.live", "pkg.live.engine"}
    nav = list(pages(site_hooks.reference_nav("pkg", modules)))
    assert nav == [
        "reference/pkg/index.md",
        "reference/pkg/cache.md",
        "reference/pkg/live/index.md",
        "reference/pkg/live/engine.md",
    ]
    assert "mirage_jax.stream" in site_hooks.public_modules(ROOT, "mirage_jax")


def test_shared_entries_of_docstrings_are_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # griffe is installed where the site is built only.
    stand_in = types.SimpleNamespace(Extension=object, Object=object)
    monkeypatch.setitem(sys.modules, "griffe", stand_in)
    split = script("site_docstrings").one_name_a_line
    entries = (
        "Args:\n  height, width: in pixels,\n    of the frame.\n  steps: a, b: c.\n"
    )
    assert split(entries) == (
        "Args:\n  height: in pixels,\n    of the frame.\n"
        "  width: in pixels,\n    of the frame.\n  steps: a, b: c.\n"
    )


@pytest.mark.parametrize(
    "page, link, expected",
    [
        ("a.md", "[b](b.md#part)", "[b](b.md#part)"),
        ("a.md", "[card](../CHANGELOG.md#top)", "[card](changelog.md#top)"),
        ("sub/a.md", "[card](../../CHANGELOG.md)", "[card](../changelog.md)"),
        ("changelog.md", "[b](docs/b.md)", "[b](b.md)"),
        ("a.md", "[`code`](../code) and `x`", "`code` and `x`"),
        ("a.md", "[gone](../gone.md)", "[gone](../gone.md)"),
        ("a.md", "[web](https://a.b/c)", "[web](https://a.b/c)"),
        ("a.md", "`[code](../code)`", "`[code](../code)`"),
        ("a.md", "```\n[code](../code)\n```\n", "```\n[code](../code)\n```\n"),
    ],
)
def test_links_between_tree_and_site(
    page: str, link: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "code").mkdir()
    for name in ("docs/b.md", "CHANGELOG.md"):
        (tmp_path / name).touch()
    assert site_hooks.site_links(link, page, tmp_path) == expected


@pytest.mark.parametrize(
    "text, count",
    [
        ('<script src="https://a.b/c.js"></script>', 1),
        ("<img alt='' src=//a.b/c.png>", 1),
        ('<link href="https://a.b/c.css" rel="stylesheet">', 1),
        ("@font-face { src: url(https://a.b/c.woff2) }", 1),
        ('<a href="https://a.b/">text</a>', 0),
        ('<img src="../pictures/demo.webp">', 0),
        ('<svg xmlns="http://www.w3.org/2000/svg">', 0),
    ],
)
def test_loads_from_other_hosts_are_found(text: str, count: int) -> None:
    assert len(site_hooks.foreign_loads(text)) == count
