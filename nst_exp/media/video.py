"""Reading of videos and animations, frame by frame.

Videos are read by PyAV in every format that FFmpeg decodes; animations, such as GIF and WebP, are read by Pillow.
Frames are streamed and never held all at once.

PyAV is used instead of imageio because it keeps exact frame rates, the time stamps of videos with a variable rate, and
sound, packet by packet. Time stamps are preserved, so that a written frame is shown at the same moment as the frame of
the source.

Keep imports of this module fast: inputs are checked before JAX is loaded.
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
_DEFAULT_RATE = Fraction(25)  # frames per second, of videos that state no rate
_MISSING_FRAMES = 2.5  # a video that lacks more frames than this before its stated end was cut short
_MAX_RATE = 1000  # frames per second; a higher average is a mistake in the file
_FRAMES_PROBED = 12  # frames from which a video's treatment is decided
_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS of libavformat
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave transparency out

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One frame of a video, upright.

    Attributes:
        index: Position of the frame in the source, from 0.
        pts: When the frame is shown, in units of the video's `time_base`.
        levels: sRGB levels 0 to 255, uint8 (H, W, 3).
    """

    index: int
    pts: int
    levels: Levels


@dataclass(frozen=True)
class VideoFile:
    """The properties of a video file.

    Attributes:
        path: The file.
        size: The (width, height) of an upright frame, in px.
        rate: Average number of frames per second; exact if the file states it exactly.
        time_base: Unit of time stamps, in seconds.
        frames: Approximate number of frames, as far as the file states it; None if it does not.
        has_sound: Whether the file has an audio stream.
        animation: Whether the file is read by Pillow instead of FFmpeg.
        treatment: What is unusual about the video and how it is converted, in words for the log.
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
        """Size and frame rate, in words for the log."""
        rate = f"{float(self.rate):.2f}".rstrip("0").rstrip(".")
        return f"{self.size[0]}x{self.size[1]}, {rate} frames/s"


@dataclass(frozen=True)
class Cut:
    """A selection of a video's frames.

    Attributes:
        start: Index of the first frame.
        end: Index after the last frame; None selects all frames up to the end of the video.
        every: Distance between selected frames; 1 selects every frame.
    """

    start: int = 0
    end: int | None = None
    every: int = 1

    def count(self, frames: int | None) -> int | None:
        """Return how many frames the selection has.

        Args:
            frames: The number of frames of the video; None if unknown, in which case the video is assumed to reach
                `end`.

        Returns:
            The number of selected frames; None if neither `frames` nor `end` is known.
        """
        end = min((n for n in (frames, self.end) if n is not None), default=None)
        return None if end is None else max(0, len(range(self.start, end, self.every)))


def probe(path: Path, name: str) -> VideoFile:
    """Read the properties of a video file.

    Args:
        path: The file to read.
        name: The config key that `path` comes from, for messages.

    Raises:
        InputError: If the file is not a video, or has no frame that can be decoded.
    """
    subject = f"{name}={str(path)!r}"
    frames = animation_frames(path)
    with _as_input_error(subject):
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
    first = list(itertools.islice(_decoded(container, stream, lambda error: None), _FRAMES_PROBED))
    if not first:
        raise InputError(f"{subject} has no frames")
    treatment = treatment_of(first, stream.sample_aspect_ratio, stream.codec_context.field_order)
    rate = _rate(stream)
    return VideoFile(
        path,
        shown_size(first[0], stream.sample_aspect_ratio),
        rate,
        Fraction(stream.time_base or 1 / rate),
        _estimated_frames(path, container, stream, rate),
        has_sound=bool(container.streams.audio),
        animation=False,
        treatment=treatment,
    )


def video_stream(container: Any) -> Any | None:
    """Return the first stream of moving pictures in PyAV's container; None if it has none besides cover pictures."""
    moving = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
    return next(moving, None)


