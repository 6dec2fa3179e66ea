"""What the benchmark of a pass records and prints."""

import dataclasses
from collections.abc import Iterable, Mapping

from experiments.call_timing import Calls
from mirage_jax.results import Result

# Of latents and committed K and V against float32. Roundings of a layer are handed on
# through all others: 880M random weights make 0.011, 0.036 and 0.107 of them on a CPU,
# where every product is the definition's. Wrong kernels are wrong by about 1.
TOLERANCE = {None: 0.03, "int8": 0.1, "float8_e4m3fn": 0.25}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One combination at one frame size; without times where it could not run.

    Attributes:
      combination: its name.
      tokens: N of a frame.
      precision: 8-bit format or None.
      floor_ms: least time of a pass.
      error: relative, against float32; the worst of latents, K and V.
      chained_ms: a pass, of many in one program.
      passes: calls of one pass.
      steps: calls of the whole stream step.
      compile_s: seconds of each program.
      refusal: why it did not run.
    """

    combination: str
    tokens: int
    precision: str | None
    floor_ms: float
    error: float = float("nan")
    chained_ms: float | None = None
    passes: Calls | None = None
    steps: Calls | None = None
    compile_s: Mapping[str, float] = dataclasses.field(default_factory=dict)
    refusal: str | None = None

    @property
    def path(self) -> str:
        return f"{self.combination}/{self.tokens}"

    @property
    def correct(self) -> bool:
        """Whether the error is one of rounding; what did not run is not wrong."""
        return self.refusal is not None or self.error <= TOLERANCE[self.precision]


@dataclasses.dataclass(frozen=True)
class Goals:
    """Milliseconds that a pass may take, on the device by itself.

    Attributes:
      tokens: of the frame that they are for.
      bfloat16, eight_bit: by precision.
    """

    tokens: int
    bfloat16: float
    eight_bit: float

    def of(self, one: Measured) -> float | None:
        """The goal of this measurement, None where there is none."""
        if one.tokens != self.tokens or one.refusal is not None:
            return None
        return self.bfloat16 if one.precision is None else self.eight_bit

    def missed(self, one: Measured) -> bool:
        goal, time = self.of(one), pass_ms(one)
        return goal is not None and time is not None and time > goal


def pass_ms(one: Measured) -> float | None:
    """The device's own time of a pass, or the nearest to it that was measured."""
    if one.chained_ms is not None:
        return one.chained_ms
    return None if one.passes is None else one.passes.back_to_back


def table(one: Measured, goals: Goals) -> str:
    """Error before any time; then pass and step, and whether the goal is met."""
    head = f"{one.combination}, {one.tokens} tokens: "
    if one.refusal is not None:
        return head + one.refusal
    mark = "" if one.correct else " WRONG"
    lines = [f"{head}error {one.error:.1e}{mark}, floor {one.floor_ms:.2f} ms"]
    if one.chained_ms is not None:
        share = 100 * one.floor_ms / one.chained_ms
        lines.append(
            f"  pass, chained  {one.chained_ms:7.3f} ms, {share:.0f} % of floor"
        )
    for name, calls in (("pass", one.passes), ("step", one.steps)):
        if calls is not None:
            lines.append(
                f"  {name}, by calls {calls.p50:7.3f} ms p50  {calls.p95:.3f} p95  "
                f"{calls.p99:.3f} p99, back to back {calls.back_to_back:.3f}"
            )
    goal, time = goals.of(one), pass_ms(one)
    if goal is not None and time is not None and one.passes is not None:
        word = "missed" if time > goal else "met"
        called = "missed" if one.passes.p50 > goal else "met"
        lines.append(
            f"  goal of {goal} ms: {word} on the device, {called} by calls that wait"
        )
    return "\n".join(lines)


def to_results(done: Iterable[Measured], parameters: int) -> list[Result]:
    """Everything under the combination's name and the tokens of its frame."""
    found = [Result("parameters", parameters, "", "lower")]
    floors = {}
    for one in done:
        floors[f"floor_ms/{one.precision or 'bfloat16'}/{one.tokens}"] = one.floor_ms
        if one.refusal is not None:
            continue
        found.append(Result(f"error/{one.path}", one.error, "", "lower"))
        if one.chained_ms is not None:
            path = f"pass_ms/{one.path}/chained"
            found.append(Result(path, one.chained_ms, "ms", "lower"))
        for name, calls in (("pass_ms", one.passes), ("step_ms", one.steps)):
            for field, value in vars(calls).items() if calls else ():
                path = f"{name}/{one.path}/{'max' if field == 'most' else field}"
                found.append(Result(path, value, "ms", "lower"))
        for name, seconds in one.compile_s.items():
            path = f"compile_s/{one.path}/{name}"
            found.append(Result(path, seconds, "s", "lower"))
    found += [Result(path, value, "ms", "lower") for path, value in floors.items()]
    return found
