"""Carrying the sound of the source into the output, beside the new pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from mirage_jax.video.opening import open_source

# What players expect inside mp4; anything else is encoded again as AAC.
_COPIED = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus"})
_AAC_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000})
_PRIMING = 0.1  # seconds of sound before the first picture kept for the decoder
_GAP = 0.1  # seconds that times may jump ahead before silence is left there
_BIT_RATE = 160_000


class AudioTrack:
    """The first sound track of `source` as a stream of `output`.

    Packets are handed over in step with the pictures, so that the file plays while
    it downloads and nothing is held in memory. Sound that cannot be read ends the
    track early rather than the run.

    Attributes:
      how: "copied", "encoded as aac", or why the track ended early.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        output: OutputContainer,
        start: float = 0.0,
    ):
        """Adds the stream; must come before the first packet is written.

        Args:
          source: a file with at least one sound track.
          output: an open container that takes AAC.
          start: seconds of the source's clock that become 0 in the output.
        """
        self._source = open_source(source)
        track = self._source.streams.audio[0]
        self._output = output
        self._start = start
        self._stream: AudioStream
        if track.codec.canonical_name in _COPIED:
            self._stream = output.add_stream_from_template(track)
            self._packets = self._copied(track)
            self.how = "copied"
        else:
            rate = track.codec_context.sample_rate
            self._stream = output.add_stream(
                "aac", rate=rate if rate in _AAC_RATES else 48000
            )
            # More than two channels are mixed down; some files do not name theirs.
            single = track.codec_context.layout.nb_channels == 1
            self._stream.codec_context.layout = "mono" if single else "stereo"
            self._stream.codec_context.bit_rate = _BIT_RATE
            self._packets = self._encoded(track)
            self.how = "encoded as aac"
        self._waiting: Packet | None = None

    def advance(self, until: float) -> None:
        """Writes the sound of the output's time up to `until` seconds."""
        while self._waiting is not None or self._next():
            packet = self._waiting
            assert packet is not None and packet.time_base is not None
            if float((packet.dts or 0) * packet.time_base) >= until:
                return
            self._waiting = None
            self._output.mux(packet)

    def close(self) -> None:
        self._source.close()

    def _next(self) -> bool:
        """Fetches the next packet into `_waiting`; False at the end of the track."""
        try:
            self._waiting = next(self._packets, None)
        except (av.error.FFmpegError, ValueError) as error:
            self.how = f"{self.how}, ended early: {error.__class__.__name__}"
            self._packets = iter(())
        return self._waiting is not None

    def _copied(self, track: AudioStream) -> Iterator[Packet]:
        assert track.time_base is not None
        shift = round(self._start / track.time_base)
        earliest = -round(_PRIMING / track.time_base)
        last: int | None = None
        for packet in self._source.demux(track):
            if packet.dts is None or packet.pts is None or packet.is_corrupt:
                continue
            packet.pts -= shift
            packet.dts -= shift
            if packet.pts + (packet.duration or 0) < earliest:
                continue
            if last is not None and packet.dts <= last:
                continue  # no container takes times that run backwards
            last = packet.dts
            packet.stream = self._stream
            yield packet

    def _encoded(self, track: AudioStream) -> Iterator[Packet]:
        context = self._stream.codec_context
        resampler = AudioResampler(
            context.format or "fltp", context.layout, context.sample_rate, 1024
        )
        tick = Fraction(1, context.sample_rate)
        # The source's times may be coarse (a tick of avi is a packet), so samples
        # are counted, and times only say where the track starts and has gaps.
        clock: int | None = None  # number of the next sample to come out
        expected = 0.0  # time at which the next decoded frame should begin
        for frame in self._decoded(track):
            if frame is not None:
                due = expected if frame.time is None else frame.time - self._start
                if clock is None or due > expected + _GAP:
                    clock = max(clock or round(due / tick), round(due / tick))
                    expected = due
                expected += frame.samples / frame.sample_rate
                frame.pts = None
            for piece in resampler.resample(frame):
                if clock is None:
                    continue
                piece.pts, piece.time_base = clock, tick
                clock += piece.samples
                if piece.pts * tick > -_PRIMING:
                    yield from self._stream.encode(piece)
        yield from self._stream.encode(None)

    def _decoded(self, track: AudioStream) -> Iterator[av.AudioFrame | None]:
        for packet in self._source.demux(track):
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                continue  # a damaged packet is a short silence
        yield None  # flushes the resampler
