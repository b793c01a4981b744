"""Reading of videos: whatever FFmpeg decodes, animated GIF and WebP. Frames are streamed, never all held.

PyAV, not imageio, reads and writes video: it keeps exact frame rates, the time stamps of videos with a variable rate,
and sound, packet by packet. Animations are read by Pillow. Time stamps are kept as they are: a frame comes out at the
very moment at which it went in.

This module must stay quick to import: inputs are checked before JAX is.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.stream import Disposition
from PIL import Image as PillowImage

from nst_exp.errors import InputError
from nst_exp.media.frame_conversion import Levels, deinterlaced, levels_of, shown_size, treatment_of
from nst_exp.media.kind import animation_frames, open_animation

ON_CORRUPT = ("error", "skip")
_MILLISECOND = Fraction(1, 1000)
_DEFAULT_RATE = Fraction(25)  # of what does not say
_MISSING = 2.5  # frames short of a video's duration: it was cut off
_MOST_RATE = 1000  # frames a second
_LOOKED_AT = 12  # frames from which a video's treatment is decided
_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS of libavformat
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave transparency out

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One frame, upright.

    Attributes:
        index: its place in the source, from 0.
        pts: when it is shown, in units of the video's `time_base`.
        levels: (H, W, 3).
    """

    index: int
    pts: int
    levels: Levels


@dataclass(frozen=True)
class VideoFile:
    """What a video says of itself.

    Attributes:
        size: (width, height) in px, upright.
        rate: frames a second, on average; exact where the file is.
        time_base: seconds, the unit of time stamps.
        frames: about how many there are, as the file says; None if it does not.
        has_sound: whether there is an audio stream.
        animation: whether Pillow reads it, not FFmpeg.
        treatment: what is unusual about it and what is done about that, in words for the log.
    """

    path: Path
    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    frames: int | None
    has_sound: bool
    animation: bool
    treatment: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Size and rate, in words for the log."""
        rate = f"{float(self.rate):.2f}".rstrip("0").rstrip(".")
        return f"{self.size[0]}x{self.size[1]}, {rate} frames/s"


@dataclass(frozen=True)
class Cut:
    """Which frames of a video: `start` up to but without `end`, every `every`-th."""

    start: int = 0
    end: int | None = None
    every: int = 1

    def count(self, frames: int | None) -> int | None:
        """How many frames are left of `frames`; None if that is not known."""
        end = min((n for n in (frames, self.end) if n is not None), default=None)
        return None if end is None else max(0, len(range(self.start, end, self.every)))


def probe(path: Path, name: str) -> VideoFile:
    """What the video at `path` says of itself.

    Args:
        name: the config key that `path` came from, for messages.

    Raises:
        InputError: if it is no video, or has no frame that can be decoded.
    """
    subject = f"{name}={str(path)!r}"
    frames = animation_frames(path)
    with _refusing(subject):
        if not path.stat().st_size:
            raise InputError(f"{subject} cannot be read: it is empty")
        if frames is not None:
            with PillowImage.open(path) as image:
                size, rate = image.size, 1 / (shown_ms(image) * _MILLISECOND)
            return VideoFile(path, size, rate, _MILLISECOND, frames, has_sound=False, animation=True)
        with av.open(str(path)) as container:
            return _described(path, container, subject)


def _described(path: Path, container: Any, subject: str) -> VideoFile:
    stream = video_stream(container)
    if stream is None:
        cover = " and a cover picture" if container.streams.video else ""
        raise InputError(f"{subject} has no video in it, only sound{cover}")
    first = list(itertools.islice(_decoded(container, stream, lambda error: None), _LOOKED_AT))
    if not first:
        raise InputError(f"{subject} has no frames")
    treatment = treatment_of(first, stream.sample_aspect_ratio, stream.codec_context.field_order)
    rate = _rate(stream)
    return VideoFile(
        path,
        shown_size(first[0], stream.sample_aspect_ratio),
        rate,
        Fraction(stream.time_base or 1 / rate),
        _about(path, container, stream, rate),
        has_sound=bool(container.streams.audio),
        animation=False,
        treatment=treatment,
    )


def video_stream(container: Any) -> Any | None:
    """The first stream of moving pictures in an open file of PyAV's; None if there is none but covers of songs."""
    moving = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
    return next(moving, None)


