r"""Restyles a video file.

python main.py --config configs/render.py --config.source=my.mp4 \
  --config.prompt="a watercolour painting"
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    c = config_dict.ConfigDict()
    # A video file; anything FFmpeg reads.
    c.source = ""
    # Folder for styled.mp4, compare.mp4, contact_sheet.png and summary.json.
    c.out = "outputs/render"
    # What it should look like, in plain words.
    c.prompt = "an oil painting with thick brush strokes"
    # Prompts over time instead: "0s: a watercolour; 4s: neon city; 1m10s: ...".
    c.schedule = ""
    # How much of the style, 0 (the source) to 1.
    c.strength = 1.0
    # A shipped model's name or a folder with weights.
    c.model = "default"
    # "512" (square) or height x width, "288x512": multiples of 32 from 64 on.
    c.size = "512"
    # "crop" fills the frame and cuts what stands over; "pad" adds black bars.
    c.fit = "crop"
    # Denoiser passes a frame: 1, 2 or 4.
    c.steps = 1
    # What the frame cache keeps: "merged", "lagged", "clean", or "auto" (lagged, on
    # CPUs merged).
    c.commit = "auto"
    # "auto" (bfloat16, on CPUs float32), "bfloat16", "float32", "int8" or "float8"; 8
    # bits are those of the dense layers, on GPUs from Ampere and from Ada on.
    c.precision = "auto"
    c.seed = 0
    # Frames a second of the output; 0 keeps the source's. Always constant.
    c.fps = 0.0
    # Stop after this many frames; 0 for all. The second counts on CPUs only.
    c.max_frames = 0
    c.cpu_max_frames = 0
    # Keep the source's sound.
    c.audio = True
    # Write compare.mp4, source and styled side by side.
    c.compare = True
    # Pairs of frames on the contact sheet.
    c.sheet_columns = 6
    # How long to measure frame time before the run (3 frames at least).
    c.timing_seconds = 3.0
    # Folder for a trace of frames 10 to 29; empty for none. See docs/profiling.md.
    c.profile_dir = ""
    return c
