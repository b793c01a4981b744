"""Transfer of a video's sound to another video.

Packets are copied where the container can hold them, and encoded again otherwise. How each track is treated is decided
by trial before anything is painted. An error in the sound while a video is being written never costs the pictures: the
track ends there, with a warning.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import av.error

from nst_exp.media.codecs import WITH_ANY_SOUND
from nst_exp.media.video import VideoFile

FORMATS = {".mp4": "mp4", ".webm": "webm", ".mkv": "matroska"}

# The codecs that players support in these containers; FFmpeg would accept more.
_COPIED = {
    ".mp4": frozenset(("aac", "mp3", "mp3float", "ac3", "eac3", "alac", "opus", "libopus", "flac")),
    ".webm": frozenset(("opus", "libopus", "vorbis", "libvorbis")),
}
_ENCODERS = {".mp4": "aac", ".webm": "libopus", ".mkv": "libopus"}
_NAMES = {"aac": "AAC", "libopus": "Opus"}
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}  # by number of channels; others are mixed down to stereo
_BITS = 96_000  # per second and channel
_PACKETS_TRIED = 64  # packets after which a track counts as one that cannot be decoded
_LEAD = Fraction(1, 10)  # s of sound before the first frame, on which decoders warm up, and which MP4 then trims
_ERRORS = (av.error.FFmpegError, ValueError, AttributeError, NotImplementedError)  # raised by PyAV for unusual streams

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """How an audio stream is transferred.

    Attributes:
        index: Index of the stream in its file.
        codec: FFmpeg's name of the stream's codec; empty if FFmpeg does not know it.
        encoder: FFmpeg's name of the encoder; None if packets are copied.
        rate: Sampling rate of the encoder, in samples per second.
        layout: FFmpeg's name of the encoder's channel layout.
    """

    index: int
    codec: str
    encoder: str | None = None
    rate: int = 48000
    layout: str = "stereo"


@dataclass(frozen=True)
class SoundPlan:
    """How a video's sound is transferred.

    Attributes:
        suffix: Extension of the file to write, which determines its container.
        tracks: The tracks that are transferred.
        words: How each track is treated, in words for the log.
        lossy: Whether a track is encoded again or left out.
    """

    suffix: str
    tracks: tuple[Track, ...] = ()
    words: tuple[str, ...] = ()
    lossy: bool = False


def plan_sound(video: VideoFile, suffix: str) -> SoundPlan:
    """Decide how the sound of a video is transferred to a file with the given extension.

    If the container cannot hold all tracks as they are but Matroska can, the file becomes a Matroska file. Otherwise,
    the tracks that the container cannot hold are encoded again, and tracks that cannot be decoded are left out.

    Args:
        video: The video whose sound is transferred.
        suffix: The intended extension of the file, one of the keys of `FORMATS`.

    Returns:
        The plan, whose `suffix` may differ from the intended one.
    """
    if not video.has_sound:
        return SoundPlan(suffix)
    with contextlib.suppress(*_ERRORS, OSError):
        samples = _samples(video)
        for container in dict.fromkeys((suffix, WITH_ANY_SOUND)):
            plans = [_copied(sample, container) for sample in samples]
            if all(track or not sample.decoded for track, sample in zip(plans, samples, strict=True)) and any(plans):
                return _plan(container, samples, plans)
        return _plan(suffix, samples, [_copied(one, suffix) or _encoded(one, suffix) for one in samples])
    return SoundPlan(suffix, words=("sound: left out, it cannot be read",), lossy=True)


def _plan(suffix: str, samples: Sequence[_Sample], tracks: Sequence[Track | None]) -> SoundPlan:
    words = []
    for number, (sample, track) in enumerate(zip(samples, tracks, strict=True), 1):
        name = "sound" if len(samples) == 1 else f"sound track {number}"
        codec = sample.codec or "of a codec unknown to FFmpeg"
        if track is None:
            words.append(f"{name}: {codec}, left out, it cannot be decoded")
        elif track.encoder:
            words.append(f"{name}: {codec}, encoded to {_NAMES[track.encoder]}")
        else:
            words.append(f"{name}: {codec}, copied")
    kept = tuple(track for track in tracks if track)
    return SoundPlan(suffix, kept, tuple(words), lossy=any(track is None or track.encoder for track in tracks))


# --- trying ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """The beginning of an audio stream.

    Attributes:
        frame: The first frame that could be decoded; None if there is none.
    """

    video: VideoFile
    index: int
    codec: str
    frame: av.AudioFrame | None

    @property
    def decoded(self) -> bool:
        return self.frame is not None


def _samples(video: VideoFile) -> list[_Sample]:
    with av.open(str(video.path)) as container:
        streams = [(stream.index, _codec_name(stream)) for stream in container.streams.audio]
    return [_Sample(video, index, codec, _first_frame(video, index) if codec else None) for index, codec in streams]


def _codec_name(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context is not None else ""


def _first_frame(video: VideoFile, index: int) -> av.AudioFrame | None:
    with av.open(str(video.path)) as container:
        stream: Any = container.streams[index]
        for packet in itertools.islice(container.demux(stream), _PACKETS_TRIED):
            with contextlib.suppress(*_ERRORS):
                for frame in stream.codec_context.decode(packet if packet.size else None):
                    if frame.samples:
                        return frame
    return None


def _copied(sample: _Sample, suffix: str) -> Track | None:
    """Return the track as a copy, if the container accepts its first packets."""
    if not sample.codec or (suffix in _COPIED and sample.codec not in _COPIED[suffix]):
        return None
    try:
        with av.open(str(sample.video.path)) as source, _scratch(suffix) as output:
            stream: Any = source.streams[sample.index]
            copy = output.add_stream_from_template(stream)
            for packet in itertools.islice(source.demux(stream), 4):
                if packet.size and packet.pts is not None:
                    packet.stream = copy
                    output.mux(packet)
    except _ERRORS:
        return None
    return Track(sample.index, sample.codec)


def _encoded(sample: _Sample, suffix: str) -> Track | None:
    """Return the track encoded again, if it can be decoded."""
    if sample.frame is None:
        return None
    encoder, heard = _ENCODERS[suffix], sample.frame.sample_rate
    rate = 48000 if encoder == "libopus" else min((r for r in _AAC_RATES if r >= heard), default=48000)
    layout = _LAYOUTS.get(sample.frame.layout.nb_channels, "stereo")
    track = Track(sample.index, sample.codec, encoder, rate, layout)
    return track if _encodes(track, suffix) else replace(track, layout="stereo")


def _encodes(track: Track, suffix: str) -> bool:
    try:
        with _scratch(suffix) as output:
            _add_encoder(output, track)
            output.start_encoding()
    except _ERRORS:
        return False
    return True


@contextlib.contextmanager
def _scratch(suffix: str) -> Iterator[Any]:
    """Open an in-memory file with the container of this extension."""
    with av.open(io.BytesIO(), "w", format=FORMATS[suffix]) as output:
        yield output


def _add_encoder(output: Any, track: Track) -> Any:
    stream = output.add_stream(track.encoder, rate=track.rate, layout=track.layout)
    stream.codec_context.bit_rate = _BITS * stream.codec_context.layout.nb_channels
    return stream


# --- writing ---------------------------------------------------------------------------------------------------


class Sound:
    """Writes the sound of one video into another, in step with the frames that are written.

    Time 0 of the written video is `begin` in the source. The object is a context manager that closes the source.

    Args:
        output: PyAV's container that is being written.
        source: The video whose sound is transferred.
        plan: How its tracks are treated, from `plan_sound`; at least one track.
        begin: When the first written frame is shown, in seconds of the source.
        end: When the sound ends, in seconds of the source; None lets it end with the source.
    """

    def __init__(self, output: Any, source: VideoFile, plan: SoundPlan, begin: Fraction, end: Fraction | None) -> None:
        self._end = end
        self._source = av.open(str(source.path))
        lead = _LEAD if plan.suffix == ".mp4" else Fraction(0)
        self._tracks: dict[int, _Copy | _Encoding] = {}
        for track in plan.tracks:
            stream = self._source.streams[track.index]
            if track.encoder:
                self._tracks[track.index] = _Encoding(output, track, begin, end)
            else:
                self._tracks[track.index] = _Copy(output, stream, begin, lead)
        self._packets = self._source.demux([self._source.streams[index] for index in self._tracks])
        self._next: Any = None

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def write_until(self, time: Fraction) -> None:
        """Write all sound that begins before `time`, in seconds of the source."""
        until = time if self._end is None else min(time, self._end)
        while (packet := self._peek()) is not None and packet.pts * packet.time_base < until:
            self._next = None
            self._feed(packet.stream_index, packet)

    def finish(self) -> None:
        """Write the remaining sound."""
        self.write_until(Fraction(10**12))
        for index in list(self._tracks):
            self._feed(index, None)

    def _feed(self, index: int, packet: Any | None) -> None:
        """Pass a track its next packet, or None after the last one. If that fails, the track ends."""
        track = self._tracks.get(index)
        if track is None:
            return
        try:
            if packet is None:
                track.finish()
            else:
                track.write(packet)
        except _ERRORS as error:
            _log.warning("sound: a track ends here: %s", getattr(error, "strerror", None) or error)
            del self._tracks[index]

    def _peek(self) -> Any:
        """Return the next packet that has a time stamp, without consuming it; None at the end."""
        while self._next is None:
            try:
                self._next = next(self._packets, None)
            except _ERRORS as error:
                _log.warning("sound: it ends here: %s", getattr(error, "strerror", None) or error)
                self._packets = iter(())
            if self._next is None:
                return None
            if not self._next.size or (self._next.pts is None and self._next.dts is None):
                self._next = None
            elif self._next.pts is None:
                self._next.pts = self._next.dts
        return self._next


class _Copy:
    """A track whose packets are copied."""

    def __init__(self, output: Any, stream: Any, begin: Fraction, lead: Fraction) -> None:
        self._output, self._begin = output, begin
        self._stream = output.add_stream_from_template(stream)
        self._from = begin - max(lead, _padding(stream))

    def write(self, packet: Any) -> None:
        if packet.pts * packet.time_base < self._from:
            return
        shift = round(self._begin / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts  # sound is decoded in order
        packet.stream = self._stream
        self._output.mux(packet)

    def finish(self) -> None:
        """Do nothing, since no packets are held back."""


def _padding(stream: Any) -> Fraction:
    """Return how much sound an Opus decoder drops at the beginning, in s.

    The file's header states it, and Matroska shifts time stamps by it. The duration is rounded up, because Matroska
    rounds time stamps.

    References:
        RFC 7845, section 5.1.
    """
    header = bytes(stream.codec_context.extradata or b"")
    if not header.startswith(b"OpusHead"):
        return Fraction(0)
    return Fraction(int.from_bytes(header[10:12], "little"), 48000) + Fraction(1, 1000)


class _Encoding:
    """A track that is decoded, cut to the sample and encoded again; gaps become silence."""

    def __init__(self, output: Any, track: Track, begin: Fraction, end: Fraction | None) -> None:
        self._output, self._track, self._begin, self._end = output, track, begin, end
        self._stream = _add_encoder(output, track)
        self._graph: av.filter.Graph | None = None

    def write(self, packet: Any) -> None:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # a gap, which becomes silence
            return
        for frame in frames:
            if self._graph is None:
                self._graph = self._graph_for(frame)
            self._graph.push(frame)
            self._encode_ready_frames()

    def finish(self) -> None:
        if self._graph is None:
            return
        with contextlib.suppress(av.error.EOFError):
            self._graph.push(None)
        self._encode_ready_frames()
        self._output.mux(self._stream.encode(None))

    def _encode_ready_frames(self) -> None:
        assert self._graph is not None
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                self._output.mux(self._stream.encode(self._graph.pull()))

    def _graph_for(self, frame: av.AudioFrame) -> av.filter.Graph:
        """Set up filters that cut the sound, make it begin at time 0 and convert it to the encoder's format."""
        track, begin = self._track, float(self._begin)
        end = "" if self._end is None else f":end={float(self._end):.6f}"
        graph = av.filter.Graph()
        sample_format = self._stream.codec_context.format.name
        filters = (
            graph.add_abuffer(
                sample_rate=frame.sample_rate, format=frame.format, layout=frame.layout, time_base=frame.time_base
            ),
            graph.add("atrim", f"start={begin:.6f}{end}"),
            graph.add("asetpts", f"PTS-{begin:.6f}/TB"),
            graph.add("aresample", f"{track.rate}:async=1:first_pts=0"),
            graph.add("aformat", f"sample_fmts={sample_format}:channel_layouts={track.layout}"),
            graph.add("abuffersink"),
        )
        for before, after in itertools.pairwise(filters):
            before.link_to(after)
        graph.configure()
        return graph