def _rate(stream: Any) -> Fraction:
    """Frames a second, on average; a guess where the average cannot be one, as of very short DV files."""
    average = stream.average_rate
    return Fraction(average if average and average <= _MOST_RATE else stream.guessed_rate or _DEFAULT_RATE)


def read_frames(video: VideoFile, cut: Cut, *, on_corrupt: str, name: str) -> Iterator[Frame]:
    """The frames of `cut`, one after the other.

    Args:
        on_corrupt: `error`, or `skip`: leave out what cannot be decoded, with a log warning.
        name: the config key that the video came from, for messages.

    Raises:
        InputError: before the first frame, if the file was cut short of what is wanted; or where something cannot be
            decoded.
    """
    subject = f"{name}={str(video.path)!r}"
    with _refusing(subject):
        if not video.animation:
            _check_whole(video, cut, on_corrupt, subject)
        frames = _animated(video) if video.animation else _streamed(video, on_corrupt, subject)
        with contextlib.closing(frames):
            yield from itertools.islice(frames, cut.start, cut.end, cut.every)


# --- reading ---------------------------------------------------------------------------------------------------


def _animated(video: VideoFile) -> Generator[Frame]:
    pts = 0
    with open_animation(video.path) as image:
        for index in range(video.frames or 0):
            image.seek(index)
            image.load()
            white = PillowImage.new("RGBA", image.size, "white")
            opaque = PillowImage.alpha_composite(white, image.convert("RGBA")).convert("RGB")
            yield Frame(index, pts, np.asarray(opaque))
            pts += shown_ms(image)


def shown_ms(image: PillowImage.Image) -> int:
    """How long the current frame is shown; browsers show for 100 ms what says 0."""
    image.load()
    return round(float(image.info.get("duration", 0))) or 100


def _streamed(video: VideoFile, on_corrupt: str, subject: str) -> Generator[Frame]:
    """All frames of a video, with time stamps that rise."""
    index, last = 0, None

    def report(error: av.error.FFmpegError) -> None:
        _corrupt(f"{subject}: frame {index} cannot be decoded: {error.strerror}", on_corrupt)

    with av.open(str(video.path)) as container:
        stream = video_stream(container)
        assert stream is not None
        timed = _has_times(container)
        for frame in deinterlaced(_decoded(container, stream, report)):
            if not timed:  # FFmpeg's guesses have gaps
                frame.pts = None
            last = _pts(frame, last, video)
            yield Frame(index, last, levels_of(frame, stream.sample_aspect_ratio))
            index += 1


def _decoded(container: Any, stream: Any, report: Callable[[av.error.FFmpegError], None]) -> Iterator[av.VideoFrame]:
    """The frames of a stream as they are stored.

    Args:
        report: called with what cannot be decoded; if it returns, that is left out.
    """
    decoder = _decoder(stream)
    decoder.thread_type = "SLICE"  # with whole frames in threads, PyAV drops an error in one, and frames after it
    decoder.options = {"err_detect": "explode"}  # what FFmpeg would otherwise paint over in grey
    return _with_repeats(container.demux(stream), decoder, report)


def _decoder(stream: Any) -> Any:
    """The stream's own, or one that decodes transparency where FFmpeg's own would leave it out."""
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    name = stream.codec_context.name
    if tags.get("alpha_mode") == "1" and name in _ALPHA_DECODERS:
        return av.CodecContext.create(_ALPHA_DECODERS[name], "r")
    return stream.codec_context


def _with_repeats(
    packets: Iterable[Any], decoder: Any, report: Callable[[av.error.FFmpegError], None]
) -> Iterator[av.VideoFrame]:
    """The frames of `packets`; an empty packet with a time stamp says that the frame before it is shown once more.

    Decoders refuse empty packets and deliver frames late, so repeats wait until the frame that follows them is there.
    """
    repeats: list[int] = []
    last: av.VideoFrame | None = None
    for packet in packets:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if not packet.size and stamp is not None:
            repeats.append(stamp)
            continue
        for frame in _decoded_packet(packet, decoder, report):
            while last is not None and repeats and frame.pts is not None and repeats[0] < frame.pts:
                yield _shown_again(last, repeats.pop(0))
            yield frame
            last = frame
    for stamp in repeats if last is not None else ():
        assert last is not None
        yield _shown_again(last, stamp)


