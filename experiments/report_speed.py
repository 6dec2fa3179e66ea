"""Blocks of the technical report on time: kernels, passes, frames, floors, rivals."""

from pathlib import Path

from experiments.dot_plot import Dot, draw_dots
from experiments.page_block import markdown_table, number
from experiments.report_records import Part, absent, find, machine, summaries

# Backends of the kernels' benchmark, ours first; a cache of all layers ("_layer") and
# what cannot do the job (cuDNN without bias) are in the file.
_BACKENDS = ("mosaic", "triton", "cudnn", "cudnn_bias_tensor", "xla", "floor")
_ON_A_HOST = ("p50", "p95", "p99", "max", "back_to_back")
_LAST = "/back_to_back"


def kernels(folder: Path) -> Part:
    """Microseconds of single operations beside their rivals and the floor."""
    found = find(folder, "kernels_*.json")
    if not found:
        return absent("Kernels", "bench_kernels")
    rows, dots = [], []
    for one in found:
        names = [name for name in one.values if name.startswith("us/")]
        for op, case in dict.fromkeys(tuple(n.split("/")[1:3]) for n in names):
            times = {
                backend: one.values[path]
                for backend in _BACKENDS
                if (path := f"us/{op}/{case}/{backend}") in one.values
            }
            if len(times) < 2 or "floor" not in times:
                continue  # its backends have other names, and a block of their own
            cells = (number(times.get(name), 1) for name in _BACKENDS)
            rows.append((f"{op} {case}", one.setup["device"], *cells))
            floor = times.pop("floor")
            dots.append(
                (case, {name: Dot(value / floor) for name, value in times.items()})
            )
    text = (
        "Microseconds a call inside one program "
        f"({', '.join(one.link for one in found)}):\n\n"
        + markdown_table(("operation", "device", *_BACKENDS), rows)
    )
    shows = "time of each operation and backend over the floor of the operation"
    return Part(text, draw_dots(dots, "times the floor", shows), shows)


def layers(folder: Path) -> Part:
    """The MLP of one layer by format and backend."""
    found = find(folder, "mlp_8bit_*.json")
    if not found:
        return absent("The MLP of a layer", "bench_kernels --cases=mlp_256,mlp_1024")
    rows = []
    for one in found:
        names = [name for name in one.values if name.startswith("us/")]
        for case in dict.fromkeys(name.split("/")[2] for name in names):
            path = f"us/mlp_8bit/{case}"
            for kind in ("bfloat16", "int8", "float8_e4m3fn"):
                cells = [
                    number(one.values.get(f"{path}/{backend}_{kind}"), 1)
                    for backend in ("mosaic", "triton", "xla")
                ]
                # The file's floor is that of 8 bits.
                floor = None if kind == "bfloat16" else one.values[f"{path}/floor"]
                rows.append((case, kind, *cells, number(floor, 1)))
    head = ("case", "format", "mosaic", "triton", "xla", "floor")
    return Part(
        "Both dense layers of one MLP with their quantisation, microseconds "
        f"({', '.join(one.link for one in found)}; {machine(found[0].setup)}):\n\n"
        + markdown_table(head, rows)
    )


def passes(folder: Path) -> Part:
    """One denoiser pass: with our kernels and without, against the floor."""
    found = find(folder, "pass_*.json")
    if not found:
        return absent("One denoiser pass", "bench_pass")
    rows, dots = [], []
    for one in found:
        v = one.values
        names = [name for name in v if name.endswith(_LAST)]
        for combination, tokens in (name.split("/")[1:3] for name in names):
            path = f"pass_ms/{combination}/{tokens}"
            kind = combination.partition("+")[2] or "bfloat16"
            kind = "float8_e4m3fn" if kind == "float8" else kind
            floor = v.get(f"floor_ms/{kind}/{tokens}")
            times = {"back to back": v[f"{path}/back_to_back"]}
            times |= {"waited for, p50": v[f"{path}/p50"]}
            series = {name: Dot(value) for name, value in times.items()}
            if floor is not None:
                series["floor"] = Dot(floor)
            label = f"{combination}, {tokens}"
            dots.append((label, series))
            cells = (number(value, 2) for value in times.values())
            error = number(v.get(f"error/{combination}/{tokens}"), 3)
            rows.append((one.link, label, *cells, number(floor, 2), error))
    head = ("file", "kernels, tokens", "back to back", "waited for, p50", "floor")
    text = (
        "One pass, everything in, milliseconds, on random weights; the error is that "
        "of the pass against float32:\n\n" + markdown_table((*head, "error"), rows)
    )
    shows = "time of one denoiser pass by kernels and precision, with its floor"
    return Part(text, draw_dots(dots, "ms", shows), shows)