def _rate(stream: Any) -> Fraction:
    """Return the average frames per second, or a guess where the average is implausible, as in very short DV files."""
    average = stream.average_rate
    return Fraction(average if average and average <= _MAX_RATE else stream.guessed_rate or _DEFAULT_RATE)


def read_frames(video: VideoFile, cut: Cut, *, on_corrupt: str, name: str) -> Iterator[Frame]:
    """Read the selected frames of a video, one after the other.

    Args:
        video: The video, from `probe`.
        cut: The frames to read.
        on_corrupt: `error` to raise an error where something cannot be decoded, or `skip` to leave it out with a
            warning in the log.
        name: The config key that the video comes from, for messages.

    Yields:
        The frames, in order, with increasing time stamps.

    Raises:
        InputError: If the file cannot be read; with `error`, also where something cannot be decoded, and before the
            first frame if the file was cut short and selected frames are missing.

    Example:
        >>> video = probe(Path("moving.mp4"), "content")  # written by the example of `write_video`
        >>> for frame in read_frames(video, Cut(start=5, end=20, every=5), on_corrupt="error", name="content"):
        ...     print(frame.index, frame.pts * video.time_base, frame.levels.shape)
        5 1/5 (64, 96, 3)
        10 2/5 (64, 96, 3)
        15 3/5 (64, 96, 3)
    """
    subject = f"{name}={str(video.path)!r}"
    with _as_input_error(subject):
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
    """Return how long the current frame of an animation is shown, in ms.

    A duration of 0 in the file means 100 ms, as in browsers.
    """
    image.load()
    return round(float(image.info.get("duration", 0))) or 100


def _streamed(video: VideoFile, on_corrupt: str, subject: str) -> Generator[Frame]:
    """Yield all frames of a video, with increasing time stamps."""
    index, last = 0, None

    def report(error: av.error.FFmpegError) -> None:
        _corrupt(f"{subject}: frame {index} cannot be decoded: {error.strerror}", on_corrupt)

    with av.open(str(video.path)) as container:
        stream = video_stream(container)
        assert stream is not None
        timed = _has_times(container)
        for frame in deinterlaced(_decoded(container, stream, report)):
            if not timed:  # the time stamps that FFmpeg guesses have gaps
                frame.pts = None
            last = _pts(frame, last, video)
            yield Frame(index, last, levels_of(frame, stream.sample_aspect_ratio))
            index += 1


def _decoded(container: Any, stream: Any, report: Callable[[av.error.FFmpegError], None]) -> Iterator[av.VideoFrame]:
    """Yield the frames of a stream as they are stored.

    Args:
        report: Called with the error if something cannot be decoded; if it returns, the damaged part is left out.
    """
    decoder = _decoder(stream)
    decoder.thread_type = "SLICE"  # with frames in threads, PyAV loses errors, and frames after them
    decoder.options = {"err_detect": "explode"}  # or FFmpeg fills damaged parts with grey
    return _with_repeats(container.demux(stream), decoder, report)


def _decoder(stream: Any) -> Any:
    """Return the stream's decoder, or one that decodes transparency where FFmpeg's own would leave it out."""
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    name = stream.codec_context.name
    if tags.get("alpha_mode") == "1" and name in _ALPHA_DECODERS:
        return av.CodecContext.create(_ALPHA_DECODERS[name], "r")
    return stream.codec_context


