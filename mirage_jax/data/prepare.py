"""From files to shards: what is found, what is done already, what a file becomes.

Each source (a clip, a photograph, a pair) is prepared on its own, in any process, and
leaves a record under `done/` when all its shards are written. The record's name is
the hash of the file's bytes and of the settings, so a second run finds it, whatever
the file is called, and other settings never meet stale shards.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.data import decode
from mirage_jax.data.shards import Shard, save_array, write_json
from mirage_jax.errors import MirageError, reason_of

_SEGMENT = 128  # frames a shard: 75 MiB at 384x512, the most a process holds


@dataclass(frozen=True)
class Settings:
    """What the shards depend on beside the files' own bytes.

    Attributes:
      frame_size: (height, width) of the frames of clips and pairs.
      photo_size: side of the photographs' squares.
      most_frames: frames kept of a clip, one stretch; 0 for all.
      seed: where that stretch begins.
    """

    frame_size: tuple[int, int] = (384, 512)
    photo_size: int = 512
    most_frames: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """A file to prepare, or for a pair two.

    Attributes:
      kind: "clip", "photo" or "pair".
      name: path below the folder that was given, the sorting key.
      paths: the file; of a pair the source and the styled one.
      style: of a pair, the style's name.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    style: str = ""


def find_files(folder: Path, endings: Iterable[str]) -> list[Path]:
    """Files below a folder with one of the endings, sorted by their relative path.

    Raises:
      MirageError: the folder does not exist.
    """
    if not folder.is_dir():
        raise MirageError(f"no folder {folder}: give a folder that exists")
    endings = tuple(endings)
    files = (p for p in folder.rglob("*") if p.suffix.lower() in endings)
    return sorted(
        (p for p in files if p.is_file()), key=lambda p: p.relative_to(folder).parts
    )


def find_sources(folder: Path, kind: str) -> list[Source]:
    """The clips or photographs below a folder."""
    endings = {"clip": decode.VIDEO_ENDINGS, "photo": decode.PICTURE_ENDINGS}[kind]
    return [
        Source(kind, path.relative_to(folder).as_posix(), (path,))
        for path in find_files(folder, endings)
    ]


def find_pairs(folder: Path) -> tuple[list[Source], list[str]]:
    """The pairs of one style, and its wordings.

    Raises:
      MirageError: a folder is missing, a file has no twin, two files of a folder
        differ in their ending only, or there are no wordings.
    """
    sides = []
    for side in ("source", "styled"):
        below = folder / side
        files = find_files(below, decode.VIDEO_ENDINGS + decode.PICTURE_ENDINGS)
        names = [p.relative_to(below).with_suffix("").as_posix() for p in files]
        for name, following in itertools.pairwise(names):
            if name == following:
                raise MirageError(f"two files named {below / name}: rename one")
        sides.append(dict(zip(names, files, strict=True)))
    source, styled = sides
    alone = sorted(source.keys() ^ styled.keys())
    if alone:
        side, other = (
            ("source", "styled") if alone[0] in source else ("styled", "source")
        )
        raise MirageError(
            f"{folder / side / alone[0]} has no twin in {folder / other} "
            f"({len(alone)} such): give both sides the same names"
        )
    if not source:
        raise MirageError(f"no videos or pictures in {folder / 'source'}: add some")
    path = folder / "prompts.txt"
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise MirageError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise MirageError(f"no prompts in {path}: write one wording a line")
    style = folder.resolve().name
    pairs = [Source("pair", n, (source[n], styled[n]), style) for n in sorted(source)]
    return pairs, prompts


def prepare_source(source: Source, settings: Settings, out: Path) -> dict[str, Any]:
    """Make the shards of one source, unless they are there.

    Returns:
      The record: `key`; `skipped`, the reason, where there is nothing to use;
      `damaged`, the reason, where only a first part is usable; else what the kind's
      function below returns.

    Raises:
      MirageError: a pair does not match.
      OSError: the shards cannot be written.
    """
    try:
        key = _key(source, settings)
    except OSError as error:
        return {"key": "", "skipped": reason_of(error)}
    path = out / "done" / f"{key}.json"
    record = _finished(path, out)
    if record is not None:
        return record
    make = {"clip": _clip, "photo": _photo, "pair": _pair}[source.kind]
    try:
        record = {"key": key, **make(source, settings, out, key)}
    except decode.DecodeError as error:
        # Not recorded: the file may be cured, and failing again is quick.
        return {"key": key, "skipped": str(error)}
    path.parent.mkdir(exist_ok=True)
    write_json(path, record)
    return record


