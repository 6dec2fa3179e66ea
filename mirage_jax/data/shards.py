"""Training data on disk: shards of pictures and the manifest that lists them.

A prepared folder holds `manifest.json` and one `.npy` file, uint8 [n, H, W, 3], for
each photograph and each segment of a clip. A shard's name carries the hash of its
source's bytes and of the settings it was made with: a shard that exists is finished
(it is written under another name and renamed) and is never made twice.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mirage_jax.errors import MirageError
from mirage_jax.staged_file import staged, write_whole

MANIFEST = "manifest.json"
VERSION = 1
_READERS = 8


class Shard(TypedDict):
    """One file of pictures, as the manifest lists it."""

    file: str
    pictures: int


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary, whole or not at all; the same content, the same bytes."""
    text = json.dumps(content, indent=1, sort_keys=True)
    write_whole(path, text.encode() + b"\n")


def save_array(path: Path, array: NDArray[Any]) -> None:
    """`numpy.save`, whole or not at all."""
    with staged(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """`numpy.savez`, whole or not at all."""
    with staged(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the list of shards; the last thing a run does."""
    write_json(folder / MANIFEST, {"version": VERSION, **manifest})


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
        raise MirageError(
            f"{path} is damaged ({error}): prepare the data again"
        ) from error
    version = manifest.get("version")
    if version != VERSION:
        raise MirageError(
            f"{path} has version {version}, need {VERSION}: prepare the data again"
        )
    return manifest


def read_shards(
    folder: Path, shards: Sequence[Shard], size: Sequence[int]
) -> NDArray[np.uint8]:
    """All pictures of some shards, in order, uint8 [sum of counts, *size, 3].

    Raises:
      MirageError: a shard is absent, damaged or of another shape.
    """
    counts = [shard["pictures"] for shard in shards]
    ends = np.cumsum([0, *counts])
    pictures = np.empty((int(ends[-1]), *size, 3), np.uint8)

    def read(i: int) -> None:
        path, want = folder / shards[i]["file"], (counts[i], *size, 3)
        try:
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise MirageError(
                f"cannot read {path} ({error}): prepare the data again"
            ) from error
        if shard.shape != want or shard.dtype != np.uint8:
            raise MirageError(
                f"{path} holds {shard.dtype} {shard.shape}, the manifest "
                f"says uint8 {want}: delete it and prepare the data again"
            )
        pictures[ends[i] : ends[i + 1]] = shard

    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(read, range(len(shards))))
    return pictures
