"""A live server as a child process, and a browser with a fake camera on its page."""

import base64
import io
import itertools
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from mirage_jax.live.protocol import (
    StyledPicture,
    decode_from_client,
    decode_from_server,
)

ROOT = Path(__file__).parent.parent
SIDE = 64
PATIENCE = 120_000  # milliseconds; a model is compiled on a busy machine
CLIP = ROOT / "mirage_jax" / "assets" / "big_buck_bunny.mp4"


def missing():
    """What a machine lacks for these tests, and how to get it; "" for nothing."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "needs playwright: pip install -r requirements-dev.txt"
    return "" if chromium() else "needs Chromium: apt-get install chromium"


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Server:
    """`main.py --config configs/live.py`, which can be stopped and started again."""

    def __init__(self, recordings):
        self.url, self.recordings = "", recordings
        self.start(0)

    def start(self, port):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "main.py",
                "--config=configs/live.py",
                f"--config.cpu_size={SIDE}",
                "--config.cpu_seats=2",
                f"--config.port={port}",
                "--config.browser=False",
                f"--config.recordings={self.recordings}",
                "--config.lost=free",
                # The test decides when a frame is too old, not a busy machine.
                "--config.deadline_ms=10000",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.killer = threading.Timer(900, self.process.kill)  # the reads below end
        self.killer.start()
        self.lines: list[str] = []
        output = self.process.stdout
        assert output is not None
        while not (self.lines and self.lines[-1].startswith("page ")):
            line = output.readline()
            assert line, self.lines
            self.lines.append(line)
        self.url = self.lines[-1].split()[-1]
        self.reader = threading.Thread(
            target=lambda: self.lines.extend(output), daemon=True
        )
        self.reader.start()

    def stop(self):
        """Exit status and output."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.reader.join(10)
        self.killer.cancel()
        return status, "".join(self.lines)

    def kill(self):
        """As a crash: nobody is told."""
        self.killer.cancel()
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.start(int(self.url.rstrip("/").rpartition(":")[2]))

    def close(self):
        self.kill()


def write_camera(path, frames=48):
    """The demo's clip as the MJPEG file that Chromium plays as a camera."""
    with av.open(str(CLIP)) as clip, open(path, "wb") as camera:
        for frame in itertools.islice(clip.decode(video=0), frames):
            frame.to_image().resize((320, 180)).save(camera, "JPEG", quality=90)


def launch(playwright, folder):
    """Chromium with a fresh profile and the clip as its camera."""
    camera = folder / "camera.mjpeg"
    write_camera(camera)
    return playwright.chromium.launch_persistent_context(
        folder / "profile",
        executable_path=chromium(),
        headless=True,
        accept_downloads=True,
        args=[
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
            "--no-sandbox",
            "--no-proxy-server",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ],
    )


class Tab:
    """The page, what it and the server say to each other, and its complaints.

    Attributes:
      messages: of both sides, in order; source pictures are not among them, because
        Chromium tells nobody what is in a Blob.
      complaints: errors and warnings of the console, which violations of the content
        policy are among, and errors of scripts.
      requests: addresses of all of the browser's.
    """

    def __init__(self, context, url, page=None):
        self.page = page or context.pages[0]
        self.page.set_default_timeout(PATIENCE)
        self.messages: list[Any] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("websocket", self._listen)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        context.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def _listen(self, socket):
        self.requests.append(socket.url)
        socket.on("framesent", lambda data: self._note(decode_from_client, data))
        socket.on("framereceived", lambda data: self._note(decode_from_server, data))

    def _note(self, decode, data):
        if data:
            self.messages.append(decode(data))

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def until(self, condition):
        """The first true value of a condition; events come while the page is asked."""
        end = time.monotonic() + PATIENCE / 1000
        while not (value := condition()):
            assert time.monotonic() < end, f"it never came; {self.complaints=}"
            self.page.wait_for_timeout(20)
        return value

    def heard(self, kind, after=0, **fields):
        """The messages of a kind from a place in `messages` on."""
        return [
            message
            for message in self.messages[after:]
            if isinstance(message, kind) and fields.items() <= vars(message).items()
        ]

    def next_pictures(self, number):
        """The next styled pictures, each [H, W, 3]."""
        return self.pictures(number, len(self.messages))

    def pictures(self, number, after):
        """The first styled pictures from a place in `messages` on."""
        wanted = (StyledPicture, after)
        self.until(lambda: len(self.heard(*wanted, styled=True)) >= number)
        return [picture(m.data) for m in self.heard(*wanted, styled=True)[:number]]

    def canvas(self):
        """What is on the screen, [height, width, 3], at the size of the model."""
        address = self.page.evaluate("document.getElementById('canvas').toDataURL()")
        return shrunk(base64.b64decode(address.partition(",")[2]))

    def shown(self, text):
        return self.page.locator("#state", has_text=text).wait_for()


def picture(data):
    """An encoded picture as [H, W, 3], uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def shrunk(data):
    """A picture of the stage with SIDE rows; the stage enlarges by whole numbers."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.reduce(image.height // SIDE))


def psnr(one, other):
    """Decibels between two pictures of uint8."""
    error = np.mean(np.square(one.astype(float) - other.astype(float)))
    return 10 * np.log10(255**2 / max(error, 1e-9))
