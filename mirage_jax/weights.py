"""Weights on disk: safetensors, 8-bit where it costs nothing, checked on load.

A model is a folder with `codec.safetensors` and `denoiser.safetensors`; either may be
split into parts, `denoiser-1-of-2.safetensors` and so on. Each file carries its
configuration and a SHA-256 over names, types, shapes and bytes of all parts. Large
kernels may be stored as int8 with a float32 scale per output channel and are widened
on load.
"""

import dataclasses
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mirage_jax.codec import init_codec
from mirage_jax.config import CodecConfig, DenoiserConfig, ModelConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.errors import MirageError
from mirage_jax.staged_file import StagedFile, write_errors

Params = dict[str, Any]
FORMAT = "mirage-jax 1"
SCALE = ".scale"  # suffix of the per-channel scales of an int8 tensor


@dataclasses.dataclass(frozen=True)
class Model:
    """A model ready to run: configuration, float32 parameters, and what they are.

    Attributes:
      config: codec and denoiser sizes.
      params: {"codec": ..., "denoiser": ...} as numpy arrays.
      sha256: hash over both files' hashes, 64 hex digits.
    """

    config: ModelConfig
    params: Params
    sha256: str


def flatten(tree: Params) -> dict[str, np.ndarray]:
    """Nested dictionaries to "a/b/c" names."""
    return {name: np.asarray(leaf) for name, leaf in _named_leaves(tree)}


def _named_leaves(tree: Params) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield "/".join(str(entry.key) for entry in path), leaf


