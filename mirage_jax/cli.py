"""The command: `main.py` of the repository, `mirage` where the package is installed.

This module alone of the library knows flags; nothing of the library imports it.
"""

import functools
import signal
import sys
from collections.abc import Sequence
from typing import Any

import jax
import tqdm
from absl import app, flags
from ml_collections import config_flags

from mirage_jax.config_files import find_config, shipped_folder
from mirage_jax.device_memory import exhaustion_explained
from mirage_jax.errors import MirageError
from mirage_jax.interrupts import raise_dropped_interrupts
from mirage_jax.live.replicas import run_replicas
from mirage_jax.live.run import run_live
from mirage_jax.live.settings import LiveSettings
from mirage_jax.program_cache import keep_programs
from mirage_jax.render import render
from mirage_jax.render_settings import RenderSettings
from mirage_jax.run_summary import summary_table
from mirage_jax.weights import Model, load_model

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to run: configs/demo.py, render.py or live.py."
)


def main(arguments: Sequence[str]) -> None:
    """Runs what the config is for: "render" unless it says another kind."""
    if len(arguments) > 1:
        raise MirageError(
            f"unknown argument {arguments[1]!r}: values are given as --config.name=..."
        )
    values = _values()
    kinds = {"render": _render, "live": _live}
    kind = values.pop("kind", "render")
    if kind not in kinds:
        raise MirageError(f"kind {kind!r} is unknown: choose one of {', '.join(kinds)}")
    keep_programs()  # people wait for the second start too
    kinds[kind](values)


def _render(values: dict[str, Any]) -> None:
    """Restyles a file and prints the table."""
    settings = RenderSettings.from_values(values)
    model = _model(settings.model)
    show = functools.partial(tqdm.tqdm, unit="frame", dynamic_ncols=True)
    summary = render(
        settings, model, progress=lambda frames, total: show(frames, total=total)
    )
    print(summary_table(summary))


def _live(values: dict[str, Any]) -> None:
    """Serves the page until it is stopped."""
    settings = LiveSettings.from_values(values)
    if settings.replicas > 1:
        run_replicas(settings)
    else:
        run_live(settings, _model(settings.model))


def _model(name: str) -> Model:
    """Says on which device, and loads the weights."""
    device = jax.local_devices()[0]
    print(f"device        {device.device_kind} ({device.platform})", flush=True)
    with exhaustion_explained(f"model {name}"):
        return load_model(name)


def _values() -> dict[str, Any]:
    """The config's values; it is loaded when it is first asked for."""
    if _CONFIG.value is None:
        raise MirageError("no --config is given: try --config configs/demo.py")
    try:
        return _CONFIG.value.to_dict()
    except OSError as error:
        reason = str(error).splitlines()[-1].strip()
        raise MirageError(
            f"cannot load the file given as --config ({reason}): try configs/demo.py"
        ) from error


def _with_found_config(arguments: list[str]) -> list[str]:
    """The arguments, with the path of a config that comes with the package."""
    folder = str(shipped_folder())
    if folder not in sys.path:
        sys.path.append(folder)  # configs import one another from there
    found = list(arguments)
    for i, argument in enumerate(arguments):
        flag, given, value = argument.partition("=")
        if flag in ("--config", "-config"):
            if given:
                found[i] = f"{flag}={find_config(value)}"
            elif i + 1 < len(arguments):
                found[i + 1] = find_config(arguments[i + 1])
    return found


def _parse(arguments: list[str]) -> list[str]:
    """Reads the flags; what is wrong with them or with the config is one line."""
    try:
        return flags.FLAGS(_with_found_config(arguments))
    except (AttributeError, KeyError) as error:
        # Some of these messages are quoted once too often, line breaks and all.
        text = str(error).replace("\\n", " ").replace("\\", "")
        name, guessed, guess = text.partition("Did you mean")
        name = name.strip("\"' ")
        hint = f" (did you mean{guess.rstrip(chr(39))})" if guessed else ""
        raise MirageError(
            f"the config has no setting {name}{hint}: its file has their names"
        ) from error
    except (flags.Error, OSError, TypeError, ValueError) as error:
        raise MirageError(
            f"{' '.join(str(error).split())}: the config's file has names and types"
        ) from error


def _stop(number: int, frame: object) -> None:
    sys.exit(128 + number)  # unwinds, so that half-written files are removed


def run(program: str = "main.py") -> None:
    """Exits with 0, 1 after an error of the user's, 130 after Ctrl-C.

    Args:
      program: what people typed, which messages begin with.
    """
    signal.signal(signal.SIGTERM, _stop)
    raise_dropped_interrupts()
    try:
        app.run(main, flags_parser=_parse)
    except MirageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{program}: stopped by Ctrl-C; no file was written", file=sys.stderr)
        sys.exit(130)


def mirage() -> None:
    """The installed command."""
    run("mirage")
