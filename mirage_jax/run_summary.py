"""The short table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary_table(summary: Mapping[str, Any]) -> str:
    """Lays out what `render` returned as aligned lines of "name  value"."""
    s, frame = summary, summary["frame_ms"]
    prompts = [f"{p['seconds']:g} s: {_short(p['prompt'])}" for p in s["prompts"]]
    skipped = s["skipped_frames"]
    rows = [
        ("prompt", prompts[0].partition(": ")[2] if len(prompts) == 1 else prompts[0]),
        *(("", line) for line in prompts[1:]),
        ("strength", f"{s['strength']:g} of the style"),
        (
            "frames",
            f"{s['frames']} of {s['height']}x{s['width']} at "
            f"{s['frames_per_second']:g}/s"
            + (f", {skipped} damaged skipped" if skipped else ""),
        ),
        ("sound", s["audio"]),
        (
            "model",
            f"{s['model']} ({str(s['weights_sha256'])[:12]}), {s['precision']}, "
            f"{s['steps']} step{'s' if s['steps'] > 1 else ''} a frame",
        ),
        ("device", f"{s['device']}, jax {s['jax']}"),
        (
            "frame time",
            f"{frame['p50']:.1f} ms (p95 {frame['p95']:.1f}, p99 {frame['p99']:.1f}; "
            f"{frame['frames']} frames)",
        ),
        ("compilation", f"{s['compile_seconds']:.1f} s"),
        (
            "peak memory",
            f"{s['peak_memory_bytes'] / 2**30:.2f} GiB of the {s['peak_memory_of']}",
        ),
        (
            "all together",
            f"{s['wall_seconds']:.1f} s; {s['fps']:.1f} frames/s from file to files",
        ),
        ("written to", s["out"]),
    ]
    return "\n".join(f"{name:<13} {value}" for name, value in rows)


def _short(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."