def unflatten(flat: dict[str, np.ndarray]) -> Params:
    """Inverse of `flatten`."""
    tree: Params = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def quantise(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float kernel [..., in, out] to int8 and a scale per output channel.

    Kernels stacked by layer ([L, in, out]) get a scale per layer and channel.
    """
    axes = (1,) if kernel.ndim == 3 else tuple(range(kernel.ndim - 1))
    scale = np.abs(kernel).max(axis=axes, keepdims=True).astype(np.float32) / 127
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    values = np.clip(np.round(kernel / scale), -127, 127).astype(np.int8)
    return values, scale


def _digest(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _save(tensors: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    """One file; raises OSError where the library has an error of its own."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(0o644)  # the library leaves it readable for its owner only


def _split(
    tensors: dict[str, np.ndarray], part_bytes: int
) -> list[dict[str, np.ndarray]]:
    """Tensors in parts of at most `part_bytes` (a larger tensor has its own)."""
    parts: list[dict[str, np.ndarray]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if parts[-1] and filled + tensor.nbytes > part_bytes:
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled += tensor.nbytes
    return parts


def _parts_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}-[0-9]*-of-[0-9]*{path.suffix}"))


def weight_files(path: Path) -> list[Path]:
    """The file itself, or the parts that stand for it, in order."""
    return [path] if path.exists() else _parts_of(path)


def save_weights(
    path: Path | str,
    tree: Params,
    config: Any,
    *,
    to_int8: Callable[[str, np.ndarray], bool] = lambda name, tensor: False,
    dtype: str = "float32",
    part_bytes: int = 2**62,
) -> str:
    """Writes weights atomically and returns their hash.

    Args:
      path: the file; it is written beside and renamed. An older one is replaced,
        parts included.
      tree: nested dictionaries of float arrays.
      config: the frozen dataclass that the tensors belong to.
      to_int8: which tensors are stored as int8 with scales, by name and value.
      dtype: type of all other tensors.
      part_bytes: split into several files above this size.

    Raises:
      MirageError: the disk is full or refuses; older weights stay as they were.
    """
    path = Path(path)
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in flatten(tree).items():
        if to_int8(name, tensor):
            tensors[name], tensors[name + SCALE] = quantise(tensor)
        else:
            tensors[name] = np.ascontiguousarray(tensor.astype(dtype))
    metadata = {
        "format": FORMAT,
        "kind": type(config).__name__,
        "config": json.dumps(dataclasses.asdict(config)),
        "sha256": _digest(tensors),
    }
    parts = _split(tensors, part_bytes)
    names = (
        [path]
        if len(parts) == 1
        else [
            path.with_name(f"{path.stem}-{number}-of-{len(parts)}{path.suffix}")
            for number in range(1, len(parts) + 1)
        ]
    )
    files: list[StagedFile] = []
    try:
        for part, final in zip(parts, names, strict=True):
            files.append(StagedFile(final))
            with write_errors(final):
                _save(part, files[-1].temporary, metadata)
        for file in files:
            file.publish()
        for old in {path, *_parts_of(path)}.difference(names):
            old.unlink(missing_ok=True)
    finally:
        for file in files:
            file.discard()
    return metadata["sha256"]


def _read(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    files = weight_files(path)
    if not files:
        raise MirageError(
            f"no weights at {path}: give a folder with codec.safetensors and "
            "denoiser.safetensors, or the name of a shipped model"
        )
    tensors: dict[str, np.ndarray] = {}
    for part in files:
        try:
            with safe_open(part, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise MirageError(
                f"cannot read weights {part} ({error}): fetch or train them again"
            ) from None
        if metadata.get("format") != FORMAT or metadata.get("kind") != kind:
            raise MirageError(
                f"{part} holds no {kind} weights of this program: take a file that its "
                "training scripts wrote"
            )
    if _digest(tensors) != metadata.get("sha256"):
        raise MirageError(
            f"{path} is damaged (hash differs) or lacks a part: fetch it again"
        )
    return tensors, metadata


def _config(text: str, cls: type) -> Any:
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise TypeError(f"{text[:40]!r} names no settings")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def load_weights(
    path: Path | str, config_class: type, init: Callable[[Any], Params]
) -> tuple[Params, Any, str]:
    """Reads and checks one file; returns float32 tree, its configuration, its hash.

    Args:
      path: the file.
      config_class: dataclass that the file must be made for.
      init: gives parameters of a configuration; only their names and shapes are used.

    Raises:
      MirageError: missing, unreadable, foreign or damaged file, or tensors that do not
        belong to the stored configuration.
    """
    path = Path(path)
    tensors, metadata = _read(path, config_class.__name__)
    try:
        config = _config(metadata["config"], config_class)
        shapes = flatten_shapes(jax.eval_shape(lambda: init(config)))
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise MirageError(
            f"{path} has a configuration that fits nothing ({error}): the file is "
            "from another version"
        ) from None
    wide = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        wide[name] = tensor.astype(np.float32) * (1 if scale is None else scale)
    found = {name: tensor.shape for name, tensor in wide.items()}
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            raise MirageError(
                f"{path}: tensor {name} is {found.get(name)} where "
                f"{shapes.get(name)} belongs: the file is from another version"
            )
    return unflatten(wide), config, metadata["sha256"]


def flatten_shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a tree of arrays or shape structs."""
    return {name: tuple(leaf.shape) for name, leaf in _named_leaves(tree)}


def load_codec(path: Path | str) -> tuple[Params, CodecConfig, str]:
    """Codec parameters, configuration and hash of one file."""
    return load_weights(
        path, CodecConfig, lambda config: init_codec(jax.random.key(0), config)
    )


def model_folder(name_or_folder: str) -> Path:
    """A folder, or the folder of a model that ships with the package."""
    if "/" not in name_or_folder:
        shipped = importlib.resources.files("mirage_jax") / "models" / name_or_folder
        if Path(str(shipped)).is_dir():
            return Path(str(shipped))
    return Path(name_or_folder)


def load_model(name_or_folder: str) -> Model:
    """Loads a shipped model by name ("default") or any model folder by path."""
    folder = model_folder(name_or_folder)
    codec, codec_config, codec_hash = load_codec(folder / "codec.safetensors")

    def init(config: DenoiserConfig) -> Params:
        return init_denoiser(jax.random.key(0), ModelConfig(codec_config, config))

    denoiser, denoiser_config, denoiser_hash = load_weights(
        folder / "denoiser.safetensors", DenoiserConfig, init
    )
    both = hashlib.sha256((codec_hash + denoiser_hash).encode()).hexdigest()
    return Model(
        config=ModelConfig(codec_config, denoiser_config),
        params={"codec": codec, "denoiser": denoiser},
        sha256=both,
    )
