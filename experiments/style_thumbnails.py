"""Makes the pictures on the style buttons of the live page with the model itself.

    python -m experiments.style_thumbnails

One frame of the demo's clip in every style of the page, after a few frames before it,
as small squares one below the other in the order of `presets`.
"""

import itertools

import numpy as np
from absl import app, flags
from PIL import Image

from configs import demo
from experiments.command import command
from mirage_jax.live.device import SeatedStreams
from mirage_jax.live.presets import presets
from mirage_jax.staged_file import staged
from mirage_jax.stream_config import StreamConfig
from mirage_jax.text import encode_text
from mirage_jax.video.frame_size import fit_frame
from mirage_jax.video.reader import VideoReader
from mirage_jax.weights import load_model

_MODEL = flags.DEFINE_string("model", "default", "A shipped model or a folder.")
_SIZE = flags.DEFINE_integer("size", 256, "Pixels a side at which the model works.")
_SIDE = flags.DEFINE_integer("side", 56, "Pixels a side of a thumbnail.")
_FIRST = flags.DEFINE_integer("first", 60, "First frame of the clip.")
_FRAMES = flags.DEFINE_integer("frames", 6, "The last of them is shown.")
_QUALITY = flags.DEFINE_integer("quality", 82, "Of the JPEG, 1 to 95.")
_OUT = flags.DEFINE_string("out", "mirage_jax/live/page/styles.jpg", "What to write.")


def run() -> bool:
    """Writes the strip; False: nothing failed."""
    size, side = _SIZE.value, _SIDE.value
    config = StreamConfig(height=size, width=size, dtype="float32")
    streams = SeatedStreams(load_model(_MODEL.value), config)
    streams.open(lambda stage: None)
    everyone = np.ones(1, bool)
    with VideoReader(demo.get_config().source) as reader:
        last = _FIRST.value + _FRAMES.value
        frames = itertools.islice(reader, _FIRST.value, last)
        clip = [fit_frame(frame.image, size, size) for frame in frames]
    prompts = encode_text([style["prompt"] for style in presets()])
    strip = Image.new("RGB", (side, side * len(prompts)))
    for row, prompt in enumerate(np.asarray(prompts)):
        streams.renew(prompt[None], everyone)
        for image in clip:
            styled, _ = streams.step(image[None], everyone, streams.steps)
        square = Image.fromarray(styled[0]).resize((side, side), Image.Resampling.BOX)
        strip.paste(square, (0, row * side))
    with staged(_OUT.value) as path:
        strip.save(path, "JPEG", quality=_QUALITY.value, optimize=True)
    print(f"{len(prompts)} styles in {_OUT.value}")
    return False


main = command("style_thumbnails", run)

if __name__ == "__main__":
    app.run(main)