def precision(folder: Path) -> Part:
    """What kernels and narrow numbers cost in PSNR."""
    found = find(folder, "kernel_quality_*.json")
    if not found:
        return absent("The price of kernels and of 8 bits", "kernel_quality")
    names = [n for one in found for n in one.values if n.startswith("psnr_change/")]
    paths = dict.fromkeys(name.split("/")[1] for name in names)
    rows = []
    for one in found:
        size, steps = next(n for n in one.values if n.startswith("psnr_change/")).split(
            "/"
        )[3:]
        for path in paths:
            prefix, suffix = f"psnr_change/{path}/", f"/{size}/{steps}"
            values = {
                n.removeprefix(prefix).removesuffix(suffix): v
                for n, v in one.values.items()
                if n.startswith(prefix)
            }
            if values and any(values.values()):
                average = values.pop("mean")
                worst = min(values, key=lambda style: values[style])
                cells = (number(average, 3), number(values[worst], 3), worst)
                weights = f"`{one.setup['weights_sha256'][:8]}`"
                rows.append((one.setup["device"], weights, path, steps, *cells))
    head = ("device", "weights", "path", "steps", "mean change", "worst", "of style")
    return Part(
        "Change of PSNR against the teacher in dB, over the plain program in bfloat16 "
        f"({', '.join(one.link for one in found)}):\n\n" + markdown_table(head, rows)
    )


def frames(folder: Path) -> Part:
    """Whole frames: the benchmark's, and those of the demo."""
    rows = []
    for one in find(folder, "benchmark_*.json"):
        v = one.values
        names = [n for n in v if n.startswith("frame_ms/") and n.endswith(_LAST)]
        for row in (name.split("/")[1:3] for name in names):
            path = f"frame_ms/{'/'.join(row)}"
            cells = (number(v.get(f"{path}/{name}"), 2) for name in _ON_A_HOST)
            rows.append((one.link, one.setup["device"], " ".join(row), *cells))
    missing = "" if rows else "\n\n" + absent("The frame benchmark", "benchmark").text
    for file, told in summaries(folder):
        times = told["frame_ms"]
        link = f"[{file.stem}](results/{file.name})"
        kind = f"{told['precision']} {told['steps']}"
        cells = (number(times.get(name), 2) for name in _ON_A_HOST)
        rows.append((link, told["device"], kind, *cells))
    head = ("file", "device", "precision, steps", *_ON_A_HOST)
    text = "A frame from bytes to bytes on the device, milliseconds:\n\n"
    return Part(text + markdown_table(head, rows) + missing)


def floors(folder: Path) -> Part:
    """The least time of a pass and a frame, and projections, which have that word."""
    found = find(folder, "roofline_*.json")
    if not found:
        return absent("Floors of other cards", "roofline")
    rows = []
    for one in found:
        v = one.values
        [path] = [n for n in v if n.startswith("floor_ms/") and n.endswith("/frame")]
        chip = path.split("/")[1]
        names = (
            *(f"floor_ms/{chip}/pass", path),
            *(f"projection_ms/{chip}/pass", f"memory_gib/{chip}/total"),
        )
        cells = (number(v.get(name), 2) for name in names)
        rows.append((one.link, chip, one.setup["precision"], *cells))
    head = ("file", "chip", "precision", "floor of a pass, ms", "floor of a frame, ms")
    return Part(
        "Counted, not measured; a projection is a pass on a card that was not timed, "
        "as good as on the card where one was:\n\n"
        + markdown_table((*head, "projected pass, ms", "planned memory, GiB"), rows)
    )


def rivals(folder: Path) -> Part:
    """Other programs that make a frame, in one run on one card."""
    found = find(folder, "rivals_*.json")
    if not found:
        return absent("Rivals on the same card and clock", "peers.bench")
    rows: list[tuple[str, ...]] = []
    dots: dict[str, dict[str, Dot]] = {}
    for one in found:
        names = [name for name in one.values if name.endswith(_LAST)]
        for rival in (name.split("/")[1] for name in names):
            times = [one.values.get(f"rival_ms/{rival}/{name}") for name in _ON_A_HOST]
            rows.append((one.link, rival, *(number(value, 2) for value in times)))
            series = f"{one.path.stem}, back to back"
            value = one.values[f"rival_ms/{rival}/back_to_back"]
            dots.setdefault(rival, {})[series] = Dot(value)
    text = (
        "Milliseconds of a frame, or of the part that the name tells, random weights:"
        "\n\n" + markdown_table(("file", "rival", *_ON_A_HOST), rows)
    )
    shows = "time of a frame of other programs and of ours on one card"
    return Part(text, draw_dots(list(dots.items()), "ms", shows), shows)


def live(folder: Path) -> Part:
    """What a client of the live server sees."""
    found = [
        one
        for one in find(folder, "live_*.json")
        if not one.path.name.startswith("live_recording_")
    ]
    if not found:
        return absent("Live", "bench_live")
    rows = []
    for one in found:
        v = one.values
        for size, clients in (n.split("/")[1:] for n in v if n.startswith("fps/")):
            here = f"{size}/{clients}"
            names = ["fps/{}", "step_ms/{}"]
            names += [f"glass_to_glass_ms/{{}}/{name}" for name in ("p50", "p99")]
            cells = (number(v.get(name.format(here)), 1) for name in names)
            rows.append((one.link, one.setup["device"], size, clients, *cells))
    head = ("file", "device", "size", "clients", "frames a second", "step, ms")
    return Part(
        f"As a client sees it; {found[0].setup['transport']}:\n\n"
        + markdown_table((*head, "glass to glass, p50 ms", "p99 ms"), rows)
    )