def _shown_again(frame: av.VideoFrame, pts: int) -> av.VideoFrame:
    frame.pts = pts
    return frame


def _decoded_packet(packet: Any, decoder: Any, report: Callable[[av.error.FFmpegError], None]) -> list[av.VideoFrame]:
    try:
        return decoder.decode(packet if packet.size else None)
    except av.error.EOFError:  # a decoder that was flushed before has no more
        return []
    except av.error.FFmpegError as error:
        report(error)
        return []


def _pts(frame: av.VideoFrame, last: int | None, video: VideoFile) -> int:
    """The frame's time stamp; later than the last, as some files' are not, and counted where there is none."""
    if frame.pts is None:
        return 0 if last is None else last + max(1, round(1 / (video.rate * video.time_base)))
    pts = round(frame.pts * (frame.time_base or video.time_base) / video.time_base)  # a filter may count in other units
    return pts if last is None else max(pts, last + 1)


def _corrupt(message: str, on_corrupt: str) -> None:
    if on_corrupt == "error":
        raise InputError(f"{message}; video.on_corrupt=skip leaves it out")
    _log.warning(message)


# --- how much there is -----------------------------------------------------------------------------------------


def _about(path: Path, container: Any, stream: Any, rate: Fraction) -> int | None:
    """How many frames there are: counted by MP4 and MOV, else what rate and duration come to."""
    if stream.frames and _edits(container):
        return int(stream.frames)
    if not _has_times(container):
        return _survey(path).frames
    return round(container.duration * rate / 1_000_000) if container.duration else None


def _edits(container: Any) -> bool:
    """Whether the file is of a kind whose frames are counted, but may be left out by a list of edits."""
    return "mp4" in container.format.name.split(",")


def _has_times(container: Any) -> bool:
    """Whether the file is of a kind with time stamps, so that its duration is more than a guess from its length."""
    return not container.format.flags & _NO_TIMESTAMPS


def _check_whole(video: VideoFile, cut: Cut, on_corrupt: str, subject: str) -> None:
    """Report a file that ends before it should, if frames of `cut` are missing."""
    survey = _survey(video.path)
    missing = survey.missing * video.rate
    if missing > _MISSING and (cut.end is None or cut.end > survey.frames):
        ends = f"ends after {survey.frames} frames, {float(missing):.0f} before its end"
        _corrupt(f"{subject} {ends}: it was cut short", on_corrupt)


@dataclass(frozen=True)
class _Survey:
    """What is in a video file, by its packets.

    Attributes:
        frames: how many packets of video there are.
        missing: s, how much earlier the file ends than it says.
    """

    frames: int
    missing: Fraction


def _survey(path: Path) -> _Survey:
    status = path.stat()
    return _surveyed(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _surveyed(path: Path, mtime_ns: int, size: int) -> _Survey:
    """Read all packets, decoding none. All streams count: a file that has one of them to its end was not cut short."""
    with av.open(str(path)) as container:
        stream = video_stream(container)
        assert stream is not None
        frames, reached = 0, Fraction(0)
        with contextlib.suppress(av.error.FFmpegError):  # decoding comes to the same place, and says which frame it is
            for packet in container.demux():
                if packet.pts is None and packet.dts is None and not packet.size:  # the end of a stream
                    continue
                frames += packet.stream_index == stream.index
                reached = max(reached, _end(packet))
        if _edits(container):  # it has a list of all its frames and where they are in the file
            lost = sum(entry.pos + entry.size > size for entry in stream.index_entries)
            return _Survey(len(stream.index_entries) - lost, lost / _rate(stream))
        if not container.duration or not _has_times(container):
            return _Survey(frames, Fraction(0))
        return _Survey(frames, max(Fraction(0), Fraction(container.duration, av.time_base) - reached))


def _end(packet: Any) -> Fraction:
    """When a packet has been shown or heard, in s."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    return Fraction(0) if stamp is None else (stamp + (packet.duration or 0)) * Fraction(packet.time_base)


@contextlib.contextmanager
def _refusing(subject: str) -> Iterator[None]:
    """Whatever goes wrong in here is the file's fault: wrap nothing but reading."""
    try:
        yield
    except InputError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, SyntaxError, EOFError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{subject} cannot be read: {reason}") from error