def _with_repeats(
    packets: Iterable[Any], decoder: Any, report: Callable[[av.error.FFmpegError], None]
) -> Iterator[av.VideoFrame]:
    """Decode packets, where an empty packet with a time stamp repeats the previous frame at that time.

    Decoders refuse empty packets and deliver frames late, so a repetition waits until the frame that follows it is
    there.
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
    except av.error.EOFError:  # the decoder was flushed before and has no more frames
        return []
    except av.error.FFmpegError as error:
        report(error)
        return []


def _pts(frame: av.VideoFrame, last: int | None, video: VideoFile) -> int:
    """Return the frame's time stamp, in units of the video's `time_base`, and always later than the last one.

    Time stamps do not increase in some files. Where a file has none, frames are counted.
    """
    if frame.pts is None:
        return 0 if last is None else last + max(1, round(1 / (video.rate * video.time_base)))
    pts = round(frame.pts * (frame.time_base or video.time_base) / video.time_base)  # a filter may count in other units
    return pts if last is None else max(pts, last + 1)


def _corrupt(message: str, on_corrupt: str) -> None:
    if on_corrupt == "error":
        raise InputError(f"{message}; video.on_corrupt=skip leaves it out")
    _log.warning(message)


# --- number of frames ------------------------------------------------------------------------------------------


def _estimated_frames(path: Path, container: Any, stream: Any, rate: Fraction) -> int | None:
    """Estimate the number of frames: MP4 and MOV count them, other files state a rate and a duration."""
    if stream.frames and _may_have_edits(container):
        return int(stream.frames)
    if not _has_times(container):
        return _survey(path).frames
    return round(container.duration * rate / 1_000_000) if container.duration else None


def _may_have_edits(container: Any) -> bool:
    """Return whether this is an MP4 or MOV file, which counts its frames but may hide some by a list of edits."""
    return "mp4" in container.format.name.split(",")


def _has_times(container: Any) -> bool:
    """Return whether the format has time stamps, so that a duration is more than a guess from the file's length."""
    return not container.format.flags & _NO_TIMESTAMPS


def _check_whole(video: VideoFile, cut: Cut, on_corrupt: str, subject: str) -> None:
    """Report a file that ends too early, if selected frames are missing."""
    survey = _survey(video.path)
    missing = survey.missing * video.rate
    if missing > _MISSING_FRAMES and (cut.end is None or cut.end > survey.frames):
        ends = f"ends after {survey.frames} frames, {float(missing):.0f} before its end"
        _corrupt(f"{subject} {ends}: it was cut short", on_corrupt)


@dataclass(frozen=True)
class _Survey:
    """The content of a video file, judged by its packets.

    Attributes:
        frames: Number of packets with video.
        missing: How much earlier the file ends than it states, in s.
    """

    frames: int
    missing: Fraction


def _survey(path: Path) -> _Survey:
    status = path.stat()
    return _surveyed(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _surveyed(path: Path, mtime_ns: int, size: int) -> _Survey:
    """Read all packets without decoding them.

    All streams count: a file in which one of them reaches its end was not cut short.
    """
    with av.open(str(path)) as container:
        stream = video_stream(container)
        assert stream is not None
        frames, reached = 0, Fraction(0)
        with contextlib.suppress(av.error.FFmpegError):  # decoding fails at the same place, and says at which frame
            for packet in container.demux():
                if packet.pts is None and packet.dts is None and not packet.size:  # the end of a stream
                    continue
                frames += packet.stream_index == stream.index
                reached = max(reached, _end(packet))
        if _may_have_edits(container):  # its index lists all frames and their places in the file
            lost = sum(entry.pos + entry.size > size for entry in stream.index_entries)
            return _Survey(len(stream.index_entries) - lost, lost / _rate(stream))
        if not container.duration or not _has_times(container):
            return _Survey(frames, Fraction(0))
        return _Survey(frames, max(Fraction(0), Fraction(container.duration, av.time_base) - reached))


def _end(packet: Any) -> Fraction:
    """Return when a packet stops being shown or heard, in s."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    return Fraction(0) if stamp is None else (stamp + (packet.duration or 0)) * Fraction(packet.time_base)


@contextlib.contextmanager
def _as_input_error(subject: str) -> Iterator[None]:
    """Turn an error into an InputError that names the file; wrap nothing but reading in this."""
    try:
        yield
    except InputError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, SyntaxError, EOFError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{subject} cannot be read: {reason}") from error
