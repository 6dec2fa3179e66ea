"""Proves on the present GPU that the kernels leave a trained model's pictures alone.

    python -m experiments.kernel_quality --sizes=512

The model streams the same clips by several paths: float32 and bfloat16 without our
kernels, bfloat16 by whatever the library chooses here and by all kernels that can run,
and 8 bits. A path's PSNR against each style's teacher is compared with that of plain
bfloat16. Writes one JSON file, which says on which backend each operation ran, prints a
table, and exits with 1 where a path loses more than it may. Without a GPU only XLA
runs: that tests the script.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float, UInt8

import mirage_jax
from experiments.backends_used import backends_used
from experiments.command import command
from experiments.memory_calls import able
from mirage_jax.data.prompts import HELD_OUT_PROMPTS
from mirage_jax.data.teachers import Style, comparable_styles, find_style
from mirage_jax.device_weights import device_weights
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.clips import load_clips
from mirage_jax.evaluation.metrics import psnr
from mirage_jax.evaluation.targets import make_targets
from mirage_jax.precision import fields_of
from mirage_jax.results import Result, device_setup, write_results
from mirage_jax.stream import make_scan, open_stream
from mirage_jax.stream_config import StreamConfig
from mirage_jax.text import encode_text
from mirage_jax.weights import Model, load_model
from pallas_kernels import device

_MODEL = flags.DEFINE_string("model", "default", "Name of a shipped model or a folder.")
_CLIPS = flags.DEFINE_string(
    "clips", None, "Folder of videos; the clip that comes with the package by default."
)
_SIZES = flags.DEFINE_multi_integer(
    "sizes", [], "Sides of square frames; 256 and 512 by default, without a GPU 64."
)
_STEPS = flags.DEFINE_multi_integer("steps", [1], "Denoiser passes a frame.")
_FRAMES = flags.DEFINE_integer("frames", 48, "Frames of a clip.")
_SEGMENTS = flags.DEFINE_integer("segments", 2, "Clips taken from every video file.")
_STYLES = flags.DEFINE_list("styles", [], "Names of styles; all formulas by default.")
_PATHS = flags.DEFINE_list(
    "paths", [], "Names of paths; those that this device can run by default."
)
_MOST = flags.DEFINE_float("most_db", 0.05, "Mean loss that bfloat16 kernels may make.")
_MOST_STYLE = flags.DEFINE_float("most_style_db", 0.1, "The same of any one style.")
_MOST_8BIT = flags.DEFINE_float("most_8bit_db", 0.2, "Mean loss that 8 bits may make.")
_OUT = flags.DEFINE_string(
    "out", None, "Results; docs/results/kernel_quality_<device>.json by default."
)

PLAIN = {"attention": "xla", "kernels": "xla", "linear": "xla"}
# What a path changes in `StreamConfig`: the definition, what is compared with, ours.
PATHS: dict[str, dict[str, Any]] = {
    "float32": fields_of("float32") | PLAIN,
    "plain": PLAIN,
    "kernels": {},
    # The library chooses by time: a kernel that never wins is proved by name.
    "triton": {"attention": "triton", "kernels": "triton"},
    "mosaic": {"attention": "mosaic", "kernels": "triton", "linear": "mosaic"},
    "int8": fields_of("int8"),
    "float8": fields_of("float8"),
}
FLOAT8_CAPABILITY = (8, 9)
OURS = ("triton", "mosaic")
Clip = UInt8[np.ndarray, "T S S 3"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A style's source and target frames of one clip, and the style's prompt."""

    style: str
    clip: str
    source: Clip
    target: Clip
    prompt: Float[np.ndarray, " 384"]


def kernel_quality() -> bool:
    """Runs what the flags ask for; whether a path lost more than it may."""
    begin = time.perf_counter()
    card = device.present()
    if card is None:
        print("no NVIDIA GPU here: XLA stands in for the kernels")
    sizes = _SIZES.value or ([64] if card is None else [256, 512])
    model = load_model(_MODEL.value)
    paths = ["plain", "float32", *(_PATHS.value or _able(card))]
    if unknown := set(paths) - PATHS.keys():
        raise MirageError(f"--paths: {min(unknown)!r} is none of {', '.join(PATHS)}")
    folder = _CLIPS.value or Path(mirage_jax.__file__).parent / "assets"
    clips = load_clips(folder, sizes, _FRAMES.value, _SEGMENTS.value)
    styles = comparable_styles(None)
    if _STYLES.value:
        styles = tuple(find_style(name, styles) for name in _STYLES.value)
    wording = {style.name: HELD_OUT_PROMPTS[style.name][0] for style in styles}
    prompts = encode_text(list(wording.values()))

    slug = "cpu" if card is None else card.slug
    out = _OUT.value or f"docs/results/kernel_quality_{slug}.json"
    setup = device_setup() | {
        "model": _MODEL.value,
        "weights_sha256": model.sha256,
        "clips": list(clips.names),
        "clip_frames": _FRAMES.value,
        "prompts": wording,
        "batch": 1,
        "most_db": [_MOST.value, _MOST_STYLE.value, _MOST_8BIT.value],
    }
    values: dict[str, float] = {}
    chosen: dict[str, dict[str, str | None]] = {}
    for size, steps in itertools.product(sizes, _STEPS.value):
        pairs = _pairs(styles, prompts, clips.names, clips.frames[size])
        where, styled = f"{size}/{steps}", {}
        for path in paths:
            stream = StreamConfig(size, size, steps=steps, **PATHS[path])
            try:
                styled[path] = _stream(model, stream, pairs)
            except NotImplementedError as error:
                raise MirageError(
                    f"path {path!r} cannot run here: {error}; choose --paths"
                ) from error
            chosen[f"{path}/{where}"] = backends_used(stream)
        values |= _scores(styled, pairs, where)
        print(_table(values, paths, [s.name for s in styles], where), flush=True)
        # A run that is cut off keeps what it has.
        setup["last_backends"] = chosen
        setup["seconds"] = round(time.perf_counter() - begin, 1)
        results = [Result(n, v, "dB", "higher") for n, v in sorted(values.items())]
        write_results(out, "experiments/kernel_quality.py", setup, results)
    losses = _losses(values, paths)
    for name, backends in chosen.items():
        ours = [op for op, backend in backends.items() if backend in OURS]
        if not name.startswith(("float32", "plain")):
            print(f"{name}: kernels of ours ran in {', '.join(ours) or 'nothing'}")
    for loss in losses:
        print(loss)
    print(f"results in {out}")
    return bool(losses)


