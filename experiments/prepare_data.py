"""Turns folders of clips and photographs into training data.

    python -m experiments.prepare_data --clips=CLIPS --photos=PHOTOS --out=DATA

Writes shards, `manifest.json` and `prompts.npz` (the styles' wordings, encoded). A
second run makes only what is missing; the same files give the same bytes. Files that
cannot be read are skipped and listed, in the manifest too. Users' own styles:
`--pairs=FOLDER` with `source/NAME.mp4`, `styled/NAME.mp4` and `prompts.txt`.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from absl import app, flags
from tqdm import tqdm

from mirage_jax.data import prepare
from mirage_jax.data.prepare import Settings, Source
from mirage_jax.data.shards import (
    MANIFEST,
    read_manifest,
    write_manifest,
)
from mirage_jax.errors import MirageError
from mirage_jax.staged_file import remove_unfinished

_CLIPS = flags.DEFINE_multi_string("clips", [], "Folder of videos; repeatable.")
_PHOTOS = flags.DEFINE_multi_string("photos", [], "Folder of pictures; repeatable.")
_PAIRS = flags.DEFINE_multi_string("pairs", [], "Folder of pairs; repeatable.")
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_FRAME_SIZE = flags.DEFINE_string("frame_size", "384x512", "HEIGHTxWIDTH of frames.")
_PHOTO_SIZE = flags.DEFINE_integer(
    "photo_size", 512, "Side of the photographs' squares.", lower_bound=64
)
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes; 0: a core each.", 0)
_MOST_FRAMES = flags.DEFINE_integer(
    "max_frames_per_clip", 0, "Keep one stretch of a longer clip; 0: all of it.", 0
)
_SEED = flags.DEFINE_integer("seed", 0, "Where that stretch begins.", 0)
_PROMPTS_ONLY = flags.DEFINE_bool("prompts_only", False, "Write only prompts.npz.")

Records = list[tuple[Source, dict[str, Any]]]


def main(_: list[str]) -> None:
    """Write shards and manifest, then the prompts."""
    started = time.monotonic()
    out = Path(_OUT.value)
    if not _PROMPTS_ONLY.value:
        settings = Settings(
            frame_size=_parse_size(_FRAME_SIZE.value),
            photo_size=_PHOTO_SIZE.value,
            most_frames=_MOST_FRAMES.value,
            seed=_SEED.value,
        )
        folders = {
            "clip": _CLIPS.value,
            "photo": _PHOTOS.value,
            "pair": _PAIRS.value,
        }
        prepare_shards(folders, settings, out, _WORKERS.value or os.cpu_count() or 1)
    own_styles = _own_styles(out)
    # Late, because the decoding processes import this file and need no JAX.
    from mirage_jax.data.prompt_table import write_prompts

    out.mkdir(parents=True, exist_ok=True)
    table = write_prompts(out, own_styles)
    print(
        f"{len(table.style_names)} styles, {int(table.train_counts.sum())} wordings, "
        f"{int(table.held_out_counts.sum())} held out"
    )
    print(f"{out}: done in {time.monotonic() - started:.1f} s")


def prepare_shards(
    folders: Mapping[str, Sequence[str | Path]],
    settings: Settings,
    out: Path,
    workers: int,
) -> None:
    """Make what is missing of all shards, then write the manifest.

    Args:
      folders: of each kind, "clip", "photo" and "pair".
      settings: what the shards depend on.
      out: made if it is missing.
      workers: processes at most; 1 decodes in this one.

    Raises:
      MirageError: a folder is missing, nothing can be read, or a pair does not match.
    """
    sources = []
    for kind in ("clip", "photo"):
        for folder in folders.get(kind, ()):
            sources += prepare.find_sources(Path(folder), kind)
    wordings = {}
    for folder in folders.get("pair", ()):
        pairs, prompts = prepare.find_pairs(Path(folder))
        style = pairs[0].style
        if style in wordings:
            raise MirageError(f"two folders of pairs named {style!r}: rename one")
        sources += pairs
        wordings[style] = prompts
    if not sources:
        raise MirageError(
            "no videos or pictures found: give folders by --clips, --photos, --pairs"
        )
    out.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out)
    records = run_all(sources, settings, out, min(workers, len(sources)))
    manifest = make_manifest(records, wordings, settings)
    if not (manifest["clips"] or manifest["photos"] or manifest["styles"]):
        path, reason = manifest["skipped"][0]["path"], manifest["skipped"][0]["reason"]
        raise MirageError(f"no file could be read; the first: {path}: {reason}")
    write_manifest(out, manifest)
    _report(manifest, records)


def run_all(
    sources: list[Source], settings: Settings, out: Path, workers: int
) -> Records:
    """Prepare all sources, in processes if `workers` is above 1; in order."""
    progress = tqdm(total=len(sources), unit="file", disable=None)
    records: dict[int, dict[str, Any]] = {}
    if workers == 1:
        for i, source in enumerate(sources):
            records[i] = prepare.prepare_source(source, settings, out)
            progress.update()
        progress.close()
        return [(source, records[i]) for i, source in enumerate(sources)]
    # The largest first, else the longest clip is what everybody waits for.
    order = sorted(range(len(sources)), key=lambda i: -_bytes(sources[i]))
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    # Ctrl-C reaches every process of a terminal; only this one shall answer it. The
    # processes are born at the first submit, and keep what they inherit.
    answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        futures: dict[Future, int] = {
            pool.submit(prepare.prepare_source, sources[i], settings, out): i
            for i in order
        }
        signal.signal(signal.SIGINT, answer)
        for future in as_completed(futures):
            records[futures[future]] = future.result()
            progress.update()
    except BrokenProcessPool as error:
        raise MirageError(
            "a decoding process was killed, perhaps for memory: run again with fewer "
            f"than --workers={workers}; finished files are kept"
        ) from error
    except BaseException:
        for process in active_children():
            process.terminate()
        raise
    finally:
        signal.signal(signal.SIGINT, answer)
        progress.close()
        pool.shutdown(cancel_futures=True)
    return [(source, records[i]) for i, source in enumerate(sources)]


def make_manifest(
    records: Records, wordings: dict[str, list[str]], settings: Settings
) -> dict[str, Any]:
    """The list of all shards, in the sources' order; no dates, no absolute paths."""
    clips, photos, skipped = [], [], []
    pairs: dict[str, list[dict[str, Any]]] = {style: [] for style in wordings}
    seen: dict[str, str] = {}
    for source, record in records:
        key, name = record["key"], source.name
        twin = seen.setdefault(key, name) if source.kind != "pair" else name
        reason = record.get("skipped")
        if reason is None and twin != name:
            reason = f"the same bytes as {twin}"
        if reason is not None:
            skipped.append({"path": name, "reason": reason})
            continue
        if "damaged" in record:
            kept = f"only the first {record['frames']} frames: {record['damaged']}"
            skipped.append({"path": name, "reason": kept})
        if source.kind == "clip":
            clips.append(
                {
                    "name": name,
                    "frames": record["frames"],
                    "weight": prepare.clip_weight(record["frames"]),
                    "segments": record["segments"],
                }
            )
        elif source.kind == "photo":
            photos.append({"name": name, **record["shard"]})
        else:
            keep = {k: record[k] for k in ("frames", "source", "styled")}
            pairs[source.style].append({"name": name, **keep})
    styles = [
        {"name": style, "prompts": wordings[style], "pairs": found}
        for style, found in pairs.items()
    ]
    return {
        "frame_size": list(settings.frame_size),
        "photo_size": [settings.photo_size, settings.photo_size],
        "max_frames_per_clip": settings.most_frames,
        "seed": settings.seed,
        "clips": clips,
        "photos": photos,
        "styles": styles,
        "skipped": skipped,
    }


