"""A file that appears under its name only when it is whole.

Work is written beside the final path, in the same folder, so that the last act is
a rename, which the file system does all at once. Whatever goes wrong before that
(an exception, Ctrl-C, a full disk) removes the temporary file and leaves an older
file under the final name as it was.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirage_jax.errors import MirageError, reason_of

# ENOSPC: disk full; EDQUOT: over quota; EFBIG: file larger than the limit allows.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StagedFile:
    """One output file under a temporary name until `publish`.

    Attributes:
      path: the final name; its folder is made if it is missing.
      temporary: where to write; a hidden name beside `path` with the same ending.

    Raises:
      MirageError: the folder cannot be made or written to.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        token = secrets.token_hex(4)
        self.temporary = self.path.with_name(
            f".{self.path.stem}.{token}.part{self.path.suffix}"
        )
        if self.path.is_dir():
            raise MirageError(
                f"cannot write {self.path}: it is a folder; remove it or choose "
                "another name"
            )
        with write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.temporary.touch()

    def publish(self) -> None:
        """Gives the finished file its final name, replacing an older one."""
        with write_errors(self.path):
            # On the disk before it has its name: a crash must not leave it empty.
            with open(self.temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self.temporary, self.path)

    def discard(self) -> None:
        """Removes the temporary file; does nothing once published."""
        self.temporary.unlink(missing_ok=True)


@contextmanager
def staged(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path; renames it to `path` if the block ends well."""
    file = StagedFile(path)
    try:
        with write_errors(file.path):
            yield file.temporary
        file.publish()
    finally:
        file.discard()


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a small file whole or not at all; raises as `staged` does."""
    with staged(path) as temporary:
        temporary.write_bytes(content)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Deletes what killed runs left beside the files of a folder, at any depth."""
    for path in Path(folder).rglob(".*.part.*"):
        path.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write `path` into a MirageError of one line."""
    try:
        yield
    except OSError as error:
        # PyAV's errors are OSErrors too when they carry a system error number.
        cure = "check the folder and its permissions, or choose another"
        if error.errno in _NO_ROOM:
            cure = "free some space or choose another folder"
        raise MirageError(f"cannot write {path}: {reason_of(error)}; {cure}") from error
