"""What `mkdocs build` cannot do by itself, as hooks that mkdocs.yml names.

- The reference: a page for every public module of the packages, found by their files.
- Pages that lie elsewhere in the tree (`INCLUDED`) are shown and not copied.
- Links that leave docs/ go to those pages; a link to any other file of the tree
  becomes its text, for the site does not hold the file.
- The built site is searched for anything that a browser would load from another host.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("mirage_jax", "pallas_kernels")
# Page of the site: file of the tree.
INCLUDED = {
    "changelog.md": "CHANGELOG.md",
    "model_card.md": "mirage_jax/models/default/MODEL_CARD.md",
}

# A link, or code, which is left alone: brackets and parentheses are no links there.
_LINK_OR_CODE = re.compile(
    r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|^```.*?^```\s*?$|`[^`\n]+`",
    re.MULTILINE | re.DOTALL,
)
_LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|object|embed)\b[^>]*?"""
    r"""\b(?:src|data)\s*=\s*["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*?\brel\s*=\s*["']?(?:stylesheet|preload|preconnect|icon))"""
    r"""[^>]*?\bhref\s*=\s*["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:@import\s+(?:url\()?|url\()\s*["']?((?:https?:)?//[^"'\s)]+)""",
    re.IGNORECASE,
)

Nav = list[dict[str, Any]]


def public_modules(root: Path, package: str) -> Iterator[str]:
    """Dotted names of a package and its modules, those with a leading `_` left out."""
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            yield ".".join(parts)


def page_of(module: str, modules: set[str]) -> str:
    """Page of a module: a package's is the index of its folder."""
    path = "reference/" + module.replace(".", "/")
    is_package = any(other.startswith(module + ".") for other in modules)
    return f"{path}/index.md" if is_package else f"{path}.md"


def reference_nav(package: str, modules: set[str]) -> Nav:
    """The navigation below a package: its own page, modules, packages inside it."""
    below = {name for name in modules if name.rpartition(".")[0] == package}
    packages = {name for name in below if page_of(name, modules).endswith("index.md")}
    nav: Nav = [{"Overview": page_of(package, modules)}]
    nav += [
        {n.rpartition(".")[2]: page_of(n, modules)} for n in sorted(below - packages)
    ]
    nav += [{n.rpartition(".")[2]: reference_nav(n, modules)} for n in sorted(packages)]
    return nav


def site_links(markdown: str, page: str, root: Path) -> str:
    """Turns the links of a page that leave docs/, or come from outside it, into ours.

    Args:
      markdown: the page's text.
      page: its path in the site, "training.md" for example.
      root: the tree that links are looked up in.

    Returns:
      The text, with links to nothing unchanged, so that a strict build finds them.
    """
    source = INCLUDED.get(page, f"docs/{page}")
    pages = {path: name for name, path in INCLUDED.items()}

    def ours(link: re.Match[str]) -> str:
        text, (path, hash_mark, anchor) = link[1], (link[2] or "").partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target in pages:
            found = pages[target]
        elif not (root / target).exists():
            return link[0]
        elif target.startswith("docs/"):
            found = target.removeprefix("docs/")
        else:
            return text
        relative = posixpath.relpath(found, posixpath.dirname(page) or ".")
        return f"[{text}]({relative}{hash_mark}{anchor})"

    return _LINK_OR_CODE.sub(ours, markdown)


def foreign_loads(text: str) -> list[str]:
    """Addresses on other hosts that a page or style sheet loads; links are none."""
    return [next(filter(None, groups)) for groups in _LOADS.findall(text)]


def on_config(config: Any) -> Any:
    """Puts the reference into the navigation, before the results."""
    modules = {name for package in PACKAGES for name in public_modules(ROOT, package)}
    reference = [{package: reference_nav(package, modules)} for package in PACKAGES]
    place = [next(iter(entry)) for entry in config.nav].index("Results")
    config.nav.insert(place, {"Reference": reference})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are not in docs/."""
    # Imported here, because the rest is tested where MkDocs is not installed.
    from mkdocs.structure.files import File

    for page, path in INCLUDED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    for package in PACKAGES:
        modules = set(public_modules(ROOT, package))
        for module in modules:
            content = f"# `{module}`\n\n::: {module}\n"
            page = page_of(module, modules)
            files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links between tree and site."""
    return site_links(markdown, page.file.src_uri, ROOT)


def on_post_build(config: Any) -> None:
    """Fails where the site would load something from another host."""
    from mkdocs.exceptions import BuildError

    site = Path(config.site_dir)
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css", ".svg"):
            found = foreign_loads(path.read_text(encoding="utf-8"))
            if found:
                raise BuildError(f"{path.relative_to(site)} would load {found[0]}")
