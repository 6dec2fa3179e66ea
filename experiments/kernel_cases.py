"""The named shapes at which kernels are tuned and measured, by both scripts alike.

Names of the 880M model's begin with the operation or the layer, those of the default
model's with "default_": "norm_256_int8", "default_up_512". The number counts tokens of
a pass: 512 are two frames of 256, as the lagged commit carries them.
"""

import functools
from collections.abc import Callable, Iterator

from experiments import dense_layers, mlp_rivals
from experiments import frame_attention_rivals as attention
from experiments import row_kernel_rivals as rows
from experiments.kernel_case import Case, Contest
from mirage_jax.config import MODELS, DenoiserConfig
from mirage_jax.precision import EIGHT_BIT
from mirage_jax.transformer import EIGHT_BIT as EIGHT_BIT_LAYERS
from pallas_kernels.frame_attention.specs import BARS, SMALL, SPECS
from pallas_kernels.linear.problem import Problem as DenseProblem
from pallas_kernels.modulated_norm.problem import Problem as NormProblem
from pallas_kernels.qk_norm_rope_commit.problem import Problem as CommitProblem
from pallas_kernels.quantise.problem import Problem as QuantiseProblem

# Frames of a pass and tokens of each, by the tokens of the pass.
PASSES = {256: (1, 256), 512: (2, 256), 1024: (1, 1024)}
# Prefix of the names, model, and passes that a stream of it makes.
LOOPS = (
    ("", MODELS["lsd_880m"].denoiser, (256, 512, 1024)),
    ("default_", MODELS["default"].denoiser, (256, 512)),
)
ATTENTION = (*BARS, "default_256", "default_256_lagged")
CACHED = 4  # layers of the cache that a commit writes into
# Not in the frame loop: a norm without a residual, which all else is built on.
ELSEWHERE = "ungated_norm_"

Problem = NormProblem | CommitProblem | DenseProblem | QuantiseProblem
Named = tuple[str, Problem]


def contests(small: bool, most_sets: int) -> dict[str, Contest]:
    """All by name, or tiny ones that the interpreter runs; nothing is drawn yet."""
    specs = SMALL if small else SPECS
    found = {
        name: attention.contest(spec, most_sets, small)
        for name, spec in specs.items()
        if not spec.problem.layers  # what a case makes of its shape by itself
    }
    named = _tiny() if small else _rows()
    return found | {name: _contest(problem, small) for name, problem in named}


def frame_loop(small: bool) -> tuple[str, ...]:
    """Names of what streams of both models call."""
    attended = ("plain",) if small else ATTENTION
    named = _tiny() if small else _rows()
    return (*attended, *(name for name, _ in named if not name.startswith(ELSEWHERE)))


def cases(small: bool, most_sets: int) -> dict[str, Callable[[], Case]]:
    """What the benchmark measures, made when asked for: beside the contests the MLP."""
    known = contests(small, most_sets)
    found: dict[str, Callable[[], Case]] = {
        name: contest.case for name, contest in known.items()
    }
    for name, spec in (SMALL if small else SPECS).items():
        if name in known:
            found[name] = functools.partial(
                attention.attention_case, spec, most_sets, small
            )
    make = mlp_rivals.mlp_case
    if small:
        return found | {"mlp_tiny": functools.partial(make, 9, 64, 96, 2, True)}
    # Four sets of weights in 8 bits are more than an L2 cache holds.
    return found | {
        f"mlp_{tokens}": functools.partial(make, tokens, 1536, 6144, 4, False)
        for tokens in (256, 1024)
    }


def _rows() -> Iterator[Named]:
    """Everything but attention, of both models."""
    for prefix, model, passes in LOOPS:
        for tokens in passes:
            for name, suffix, problem in _of_a_pass(model, *PASSES[tokens]):
                yield f"{prefix}{name}_{tokens}{suffix}", problem
    for suffix, to in _formats():
        yield f"{ELSEWHERE}256{suffix}", NormProblem(1, 256, 1536, False, to)


def _formats() -> Iterator[tuple[str, str | None]]:
    """Suffixes of the names, and formats."""
    yield "", None
    for suffix, to in EIGHT_BIT.items():
        yield f"_{suffix}", to


def _of_a_pass(
    c: DenoiserConfig, frames: int, tokens: int
) -> Iterator[tuple[str, str, Problem]]:
    """What one pass calls: operation or layer, suffix of the format, and sizes."""
    for suffix, to in _formats():
        yield "norm", suffix, NormProblem(frames, tokens, c.width, True, to)
    slots = c.ring + 2  # the anchor, the ring, and the current frame
    keys = c.prompt_tokens + slots * tokens
    sizes = (1, frames, tokens, c.heads, c.head_width, CACHED, keys)
    yield "commit", "", CommitProblem(*sizes)
    for suffix, to in _formats():
        for layer, matrix in dense_layers.layers_of(c.width).items():
            if to is not None and layer not in EIGHT_BIT_LAYERS:
                continue
            problem = DenseProblem(frames, tokens, format=to or "bfloat16", **matrix)
            yield layer, suffix, problem
            # The norms quantise for the others.
            if to is not None and layer == "down":
                quantised = QuantiseProblem(frames * tokens, matrix["inputs"], to)
                yield f"quantise_{layer}", suffix, quantised


def _tiny() -> Iterator[Named]:
    for suffix, to in _formats():
        yield f"norm_tiny{suffix}", NormProblem(1, 9, 40, True, to)
    yield f"{ELSEWHERE}tiny_int8", NormProblem(2, 5, 40, False, "int8")
    yield "commit_tiny", CommitProblem(1, 1, 5, 2, 16, CACHED, 49)
    yield "up_tiny", DenseProblem(1, 16, 64, 96, activation="gelu")
    yield "up_tiny_int8", DenseProblem(1, 16, 64, 96, format="int8", activation="gelu")
    yield "quantise_tiny_int8", QuantiseProblem(9, 40, "int8")


def _contest(problem: Problem, interpret: bool) -> Contest:
    match problem:
        case NormProblem():
            return rows.norm_contest(problem, interpret)
        case CommitProblem():
            return rows.commit_contest(problem, interpret)
        case QuantiseProblem():
            return rows.quantise_contest(problem, interpret)
        case DenseProblem():
            return dense_layers.contest(problem, interpret)
