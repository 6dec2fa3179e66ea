"""What GitHub, hooks and newcomers read: it parses, and what it names exists."""

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILES = [
    *sorted((ROOT / ".github").rglob("*.yml")),
    ROOT / ".pre-commit-config.yaml",
    ROOT / "CITATION.cff",
]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "ROADMAP", "SECURITY")),
    ROOT / "CODE_OF_CONDUCT.md",
    ROOT / ".github" / "pull_request_template.md",
]
FOLDERS = "experiments|configs|docs|scripts|tests|mirage_jax|pallas_kernels"
NAMED = re.compile(rf"(?<![\w/.])((?:{FOLDERS})/[\w./-]+\w|[A-Z_]+\.md|[\w-]+\.txt)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def missing(text: str) -> list[str]:
    """What a text names as a file, module or target of make, but is none."""
    targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    paths = NAMED.findall(text)
    paths += [f"experiments/{m}.py" for m in re.findall(r"-m experiments\.(\w+)", text)]
    absent = [path for path in paths if not (ROOT / path).exists()]
    goals = re.findall(r"(?:`|run: )make ([a-z][\w-]*)", text)
    return absent + [goal for goal in goals if goal not in targets]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_it_parses_and_names_what_exists(path: Path) -> None:
    assert load(path)
    assert not missing(path.read_text(encoding="utf-8"))


def test_the_search_finds_what_is_missing() -> None:
    text = "- run: make none\n- run: python -m experiments.none docs/none.json NONE.md"
    assert sorted(missing(text)) == sorted(
        ["none", "experiments/none.py", "docs/none.json", "NONE.md"]
    )
    assert not missing("- run: make test\nsee `experiments/compare.py`, SECURITY.md")


def steps() -> list[dict[str, Any]]:
    jobs = load(ROOT / ".github/workflows/ci.yml")["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_the_workflow_is_pinned_limited_and_knows_no_secrets() -> None:
    workflow = load(ROOT / ".github/workflows/ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    actions = [step["uses"] for step in steps() if "uses" in step]
    assert actions and all(re.search(r"@v\d+", action) for action in actions)
    assert "secrets." not in (ROOT / ".github/workflows/ci.yml").read_text()


def test_the_workflow_checks_all_that_a_change_may_break() -> None:
    commands = " ".join(step.get("run", "") for step in steps())
    for wanted in ("test", "test-aot", "docs"):
        assert f"make {wanted} " in commands
    for wanted in ("-m build", "count_program", "leaderboard --check"):
        assert wanted in commands
    test = load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]
    assert test["strategy"]["matrix"]["python"] == ["3.11", "3.12"]


def test_dependency_updates_are_of_the_pinned_tools() -> None:
    updates = load(ROOT / ".github/dependabot.yml")["updates"]
    [pip] = [one for one in updates if one["package-ecosystem"] == "pip"]
    allowed = [one["dependency-name"] for one in pip["allow"]]
    pins = re.findall(r"^([\w-]+)==", (ROOT / "requirements-dev.txt").read_text(), re.M)
    for pin in pins:
        assert any(fnmatch.fnmatch(pin, name) for name in allowed), pin


def test_the_workflow_runs_shell_that_parses() -> None:
    for step in steps():
        if "run" in step:
            text = re.sub(r"\$\{\{.*?\}\}", "x", step["run"])
            assert subprocess.run(["bash", "-n", "-c", text]).returncode == 0, text


def test_hooks_run_the_pinned_tools() -> None:
    pins = (ROOT / "requirements-dev.txt").read_text()
    hooks = load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    tools = {re.search(r"-m (\w+)", hook["entry"])[1] for hook in hooks}  # type: ignore[index]
    assert tools == {"ruff", "mypy"}
    assert all(f"\n{tool}==" in pins for tool in tools)


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.parent.name == "ISSUE_TEMPLATE" and p.stem != "config"],
    ids=name_of,
)
def test_an_issue_form_has_what_github_wants(path: Path) -> None:
    form = load(path)
    assert {"name", "description", "body"} <= form.keys()
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in asked} <= {"input", "textarea", "dropdown"}
    names = [part["id"] for part in asked]
    assert len(set(names)) == len(names)
    assert all(part["attributes"]["label"] for part in asked)
    assert any(part["attributes"].get("render") == "json" for part in asked)


def test_the_citation_is_of_this_version() -> None:
    citation = load(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_what_exists(page: Path) -> None:
    assert not missing(page.read_text(encoding="utf-8"))
