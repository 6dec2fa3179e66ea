"""Makes the moving picture of the README from what `make demo` wrote.

    make demo
    python -m experiments.demo_picture

Source and result side by side, small and with every third frame, as an animated WebP:
the repository has little room for pictures.
"""

from absl import app, flags
from PIL import Image

from experiments.command import command
from mirage_jax.errors import MirageError
from mirage_jax.staged_file import staged
from mirage_jax.video.reader import VideoReader

_VIDEO = flags.DEFINE_string("video", "outputs/demo/compare.mp4", "Of the demo.")
_WIDTH = flags.DEFINE_integer("width", 384, "Of the picture, pixels.", 16)
_EVERY = flags.DEFINE_integer("every", 3, "One frame of so many is shown.", 1)
_QUALITY = flags.DEFINE_integer("quality", 20, "Of the WebP, 1 to 100.", 1, 100)
_OUT = flags.DEFINE_string("out", "docs/pictures/demo.webp", "What to write.")


def run() -> bool:
    """Writes the picture; False: nothing failed."""
    with VideoReader(_VIDEO.value) as reader:
        frames = list(reader)[:: _EVERY.value]
    if len(frames) < 2:
        raise MirageError(
            f"{_VIDEO.value} has too few frames to move with --every={_EVERY.value}: "
            "take a longer one or a smaller number"
        )
    height, width, _ = frames[0].image.shape
    size = (_WIDTH.value, round(_WIDTH.value * height / width))
    # A sharper filter keeps grain that costs many bytes and is not seen.
    first, *others = (
        Image.fromarray(frame.image).resize(size, Image.Resampling.BILINEAR)
        for frame in frames
    )
    with staged(_OUT.value) as path:
        first.save(
            path,
            "WEBP",
            save_all=True,
            append_images=others,
            duration=round(1000 * (frames[1].time - frames[0].time)),
            loop=0,
            quality=_QUALITY.value,
            method=6,
        )
    print(f"{len(frames)} frames in {_OUT.value}")
    return False


main = command("demo_picture", run)

if __name__ == "__main__":
    app.run(main)
