"""Long streams of a model over held-out clips: what several scripts set up alike."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from mirage_jax.data.prompts import HELD_OUT_PROMPTS, PROMPTS
from mirage_jax.data.teachers import Style, comparable_styles, find_styles
from mirage_jax.errors import MirageError
from mirage_jax.evaluation.clips import load_clips, to_and_fro
from mirage_jax.evaluation.endless import Endless, Loops
from mirage_jax.evaluation.quality import LOOP_MULTIPLE, Case
from mirage_jax.evaluation.summary import EARLY
from mirage_jax.precision import PRECISIONS, fields_of, precision_of
from mirage_jax.results import device_setup
from mirage_jax.stream_config import StreamConfig
from mirage_jax.styler import load_styler
from mirage_jax.text import encode_text
from mirage_jax.weights import load_model

_MODEL = flags.DEFINE_string("model", "default", "Name of a shipped model or a folder.")
_STYLER = flags.DEFINE_string(
    "styler", None, "Weights of the style network; without them no neural styles."
)
_CLIPS = flags.DEFINE_string("clips", None, "Folder of clips never trained on.")
_LOOPS = flags.DEFINE_integer("loops", 2, "Looped clips, one a file.")
_HELD = flags.DEFINE_bool("held", True, "Also a camera that shows one frame for ever.")
_SIZE = flags.DEFINE_integer("size", 512, "Side of the square frames.")
_STYLES = flags.DEFINE_list("styles", [], "Names of styles; all by default.")
_WORDING = flags.DEFINE_enum(
    "wording", "held_out", ["held_out", "training"], "Which prompts ask for the style."
)
WINDOW = flags.DEFINE_integer("window", 200, "Frames of a loop; a multiple of 8.")
_BATCH = flags.DEFINE_integer("batch", 16, "Streams side by side at most.")
_PRECISION = flags.DEFINE_enum(
    "precision", "bfloat16", PRECISIONS, "Of the stream; 8 bits of its dense layers."
)
_ANCHOR = flags.DEFINE_bool("anchor", False, "Keep the first frame in its slot.")
_FIXED_NOISE = flags.DEFINE_bool(
    "fixed_noise", True, "One noise for all frames of a stream."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of noise and corruption.")


KnownStyles = Callable[[Any], tuple[Style, ...]]


@dataclasses.dataclass(frozen=True)
class LongStreams:
    """Streams that are ready to run.

    Attributes:
      endless: the model's programs.
      styles: the teachers.
      wordings: of every style, the first one is its prompt.
      loops: clips [C, window, S, S, 3].
      cases: every style on every loop.
      setup: what the record says.
    """

    endless: Endless
    styles: tuple[Style, ...]
    wordings: dict[str, tuple[str, ...]]
    loops: Loops
    cases: list[Case]
    setup: dict[str, object]

    def parts(self, cases: list[Case]) -> list[list[Case]]:
        """The cases by batches."""
        batch = self.endless.stream.batch
        return [cases[i : i + batch] for i in range(0, len(cases), batch)]


def load_long_streams(
    known_styles: KnownStyles = comparable_styles,
    repeats: int = 1,
    by_style: bool = False,
) -> LongStreams:
    """What the flags ask for.

    Args:
      known_styles: styles to choose from, by the style network's parameters.
      repeats: streams of each style on each loop.
      by_style: styles run one after the other, so no batch is larger than a style's.

    Raises:
      MirageError: a flag out of its range, or a file that is not there.
    """
    _check_flags()
    model = load_model(_MODEL.value)
    styles = _chosen_styles(known_styles)
    known = HELD_OUT_PROMPTS if _WORDING.value == "held_out" else PROMPTS
    wordings = {style.name: known[style.name] for style in styles}
    names, loops = _load()
    cases = [Case(s, c) for s in range(len(styles)) for c in range(len(loops))]
    cases = [case for case in cases for _ in range(repeats)]
    # As many batches as it takes, all of one size.
    together = len(cases) // len(styles) if by_style else len(cases)
    batches = -(-together // _BATCH.value)
    # Layers in a loop: at this batch it costs no speed and compiles much sooner.
    stream = StreamConfig(
        height=_SIZE.value,
        width=_SIZE.value,
        batch=-(-together // batches),
        anchor=_ANCHOR.value,
        fixed_noise=_FIXED_NOISE.value,
        unroll=False,
        **fields_of(_PRECISION.value, jax.default_backend()),
    )
    first = [texts[0] for texts in wordings.values()]
    prompts = encode_text(first)
    endless = Endless(model, stream, styles, prompts, WINDOW.value, _SEED.value)
    setup = device_setup() | {
        "model": _MODEL.value,
        "weights_sha256": model.sha256,
        "precision": precision_of(stream),
        "height": stream.height,
        "width": stream.width,
        "styles": {style.name: style.kind for style in styles},
        "clips": names,
        "wording": _WORDING.value,
        "prompts": dict(zip(wordings, first, strict=True)),
        "window": WINDOW.value,
        "anchor": stream.anchor,
        "fixed_noise": stream.fixed_noise,
        "batch": stream.batch,
        "seed": _SEED.value,
    }
    return LongStreams(endless, styles, wordings, loops, cases, setup)


def _check_flags() -> None:
    if WINDOW.value < EARLY[1] or WINDOW.value % LOOP_MULTIPLE:
        raise MirageError(
            f"--window={WINDOW.value}: take a multiple of {LOOP_MULTIPLE} from 32 on"
        )
    for flag in (_BATCH, _LOOPS):
        if flag.value < 1:
            raise MirageError(f"--{flag.name}={flag.value}: take at least 1")


def _chosen_styles(known_styles: KnownStyles) -> tuple[Style, ...]:
    styler = None if _STYLER.value is None else load_styler(_STYLER.value)
    return find_styles(_STYLES.value, known_styles(styler))


def _load() -> tuple[list[str], Loops]:
    """Names and loops: one of every file, and a frame of the first that stands."""
    if _CLIPS.value is None:
        raise MirageError("no clips: set --clips to a folder of held-out videos")
    length = WINDOW.value // 2 + 1
    clips = load_clips(_CLIPS.value, [_SIZE.value], length, 1)
    names = list(clips.names)[: _LOOPS.value]
    loops = clips.frames[_SIZE.value][: _LOOPS.value, to_and_fro(WINDOW.value)]
    if _HELD.value:
        names.append(f"{names[0]} held")
        held = np.repeat(loops[:1, length // 2][:, None], WINDOW.value, axis=1)
        loops = np.concatenate([loops, held])
    return names, loops