def _own_styles(out: Path) -> dict[str, list[str]]:
    if not (out / MANIFEST).is_file():
        return {}
    return {s["name"]: s["prompts"] for s in read_manifest(out)["styles"]}


def _parse_size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 64:
        raise MirageError(
            f"--frame_size={text}: give HEIGHTxWIDTH, 64 or more, such as 384x512"
        )
    return height, width


def _bytes(source: Source) -> int:
    return sum(path.stat().st_size for path in source.paths)


def _report(manifest: dict[str, Any], records: Records) -> None:
    clips, photos = manifest["clips"], manifest["photos"]
    size = sum(n for _, record in records for n in record.get("bytes", {}).values())
    print(f"{len(clips)} clips, {sum(c['frames'] for c in clips)} frames")
    print(f"{len(photos)} photographs, {sum(p['pictures'] for p in photos)} squares")
    for style in manifest["styles"]:
        print(f"style {style['name']}: {len(style['pairs'])} pairs")
    print(f"{size / 2**30:.2f} GiB of pictures")
    for item in manifest["skipped"]:
        print(f"skipped {item['path']}: {item['reason']}")


def _stop(number: int, _: object) -> None:
    sys.exit(128 + number)  # unwinds, so that the processes are ended too


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        app.run(main)
    except MirageError as error:
        sys.exit(f"prepare_data: {error}")
    except OSError as error:
        sys.exit(f"prepare_data: {error}; free some space or choose another --out")
    except KeyboardInterrupt:
        print("prepare_data: stopped; run it again to go on", file=sys.stderr)
        sys.exit(130)
