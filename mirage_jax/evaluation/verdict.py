"""From the numbers of single frames to the answer: does this stream drift?

A clip's own content must not look like drift. It cancels in two ways: whole loops are
compared with whole loops, and the opening with the same source frames of the last loop.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float

from mirage_jax.evaluation.checks import DRIFT, Check
from mirage_jax.evaluation.drift import Measured
from mirage_jax.evaluation.summary import EARLY, OPENING
from mirage_jax.evaluation.trend import least_squares, slope_with_interval
from mirage_jax.results import Result

SLOPE = 0.05  # dB per 1,000 frames, up or down
COLOUR = 1.0  # steps of 8 bits
SHARPNESS = 0.03
FLICKER = 1.1
MOTION = 0.5
FREE_FRAMES, FREE_LOSS = 30, 3.0
FLAT = 0.25
LEAST_LOOPS = 4  # the first, and three for a slope
# What rounding alone makes of the difference of two frames, in squared steps.
_ROUNDING = 1 / 6

UNITS = {
    "psnr_slope": ("dB per 1,000 frames", "higher"),
    "psnr": ("dB", "higher"),
    "one_shot": ("dB", "higher"),
    "memory_gain": ("dB", "higher"),
    "drift": ("dB", "higher"),
    "ssim": ("1", "higher"),
    "colour": ("of 255", "lower"),
    "spread": ("of the teacher's", "higher"),
    "sharpness_change": ("of the teacher's", "lower"),
    "sharpness": ("of the teacher's", "higher"),
    "flicker_steps": ("of 255", "lower"),
    "flicker": ("of the teacher's", "lower"),
    "motion": ("of the teacher's", "higher"),
    "heal_frames": ("frames", "lower"),
    "heal_loss": ("dB", "lower"),
    "switch_frames": ("frames", "lower"),
    "reset_change": ("dB", "higher"),
    "wording_right": ("of the wordings", "higher"),
    "confusion": ("of the wordings", "higher"),
    "free_frames": ("frames", "higher"),
    "free_psnr": ("dB", "higher"),
    "free_spread": ("of the teacher's", "higher"),
    "variant_kept": ("of the streams", "higher"),
    "variant_wandered": ("of the frames", "lower"),
    "variants_chosen": ("variants", "higher"),
    "variant_as_named": ("of the streams", "higher"),
    "variant_psnr": ("dB", "higher"),
    "variant_margin": ("dB", "higher"),
    "variant_sharpness": ("of the teacher's", "higher"),
    "frames": ("frames", "higher"),
    "check": ("passed", "higher"),
}


def loop_means(
    values: Float[np.ndarray, "n *rest"], period: int
) -> Float[np.ndarray, "loops *rest"]:
    """Means over whole loops."""
    means: np.ndarray = values.reshape(-1, period, *values.shape[1:]).mean(1)
    return means


def drift_values(measured: Measured, period: int, history: int = 0) -> dict[str, float]:
    """What the streams of one style say about drift.

    Args:
      measured: as numpy arrays [n, B], n frames in whole loops.
      period: frames of a loop.
      history: of the style; its opening counts from the frame on where the target has
        a whole past.

    Returns:
      By measure, means over streams:
        psnr_slope_per_1000: by least squares through the loops after the first;
          psnr_slope_low, psnr_slope_high: ends of its 95 % interval;
          psnr_slope_worst_stream: the lowest of a stream.
        psnr_first, psnr_early: frames 0-7 and 8-29; psnr_last, ssim_last: the source
          frames of 0-7 in the last loop.
        drift_last_minus_first, drift_last_minus_early: on the same source frames.
        one_shot, memory_gain, colour_error, spread, sharpness: of the last loop.
        colour_change, sharpness_change: last loop against frames 0-7.
        flicker: mean squared change where the teacher stands still, over the
          teacher's; flicker_steps: its root. motion: the same where it moves. All of
          the last loop.

    Raises:
      ValueError: the frames are no whole loops, or too few.
    """
    frames = len(measured.psnr)
    loops = frames // period
    if frames % period or loops < LEAST_LOOPS or period < EARLY[1]:
        raise ValueError(
            f"{frames} frames are not at least {LEAST_LOOPS} whole loops of "
            f"{period=} from {EARLY[1]} on"
        )
    opening = slice(min(history, OPENING[1] - 1), OPENING[1])
    early = slice(*EARLY)
    first: Measured = jax.tree.map(lambda x: np.asarray(x)[:period], measured)
    last: Measured = jax.tree.map(lambda x: np.asarray(x)[-period:], measured)

    means = loop_means(np.asarray(measured.psnr), period)[1:]  # [loops - 1, B]
    times = np.arange(len(means)) * period / 1000
    slope = slope_with_interval(times, means.mean(1))
    # Of every stream, so that two streams that go astray do not make up for each other.
    colour = 255 * (last.colour[opening] - first.colour[opening]).mean(0)  # [B, 3]
    sharper = (last.sharpness[opening] - first.sharpness[opening]).mean(0)
    values = {
        "psnr_slope_per_1000": slope.value,
        "psnr_slope_low": slope.low,
        "psnr_slope_high": slope.high,
        "psnr_slope_worst_stream": least_squares(times, means.T).min(),
        "psnr_first": first.psnr[opening].mean(),
        "psnr_early": first.psnr[early].mean(),
        "psnr_last": last.psnr[opening].mean(),
        "drift_last_minus_first": (last.psnr - first.psnr)[opening].mean(),
        "drift_last_minus_early": (last.psnr - first.psnr)[early].mean(),
        "ssim_first": first.ssim[opening].mean(),
        "ssim_last": last.ssim[opening].mean(),
        "one_shot": last.one_shot.mean(),
        "memory_gain": (last.psnr - last.forgetful).mean(),
        "colour_error": 255 * np.abs(last.colour.mean(0)).max(-1).mean(),
        "colour_change": np.abs(colour).max(-1).mean(),
        "spread": last.spread.mean(),
        "sharpness": last.sharpness.mean(),
        "sharpness_change": np.abs(sharper).mean(),
    }
    values |= flicker_values(last)
    if teacher := last.moving_teacher.sum():
        values["motion"] = last.moving_change.sum() / teacher
    return {name: float(value) for name, value in values.items()}


def flicker_values(measured: Measured) -> dict[str, float]:
    """Flicker of frames [n, B], as in `drift_values`; empty where nothing stands."""
    still = float(np.sum(measured.still))
    if not still:
        return {}
    change = float(np.sum(measured.still_change)) / still
    teacher = float(np.sum(measured.still_teacher)) / still
    # Rounding is added to both, for teachers that stand perfectly still.
    flicker = (change + _ROUNDING) / (teacher + _ROUNDING)
    return {"flicker": flicker, "flicker_steps": change**0.5}


def drift_checks(values: Mapping[str, float], path: str) -> list[Check]:
    """The bars of one style in one mode; `path` stands behind their names.

    The whole interval of the slope must lie inside its bar: a slope that is not known
    well proves nothing. A picture that stands still where the teacher moves has frozen.
    """
    bars = [
        ("psnr_slope_low", -SLOPE, True),
        ("psnr_slope_high", SLOPE, False),
        ("drift_last_minus_first", -DRIFT, True),
        ("colour_change", COLOUR, False),
        ("sharpness_change", SHARPNESS, False),
        ("flicker", FLICKER, False),
        ("motion", MOTION, True),
    ]
    return _checks(values, bars, path)


def free_values(measured: Measured, after: int) -> dict[str, float]:
    """What streams do whose source is gone `after` frames from their start.

    Targets must be the teacher's picture of the last source from then on.

    Returns:
      free_frames: how long PSNR stays within 3 dB of the last frame with a source, in
        the stream that fares worst. free_psnr: mean of all frames from then on.
        free_spread: the least spread of a picture over the teacher's; near 0 it is one
        flat colour.
    """
    psnr = np.asarray(measured.psnr)
    lost = psnr[after:] < psnr[after - 1] - FREE_LOSS
    held = np.where(lost.any(0), lost.argmax(0), len(lost))
    return {
        "free_frames": float(held.min()),
        "free_psnr": float(psnr[after:].mean()),
        "free_spread": float(np.asarray(measured.spread)[after:].min()),
    }


def free_checks(values: Mapping[str, float], path: str) -> list[Check]:
    """The bars of a free run."""
    bars = [("free_frames", FREE_FRAMES, True), ("free_spread", FLAT, True)]
    return _checks(values, bars, path)


def to_results(values: Mapping[str, float]) -> list[Result]:
    """Every value with its unit and the direction in which it is better."""
    results = []
    for name, value in values.items():
        measure = name.split("/")[0]
        kind = next(unit for unit in UNITS if measure.startswith(unit))
        results.append(Result(name, round(value, 5), *UNITS[kind]))
    return results


def _checks(
    values: Mapping[str, float], bars: list[tuple[str, float, bool]], path: str
) -> list[Check]:
    return [
        Check(f"{name}/{path}", values[name], bound, at_least)
        for name, bound, at_least in bars
        if name in values
    ]
