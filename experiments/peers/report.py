"""What the rivals' benchmark records and prints."""

from collections.abc import Iterator, Mapping

from experiments.peers.rivals import Found
from mirage_jax.results import Result

TOLERANCE = 0.03  # of latents in bfloat16 against float32; wrong ones are wrong by 1


def wrong(found: Found) -> list[str]:
    """Names of what is off by more than rounding."""
    return [name for name, error in found.errors.items() if not error <= TOLERANCE]


def to_results(done: Mapping[str, Found]) -> Iterator[Result]:
    """Every rival's times under its name, and under those of its parts."""
    for name, found in done.items():
        for label, calls in found.times.items():
            for field, value in vars(calls).items():
                path = f"rival_ms/{label}/{'max' if field == 'most' else field}"
                yield Result(path, value, "ms", "lower")
        for label, error in found.errors.items():
            yield Result(f"error/{label}", error, "", "lower")
        yield Result(f"parameters/{name}", found.parameters, "", "lower")
        yield Result(f"start_s/{name}", found.seconds, "s", "lower")


def table(name: str, found: Found) -> str:
    """Errors before any time."""
    lines = [f"{name}: {found.parameters / 1e6:.1f} M parameters"]
    lines[0] += f", first frame after {found.seconds:.0f} s"
    for label, error in found.errors.items():
        mark = " WRONG" if label in wrong(found) else ""
        lines.append(f"  {label:<28} error {error:.1e}{mark}")
    for label, calls in found.times.items():
        lines.append(
            f"  {label:<28} {calls.p50:8.3f} ms p50  {calls.p95:.3f} p95  "
            f"{calls.p99:.3f} p99  {calls.most:.3f} max, "
            f"back to back {calls.back_to_back:.3f}"
        )
    return "\n".join(lines)