def _able(card: device.Device | None) -> list[str]:
    """Paths of ours that a card can run."""
    named = [name for name in OURS if card is not None and able(name, card)]
    eight = ["int8"]
    if card is None or card.capability >= FLOAT8_CAPABILITY:
        eight.append("float8")
    return ["kernels", *named, *eight]


def _pairs(
    styles: Sequence[Style],
    prompts: Float[np.ndarray, "n 384"],
    names: Sequence[str],
    clips: UInt8[np.ndarray, "C T S S 3"],
) -> list[Pair]:
    """Every style on every clip."""
    index, key = np.arange(clips.shape[1], dtype=np.int32), jax.random.key(0)
    pairs = []
    for style, prompt in zip(styles, prompts, strict=True):
        teach = jax.jit(make_targets(style))
        for name, clip in zip(names, clips, strict=True):
            source, target = jax.device_get(teach(clip, index, key))
            pairs.append(Pair(style.name, name, source, target, prompt))
    return pairs


def _stream(model: Model, stream: StreamConfig, pairs: Sequence[Pair]) -> list[Clip]:
    """The styled frames of each pair, one stream at a time as a viewer's."""
    convert = jax.jit(device_weights, static_argnums=1)
    params = convert(jax.device_put(model.params), stream)
    begin = jax.jit(open_stream, static_argnums=(1, 2))
    scan = make_scan(model.config, stream)
    styled = []
    for pair in pairs:
        prompt, key = jnp.asarray(pair.prompt)[None], jax.random.key(0)
        state = begin(params, model.config, stream, prompt, key)
        _, frames = scan(params, state, pair.source[:, None])
        styled.append(np.asarray(frames[:, 0]))
    return styled


def _scores(
    styled: dict[str, list[Clip]], pairs: Sequence[Pair], where: str
) -> dict[str, float]:
    """PSNR by each path of clips and styles, its change, and that against float32."""
    measure = jax.jit(_mean_psnr)
    values: dict[str, float] = {}
    for path, clips in styled.items():
        own: dict[str, list[float]] = {}
        exact = []
        for pair, clip, definition in zip(pairs, clips, styled["float32"], strict=True):
            found = float(measure(clip, pair.target))
            values[f"psnr_clip/{path}/{pair.style}/{pair.clip}/{where}"] = found
            own.setdefault(pair.style, []).append(found)
            exact.append(float(measure(clip, definition)))
        for style, each in own.items():
            values[f"psnr/{path}/{style}/{where}"] = float(np.mean(each))
        values[f"psnr_exact/{path}/{where}"] = float(np.mean(exact))
        changes = []
        for style in own:
            name = f"{style}/{where}"
            changes.append(values[f"psnr/{path}/{name}"] - values[f"psnr/plain/{name}"])
            values[f"psnr_change/{path}/{name}"] = changes[-1]
        values[f"psnr_change/{path}/mean/{where}"] = float(np.mean(changes))
    return values


def _mean_psnr(images: Array, targets: Array) -> Array:
    return psnr(images / 255, targets / 255).mean()


def _losses(values: dict[str, float], paths: Sequence[str]) -> list[str]:
    """A line for each change that is a larger loss than its path may make."""
    lines = []
    for name, value in values.items():
        kind, path, style, *_ = name.split("/")
        if kind != "psnr_change" or path not in paths or path in ("float32", "plain"):
            continue
        if "eight_bit" not in PATHS[path]:
            most = _MOST.value if style == "mean" else _MOST_STYLE.value
        elif style == "mean":
            most = _MOST_8BIT.value
        else:
            continue
        if not value >= -most:  # what is no number is a loss
            lines.append(f"LOSS  {name}: {value:.3f} dB, at most {-most:g}")
    return lines


def _table(
    values: dict[str, float], paths: Sequence[str], styles: Sequence[str], where: str
) -> str:
    lines = [f"{where:<18}" + "".join(f"{path:>10}" for path in paths)]
    for style in styles:
        row = [values[f"psnr/{path}/{style}/{where}"] for path in paths]
        lines.append(f"{style:<18}" + "".join(f"{value:10.2f}" for value in row))
    for label, name in (
        ("mean change", "psnr_change/{}/mean"),
        ("to float32", "psnr_exact/{}"),
    ):
        row = [values[f"{name.format(path)}/{where}"] for path in paths]
        lines.append(f"{label:<18}" + "".join(f"{value:10.3f}" for value in row))
    return "\n".join(lines)


main = command("kernel_quality", kernel_quality)

if __name__ == "__main__":
    app.run(main)
