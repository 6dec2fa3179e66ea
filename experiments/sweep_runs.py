"""One run of a sweep: its command, its folder and the record of how it ended."""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.sweep_axes import Settings
from mirage_jax.errors import MirageError
from mirage_jax.staged_file import write_errors, write_whole

RECORD, LOG = "run.json", "log.txt"
FOLDER = "{folder}"  # in a flag's value: the run's own folder

_LONGEST_NAME = 80


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      exit_status: of the process, minus the signal that ended it; None: it was stopped
        before its end, or is still running.
      seconds: wall time, of all attempts together.
    """

    exit_status: int | None
    seconds: float

    def cut_short(self) -> "Outcome":
        """The same after an interruption: a status but zero then says nothing."""
        return self if self.exit_status == 0 else Outcome(None, self.seconds)

    @property
    def word(self) -> str:
        if self.exit_status is None:
            return "unfinished"
        return f"failed ({self.exit_status})" if self.exit_status else "finished"


@dataclasses.dataclass(frozen=True)
class Run:
    """One process that a sweep starts.

    Attributes:
      script: module with the experiment.
      base: flags that all runs share.
      settings: flags that are this run's.
      sweep: folder of the sweep.
    """

    script: str
    base: tuple[str, ...]
    settings: Settings
    sweep: Path

    @property
    def key(self) -> str:
        """Of everything that decides what the run does."""
        text = json.dumps([self.script, self.base, self.settings])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """The settings as far as a file's name can hold them, and some of the key."""
        words = [
            f"{flag.lstrip('-').split('.')[-1]}_{value}"
            for flag, value in self.settings
        ]
        plain = re.sub(r"[^\w.+-]+", "_", "-".join(words))
        return f"{plain[:_LONGEST_NAME]}-{self.key[:6]}"

    @property
    def folder(self) -> Path:
        return self.sweep / self.name

    @property
    def arguments(self) -> list[str]:
        """For a Python interpreter."""
        flags = [*self.base, *(f"{flag}={value}" for flag, value in self.settings)]
        return [
            *("-m", self.script),
            *(flag.replace(FOLDER, str(self.folder)) for flag in flags),
        ]

    def outcome(self) -> Outcome | None:
        """As its folder has it; None where it never began.

        Raises:
          MirageError: the record in the folder cannot be read.
        """
        path = self.folder / RECORD
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            same, outcome = record["key"] == self.key, record["outcome"]
            return Outcome(**outcome) if same else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MirageError(
                f"cannot read {path}: {error}; delete its folder to run it again"
            ) from error

    def write_record(self, outcome: Outcome, gpus: str | None) -> None:
        """Writes how it stands; `gpus` as in CUDA_VISIBLE_DEVICES.

        Raises:
          MirageError: it cannot be written.
        """
        record = {
            "script": self.script,
            "command": shlex.join(["python", *self.arguments]),
            "settings": dict(self.settings),
            "key": self.key,
            "gpus": gpus,
            "outcome": dataclasses.asdict(outcome),
        }
        write_whole(
            self.folder / RECORD, (json.dumps(record, indent=1) + "\n").encode()
        )

    def note_in_log(self, text: str) -> None:
        """Adds a line for what went wrong outside of the process.

        Raises:
          MirageError: the folder cannot be written.
        """
        path = self.folder / LOG
        with write_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as log:
                log.write(" ".join(text.split()) + "\n")

    def complaint(self) -> str:
        """The last words of its log, without absl's advice about --help."""
        try:
            text = (self.folder / LOG).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "it left no log"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = [line for line in lines if not line.startswith("Pass --help")]
        return said[-1] if said else "it said nothing"


def start_process(
    arguments: list[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Starts a run in the present folder; what it prints is appended to its log.

    It has a process group of its own: Ctrl-C reaches the sweep alone, which passes it
    on once.

    Raises:
      MirageError: the folder cannot be written.
    """
    with write_errors(folder / LOG):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def signal_group(process: subprocess.Popen[Any], number: int) -> None:
    """Sends a signal to a run and to what it started, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, number)
