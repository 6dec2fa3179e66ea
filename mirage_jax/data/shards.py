"""Training data on disk: shards of pictures and the manifest that lists them.

A prepared folder holds `manifest.json` and one `.npy` file, uint8 [n, H, W, 3], for
each photograph and each segment of a clip. A shard's name carries the hash of its
source's bytes and of the settings it was made with: a shard that exists is finished
(it is written under another name and renamed) and is never made twice.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_jax.errors import MirageError

MANIFEST = "manifest.json"
VERSION = 1
_READERS = 8


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either whole or absent under its name."""
    with _partial(path) as file:
        file.write(data)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """`numpy.save`, whole or absent."""
    with _partial(path) as file:
        np.save(file, array, allow_pickle=False)


def save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """`numpy.savez`, whole or absent."""
    with _partial(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


class _partial:
    """A file open under a temporary name; renamed on success, removed on failure."""

    def __init__(self, path: Path):
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self):
        self._file = open(self._temporary, "wb")
        return self._file

    def __exit__(self, kind, value, trace):
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Delete what a killed run left unfinished."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the list of shards; the last thing a run does."""
    text = json.dumps({"version": VERSION, **manifest}, indent=1, sort_keys=True)
    write_atomically(folder / MANIFEST, text.encode() + b"\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what `write_manifest` wrote.

    Raises:
      MirageError: absent, unreadable or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise MirageError(
            f"no training data in {folder}: make it with "
            f"python -m experiments.prepare_data --out={folder}"
        )
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise MirageError(f"{path} is damaged ({error}): prepare the data again")
    version = manifest.get("version")
    if version != VERSION:
        raise MirageError(
            f"{path} has version {version}, need {VERSION}: prepare the data again"
        )
    return manifest


def read_shards(
    folder: Path, names: Sequence[str], counts: Sequence[int], size: Sequence[int]
) -> NDArray[np.uint8]:
    """All pictures of some shards, in order, uint8 [sum(counts), *size, 3].

    Raises:
      MirageError: a shard is absent, damaged or of another shape.
    """
    ends = np.cumsum([0, *counts])
    pictures = np.empty((int(ends[-1]), *size, 3), np.uint8)

    def read(i: int) -> None:
        want = (counts[i], *size, 3)
        try:
            shard = np.load(folder / names[i], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise MirageError(
                f"cannot read {folder / names[i]} ({error}): prepare the data again"
            )
        if shard.shape != want or shard.dtype != np.uint8:
            raise MirageError(
                f"{folder / names[i]} holds {shard.dtype} {shard.shape}, the manifest "
                f"says uint8 {want}: delete it and prepare the data again"
            )
        pictures[ends[i] : ends[i + 1]] = shard

    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(read, range(len(names))))
    return pictures
