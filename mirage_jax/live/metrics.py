"""Numbers for Prometheus, in its text format."""

import asyncio

from mirage_jax.live.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(service: Service) -> str:
    """All numbers of a server; no client, frame or prompt can be told from them.

    Called on the server's loop, whose tasks it counts.
    """
    engine, wire, outputs = service.engine, service.wire, service.outputs
    c = engine.counters
    rows = (
        ("clients", "gauge", "Clients with a seat.", engine.clients),
        ("seats", "gauge", "Seats on the device.", engine.seats),
        ("ready", "gauge", "1 while frames are styled.", engine.status == "ready"),
        ("joined_total", "counter", "Clients that got a seat.", c.joined),
        ("refused_total", "counter", "Clients that found no seat.", c.refused),
        ("frames_received_total", "counter", "Source frames.", c.received),
        ("frames_styled_total", "counter", "Styled frames.", c.styled),
        ("frames_free_total", "counter", "Pictures without a source.", c.free),
        ("frames_dropped_total", "counter", "Skipped by the engine.", engine.dropped()),
        ("reanchored_total", "counter", "Streams reset by the guard.", c.reanchored),
        ("device_errors_total", "counter", "Errors of the device.", c.device_errors),
        ("connections", "gauge", "Open, of clients and viewers.", wire.connections),
        ("malformed_total", "counter", "Clients refused for a message.", wire.refused),
        (
            "frames_skipped_total",
            "counter",
            "Before or after the device.",
            wire.skipped,
        ),
        ("viewers", "gauge", "Of shared streams.", service.shared.viewers),
        ("sink_frames_total", "counter", "That sinks took.", outputs.written),
        ("sink_dropped_total", "counter", "Sinks were too slow.", outputs.dropped),
        ("sink_failures_total", "counter", "Times that one broke.", outputs.failures),
        ("steps_total", "counter", "Steps on the device.", c.steps),
        ("passes", "gauge", "Denoiser passes of the newest frame.", engine.steps),
        ("step_seconds_total", "counter", "Time of all steps.", c.step_seconds),
        (
            "frame_seconds_total",
            "counter",
            "Time of styled frames in the engine.",
            c.frame_seconds,
        ),
        ("tasks", "gauge", "Of the event loop.", len(asyncio.all_tasks())),
        ("stuck_seconds", "gauge", "Age of the running step.", engine.stuck()),
    )
    lines = []
    for name, kind, text, value in rows:
        name = f"mirage_live_{name}"
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines.append(f"{name} {float(value):.10g}")
    return "\n".join(lines) + "\n"
