"""Flags and settings that a documented command names, held against what is there.

Nothing is run: flags are read from the sources, settings from the config's own file.
"""

import functools
import importlib.util
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirage_jax.config_files import find_config

DEFINED = re.compile(r'\bDEFINE_\w+\(\s*"(\w+)"')
IMPORTED = re.compile(r"^from experiments(?:\.([\w.]+))? import ([\w, ]+)", re.M)
EVERYWHERE = {"help", "flagfile", "config"}  # of absl; of cli.py and the training


def script_and_flags(command: str) -> tuple[str, list[str]] | None:
    """Path of the script of ours that a command runs, and its arguments."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    match [Path(word).name for word in words[:1]] + words[1:]:
        case ["mirage", *rest]:
            return "main.py", rest
        case [str(program), "-m", module, *rest] if program.startswith("python"):
            if module.startswith("experiments."):
                return module.replace(".", "/") + ".py", rest
        case [str(program), "main.py", *rest] if program.startswith("python"):
            return "main.py", rest
    return None


@functools.cache
def flags_of(root: Path, script: str) -> frozenset[str]:
    """Names of a script's flags, those of the experiments that it imports included."""
    text = (root / script).read_text(encoding="utf-8")
    found = set(DEFINED.findall(text))
    for module, names in IMPORTED.findall(text):
        folder = "/".join(["experiments", *filter(None, module.split("."))])
        below = [f"{folder}/{name.strip()}.py" for name in names.split(",")]
        for path in [f"{folder}.py", *below]:
            if (root / path).exists():
                found |= flags_of(root, path)
    return frozenset(found)


@functools.cache
def config_of(root: Path, name: str) -> Any:
    """What `--config=NAME` gives, "configs/train_denoiser.py:pixel" for example."""
    path, _, argument = name.partition(":")
    spec = importlib.util.spec_from_file_location("config", root / find_config(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def unknown(root: Path, command: str) -> Iterator[str]:
    """The flags and settings of a command that its script or config does not have."""
    found = script_and_flags(command)
    if found is None:
        return
    script, words = found
    known = flags_of(root, script) | EVERYWHERE
    config: Any = None
    for word, following in itertools.pairwise([*words, ""]):
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            continue
        elif name == "config":
            config = config_of(root, value or following)
        elif name.startswith("config."):
            if not _has(config, name.split(".")[1:]):
                yield word
        elif name not in known and name.removeprefix("no") not in known:
            yield word


def _has(config: Any, names: list[str]) -> bool:
    for name in names:
        if config is None or name not in config:
            return False
        config = config[name]
    return True
