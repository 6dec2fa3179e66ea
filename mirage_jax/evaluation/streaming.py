"""The compiled parts of an evaluation: stream, codec round trip, scores, baselines.

All clips are uint8 and time comes first: [T, B, H, W, 3] with B streams side by side.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mirage_jax import codec
from mirage_jax.config import CodecConfig
from mirage_jax.evaluation import colour_transfer, metrics
from mirage_jax.pixels import to_bytes, to_floats

Clip = UInt8[Array, "T B H W 3"]
Pair = tuple[Array, Array]


@flax.struct.dataclass
class Scores:
    """Every frame of every stream against the teacher's.

    Attributes:
      psnr: dB.
      ssim: of the luminance.
      sharpness: the frame's over the teacher's; below 1 is blurred.
      change: since the frame before, in squared levels of 8 bits, over the cells where
        the teacher stands still (`metrics.flicker`).
      still: share of those cells; 0 for the first frame.
    """

    psnr: Float[Array, "T B"]
    ssim: Float[Array, "T B"]
    sharpness: Float[Array, "T B"]
    change: Float[Array, "T B"]
    still: Float[Array, "T B"]


def score(styled: Clip, target: Clip) -> Scores:
    """Scores of a clip, one frame of all streams at a time."""

    def frame(previous: Pair, current: Pair) -> tuple[Pair, Scores]:
        images, wanted = to_floats(current[0]), to_floats(current[1])
        change, still = metrics.flicker(
            to_floats(previous[0]), images, to_floats(previous[1]), wanted
        )
        sharpness = metrics.sharpness(wanted)
        scores = Scores(
            psnr=metrics.psnr(images, wanted),
            ssim=metrics.ssim(metrics.luma(images), metrics.luma(wanted)),
            sharpness=metrics.sharpness(images) / jnp.maximum(sharpness, 1e-6),
            change=change,
            still=still,
        )
        return current, scores

    _, scores = jax.lax.scan(frame, (styled[0], target[0]), (styled, target))
    # The first frame has none before it.
    return dataclasses.replace(scores, still=scores.still.at[0].set(0))


def round_trip(
    params: dict[str, Any],
    images: UInt8[Array, "B H W 3"],
    config: CodecConfig,
    dtype: str,
) -> UInt8[Array, "B H W 3"]:
    """Pictures encoded and decoded: the best that any latent can be shown as."""
    latents = codec.encode(params, to_floats(images), config, jnp.dtype(dtype))
    return to_bytes(codec.decode(params, latents, config, jnp.dtype(dtype)))


def round_trips(
    params: dict[str, Any], clip: Clip, config: CodecConfig, dtype: str
) -> Clip:
    """The same of every frame of a clip."""
    return jax.lax.map(lambda images: round_trip(params, images, config, dtype), clip)


def baselines(
    source: UInt8[Array, "T H W 3"], target: UInt8[Array, "T H W 3"]
) -> dict[str, Float[Array, " T"]]:
    """What one clip scores without a model.

    Returns:
      By name, a number a frame: `psnr_source` and `ssim_source` of the untouched
      source; `..._colour_transfer` of the best function of each channel;
      `psnr_colour_map` of the best function of a pixel's whole colour.
    """
    table = colour_transfer.fit_lookup(source, target)
    cube = colour_transfer.fit_cube(source, target)

    def frame(pair: Pair) -> dict[str, Array]:
        pixels, wanted = pair[0], to_floats(pair[1])
        gray = metrics.luma(wanted)
        transferred = colour_transfer.apply_lookup(table, pixels)
        mapped = colour_transfer.apply_cube(cube, pixels)
        untouched = to_floats(pixels)
        return {
            "psnr_source": metrics.psnr(untouched, wanted),
            "ssim_source": metrics.ssim(metrics.luma(untouched), gray),
            "psnr_colour_transfer": metrics.psnr(transferred, wanted),
            "ssim_colour_transfer": metrics.ssim(metrics.luma(transferred), gray),
            "psnr_colour_map": metrics.psnr(mapped, wanted),
        }

    return jax.lax.map(frame, (source, target))


def side_by_side(
    cases: Sequence[tuple[Any, ...]], batch: int, device: jax.Device | None = None
) -> tuple[Array, ...]:
    """Clips of single cases as batches; the last case fills what is left over.

    Args:
      cases: of each case the clips [T, ...] that belong together, at most `batch`.
      batch: streams.
      device: where the batches go; None for the default one.

    Returns:
      As many batches [T, B, ...] as a case has clips.
    """
    full = [*cases, *[cases[-1]] * (batch - len(cases))]
    return tuple(
        jnp.stack(jax.device_put(list(clips), device), axis=1)
        for clips in zip(*full, strict=True)
    )


def compile_all(
    programs: dict[str, tuple[Any, tuple[Any, ...]]], workers: int
) -> dict[str, Any]:
    """Compiles jitted functions for their arguments, several at a time.

    Args:
      programs: name to (jitted function, arguments as arrays or shapes; static ones
        as they are).
      workers: compilations at a time.

    Returns:
      Name to executable, to be called without the static arguments.
    """

    def build(program: tuple[Any, tuple[Any, ...]]) -> Any:
        function, arguments = program
        return function.lower(*arguments).compile()

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(programs, pool.map(build, programs.values()), strict=True))
