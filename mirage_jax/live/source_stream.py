"""A stream of the server's own: a source, a seat and the config's sinks, no page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from mirage_jax.errors import MirageError
from mirage_jax.live.client import Client, SourceFrame, StyledFrame
from mirage_jax.live.engine import BusyError, Engine
from mirage_jax.live.outputs import Outputs
from mirage_jax.live.settings import LiveSettings
from mirage_jax.live.shared import SharedStream
from mirage_jax.video.frame_size import fit_frame
from mirage_jax.video.sources import live_source, paced

_LOG = logging.getLogger(__name__)
_PAUSE = 1.0  # seconds between tries to get a seat


class SourceStream:
    """Reads the config's source on a thread and offers its frames to the engine.

    Args:
      settings: source, for how long, and how it is fitted.
      engine: has a seat for it.
      outputs: get its pictures.
      shared: so that it can be watched.
      prompt: the vector that it follows.
      ended: called from the thread when the source is over, with what went wrong.
    """

    def __init__(
        self,
        settings: LiveSettings,
        engine: Engine,
        outputs: Outputs,
        shared: SharedStream,
        prompt: Float[np.ndarray, " 384"],
        ended: Callable[[MirageError | None], None],
    ):
        self._settings, self._engine, self._prompt = settings, engine, prompt
        self._outputs, self._shared, self._ended = outputs, shared, ended
        self._client: Client | None = None
        self._ready, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        """Ends it; a source that gives nothing may hold its thread a while longer."""
        self._closed.set()
        self._ready.set()
        self._thread.join(timeout)

    # The sink: called from the device's thread.

    def frame(self, frame: StyledFrame) -> None:
        self._outputs.frame(self, frame)
        self._shared.frame(frame)

    def state(self, name: str, detail: str, retry: bool) -> None:
        if name == "ready":
            self._ready.set()
        elif name == "ended":
            self._client = None
        if detail:
            _LOG.info("the source's stream: %s", detail)

    # The thread.

    def _run(self) -> None:
        error = None
        try:
            self._read()
        except MirageError as caught:
            error = caught
        except Exception as caught:  # a user's source may raise anything
            _LOG.exception("the source failed")
            error = MirageError(f"the source failed: {caught!r}")
        finally:
            if client := self._client:
                self._engine.leave(client)
            self._outputs.release(self)
            self._ended(error)

    def _read(self) -> None:
        settings, engine = self._settings, self._engine
        source, hurried = live_source(settings.source)  # may fail: at once, not later
        _LOG.info("the source is open")
        # A file should not run away while the model is compiled; a camera is read, so
        # that nothing old waits in it.
        while hurried and not self._ready.is_set():
            self._seat()
            self._ready.wait(_PAUSE)
        begin = None
        with source:
            frames = paced(source) if hurried else source
            for sequence, frame in enumerate(frames):
                if begin is None and self._ready.is_set():
                    begin = frame.time
                lasted = 0.0 if begin is None else frame.time - begin
                if self._closed.is_set() or 0 < settings.source_seconds <= lasted:
                    return
                if client := self._seat():
                    image = fit_frame(
                        frame.image, engine.height, engine.width, settings.fit
                    )
                    number = sequence % 2**32
                    engine.offer(client, SourceFrame(number, 1000 * frame.time, image))

    def _seat(self) -> Client | None:
        """The seat, a new one after an error of the device; None if there is none."""
        if self._client is None:
            try:
                strength = self._settings.strength
                self._client = self._engine.join(self, self._prompt, strength)
            except BusyError:
                return None
        return self._client
