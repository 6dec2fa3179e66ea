"""Restyles a video file on a live server, frame by frame, as any tool could.

    python -m experiments.attach --source=my.mp4 --prompt="a pencil drawing on paper"

Needs a running server (`python main.py --config configs/live.py`), whose address, with
the token, is given as --server. The server's size is the size of the result. The file
that it writes has every frame of the source; a live tool would call `offer` and
`newest` instead of `style`, and skip what comes too late.
"""

import itertools

from absl import app, flags

from configs import demo
from experiments.command import command
from mirage_jax.live.remote import RemoteStream
from mirage_jax.video.reader import VideoReader
from mirage_jax.video.writer import VideoWriter

_SERVER = flags.DEFINE_string("server", "http://127.0.0.1:8765/", "As it was printed.")
_SOURCE = flags.DEFINE_string("source", None, "A video file; the demo's by default.")
_PROMPT = flags.DEFINE_string("prompt", "a pencil drawing on paper", "The style.")
_FRAMES = flags.DEFINE_integer("frames", 48, "To restyle at most.")
_OUT = flags.DEFINE_string("out", "outputs/attach/styled.mp4", "What to write.")
_CERTIFICATE = flags.DEFINE_string("certificate", "", "A PEM file to trust.")


def run() -> bool:
    """Restyles the file; False: nothing failed."""
    source = _SOURCE.value or demo.get_config().source
    with (
        VideoReader(source) as reader,
        RemoteStream(_SERVER.value, _CERTIFICATE.value) as stream,
    ):
        stream.wait_until_ready()
        stream.prompt(_PROMPT.value)
        height, width = stream.state.height, stream.state.width
        with VideoWriter(_OUT.value, height, width, reader.info.rate) as writer:
            for frame in itertools.islice(reader, _FRAMES.value):
                writer.write(stream.style(frame.image))
        print(f"{writer.frames} frames in {_OUT.value}")
    return False


main = command("attach", run)

if __name__ == "__main__":
    app.run(main)
