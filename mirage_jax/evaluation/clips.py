"""Clips that no training has seen: from video files, or photographs under a camera."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from mirage_jax.data import camera_path
from mirage_jax.data.decode import PICTURE_ENDINGS, VIDEO_ENDINGS
from mirage_jax.data.warp import warp
from mirage_jax.errors import MirageError
from mirage_jax.pixels import to_bytes
from mirage_jax.video.frame_size import fit_frame
from mirage_jax.video.reader import VideoReader

LONGEST_FILE = 1500  # frames of a file that are looked at; bounds the memory


@dataclass(frozen=True)
class HeldOutClips:
    """Square clips of one length, the same moments at every size.

    Attributes:
      names: one a clip: file name and first frame, or the photograph's name.
      files: for each clip the place of its file among all files.
      frames: size to uint8 pictures [C, T, size, size, 3].
    """

    names: tuple[str, ...]
    files: tuple[int, ...]
    frames: dict[int, UInt8[np.ndarray, "C T S S 3"]]

    def first_of_each_file(self) -> tuple[int, ...]:
        """The first clip of every file: the most different ones there are."""
        return tuple(
            clip
            for clip, file in enumerate(self.files)
            if clip == self.files.index(file)
        )


def load_clips(
    folder: str | os.PathLike[str], sizes: Sequence[int], length: int, segments: int
) -> HeldOutClips:
    """Up to `segments` clips of `length` frames, evenly spread, from every video file.

    A file gives fewer when they would overlap; one that is too short for a single clip
    is played to and fro. Pictures are cropped to a square around the centre.

    Raises:
      MirageError: no folder, no video in it, or a file that cannot be read.
    """
    paths = _files(folder, VIDEO_ENDINGS, "video")
    names, files = [], []
    pictures: dict[int, list[np.ndarray]] = {size: [] for size in sizes}
    for file, path in enumerate(paths):
        with VideoReader(path) as reader:
            images = [frame.image for frame in islice(reader, LONGEST_FILE)]
        for moments in _moments(len(images), length, segments):
            names.append(f"{path.stem}:{moments[0]}")
            files.append(file)
            for size in sizes:
                clip = [fit_frame(images[moment], size, size) for moment in moments]
                pictures[size].append(np.stack(clip))
    frames = {size: np.stack(clips) for size, clips in pictures.items()}
    return HeldOutClips(tuple(names), tuple(files), frames)


def photo_clips(
    folder: str | os.PathLike[str], sizes: Sequence[int], length: int, seed: int
) -> HeldOutClips:
    """One clip from every photograph, under a camera path drawn from `seed`.

    Raises:
      MirageError: no folder, no photograph in it, or a file that cannot be read.
    """
    paths = _files(folder, PICTURE_ENDINGS, "photograph")
    frames: dict[int, list[np.ndarray]] = {size: [] for size in sizes}
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as file:
                photo = np.asarray(file.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise MirageError(f"cannot read {path}: {error}; remove it") from error
        # One square for all photographs: one compiled camera.
        photo = fit_frame(photo, max(sizes), max(sizes))
        draws = np.random.default_rng((seed, number)).random(camera_path.DRAWS)
        for size in sizes:
            frames[size].append(np.asarray(_travel(draws, photo, length, size)))
    return HeldOutClips(
        names=tuple(path.stem for path in paths),
        files=tuple(range(len(paths))),
        frames={size: np.stack(clips) for size, clips in frames.items()},
    )


def join_clips(first: HeldOutClips, second: HeldOutClips) -> HeldOutClips:
    """Both collections, which must have the same sizes and length."""
    offset = max(first.files) + 1
    return HeldOutClips(
        names=first.names + second.names,
        files=first.files + tuple(offset + file for file in second.files),
        frames={
            size: np.concatenate([frames, second.frames[size]])
            for size, frames in first.frames.items()
        },
    )


def to_and_fro(period: int) -> np.ndarray:
    """Source frame at each moment of a loop without a cut: 0 1 2 .. p/2 .. 2 1."""
    if period < 2 or period % 2:
        raise ValueError(f"a loop to and fro has an even period, not {period=}")
    moments = np.arange(period)
    return np.minimum(moments, period - moments)


def _moments(available: int, length: int, segments: int) -> Iterator[np.ndarray]:
    """Frame numbers of every clip of a file."""
    if available < length:
        period = max(2 * (available - 1), 2)
        yield np.minimum(to_and_fro(period), available - 1)[np.arange(length) % period]
        return
    count = min(segments, available // length)
    for start in np.linspace(0, available - length, count).astype(int):
        yield start + np.arange(length)


def _files(
    folder: str | os.PathLike[str], endings: tuple[str, ...], kind: str
) -> list[Path]:
    folder = Path(folder)
    if not folder.is_dir():
        raise MirageError(f"there is no folder {folder}: name one with {kind} files")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
    if not paths:
        raise MirageError(
            f"{folder} holds no {kind} ({', '.join(endings)}): name another folder"
        )
    return paths


def _travel(draws: np.ndarray, photo: np.ndarray, length: int, size: int) -> jax.Array:
    """The photograph [S, S, 3] along the path of these draws, uint8 [T, size, ..]."""
    path = camera_path.draw_path(jnp.asarray(draws, jnp.float32))
    pose = camera_path.poses(path, jnp.arange(length, dtype=jnp.float32))
    maps = camera_path.homographies(pose, photo.shape[:2], (size, size))
    exposure = jnp.exp(pose[:, camera_path.LOG_EXPOSURE])[:, None, None, None]
    pixels = jnp.asarray(photo)
    views = jax.lax.map(lambda one: warp(pixels, one, (size, size)), maps)
    return to_bytes(views * exposure)
