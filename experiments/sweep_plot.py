"""A picture of quality against time: a line where a run left a curve, else a point."""

from collections.abc import Sequence

from PIL import Image

from experiments.line_plot import Point, draw_lines
from experiments.sweep_metrics import Measured, Metric


def draw_plot(found: Sequence[Measured], metric: Metric) -> Image.Image | None:
    """Best run first, as given; None where no run has the metric."""
    lines = [(one.run.name, _points(one, metric)) for one in found]
    lines = [(name, points) for name, points in lines if points]
    return draw_lines(lines, metric.name, "seconds") if lines else None


def _points(one: Measured, metric: Metric) -> Sequence[Point]:
    if one.curve:
        return one.curve
    result = one.results.get(metric.name)
    return [(one.outcome.seconds, result.value)] if result else []