def _key(source: Source, settings: Settings) -> str:
    digest = hashlib.sha256(
        json.dumps([source.kind, asdict(settings), _SEGMENT]).encode()
    )
    for path in source.paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:20]


def _finished(path: Path, out: Path) -> dict[str, Any] | None:
    """The record of a finished source whose shards are all there, whole."""
    try:
        record = json.loads(path.read_text())
        for name, size in record["bytes"].items():
            if (out / name).stat().st_size != size:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return record


def _clip(source: Source, settings: Settings, out: Path, key: str) -> dict[str, Any]:
    """`frames` and `segments`, the list of shards."""
    path, most = source.paths[0], settings.most_frames
    first = 0
    if most:
        spare = max(decode.probe(path)[0] - most, 0)
        draw = np.random.default_rng([settings.seed, int(key, 16)])
        first = int(draw.integers(spare + 1))
    segments: list[Shard] = []
    damage = {}
    try:
        frames = decode.decode_clip(path, settings.frame_size, first, most)
        for segment in _in_segments(frames):
            segments.append(_save(out, f"clips-{key}-{len(segments):05d}", segment))
    except decode.DecodeError as error:
        if not segments:
            raise
        damage = {"damaged": str(error)}
    count = sum(segment["pictures"] for segment in segments)
    if count < 2:
        raise decode.DecodeError(f"{count} frames, need at least 2")
    return {"frames": count, "segments": segments, **_sizes(out, segments), **damage}


def _photo(source: Source, settings: Settings, out: Path, key: str) -> dict[str, Any]:
    """`shard`: one or two squares."""
    picture = decode.decode_picture(source.paths[0])
    shard = _save(out, f"photos-{key}", decode.squares(picture, settings.photo_size))
    return {"shard": shard, **_sizes(out, [shard])}


def _pair(source: Source, settings: Settings, out: Path, key: str) -> dict[str, Any]:
    """`frames`, and the shards `source` and `styled`."""
    sizes = []
    shards: dict[str, list[Shard]] = {}
    for side, path in zip(("source", "styled"), source.paths, strict=True):
        try:
            size, frames = _open_pair_side(path, settings.frame_size)
            shards[side] = [
                _save(out, f"pairs-{key}-{side}-{i:05d}", segment)
                for i, segment in enumerate(_in_segments(frames))
            ]
        except decode.DecodeError as error:
            raise MirageError(
                f"cannot read {path} ({error}): replace it, or remove it and its twin"
            ) from error
        sizes.append(size)
    counts = [sum(s["pictures"] for s in shards[side]) for side in shards]
    for what, (ours, theirs) in (("frames", counts), ("height and width", sizes)):
        if ours != theirs or not ours:
            raise MirageError(
                f"pair {source.style}/{source.name}: {what} {ours} in source, "
                f"{theirs} in styled; make them equal"
            )
    return {
        "frames": counts[0],
        **shards,
        **_sizes(out, shards["source"] + shards["styled"]),
    }


def _open_pair_side(
    path: Path, size: tuple[int, int]
) -> tuple[tuple[int, int], Iterable[np.ndarray]]:
    """Height and width in the file, and its frames (one for a picture)."""
    if path.suffix.lower() in decode.PICTURE_ENDINGS:
        picture = decode.decode_picture(path)
        return (picture.height, picture.width), [decode.cover(picture, size)]
    return decode.probe(path)[1:], decode.decode_clip(path, size)


def _in_segments(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Stacks of at most _SEGMENT frames; what came before an error is yielded too."""
    held: list[np.ndarray] = []
    try:
        for frame in frames:
            held.append(frame)
            if len(held) == _SEGMENT:
                yield np.stack(held)
                held = []
    except decode.DecodeError:
        if held:
            yield np.stack(held)
        raise
    if held:
        yield np.stack(held)


def _save(out: Path, name: str, pictures: np.ndarray) -> Shard:
    save_array(out / f"{name}.npy", np.ascontiguousarray(pictures))
    return {"file": f"{name}.npy", "pictures": len(pictures)}


def _sizes(out: Path, shards: Iterable[Shard]) -> dict[str, Any]:
    """What `_finished` checks."""
    return {"bytes": {s["file"]: (out / s["file"]).stat().st_size for s in shards}}


def clip_weight(frames: int) -> float:
    """How often a clip is drawn: long clips more, but not in proportion.

    A clip that is ten times as long does not show ten times as much.
    """
    return math.sqrt(frames)
