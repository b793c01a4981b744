"""Writing of videos, frame by frame, with the sound of another video.

Keep imports of this module fast: inputs are checked before JAX is loaded.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from nst_exp.errors import InputError
from nst_exp.media.animation_writer import write_animation
from nst_exp.media.codecs import CODECS, Codec
from nst_exp.media.frame_conversion import Levels
from nst_exp.media.sound import FORMATS, Sound, SoundPlan, plan_sound
from nst_exp.media.video import VideoFile


def check_writable(codec: str, size: tuple[int, int]) -> None:
    """Check that this FFmpeg can write a video of the given codec and size.

    Args:
        codec: A key of `codecs.CODECS`.
        size: The (width, height) of a frame, in px.

    Raises:
        InputError: If FFmpeg lacks the encoder, or the encoder does not accept frames of this size.
    """
    choice = CODECS[codec]
    if choice.animation:
        if max(size) > choice.animation.most_px:
            most = f"at most {choice.animation.most_px} px are possible"
            raise InputError(f"video.codec={codec}: pictures of {size[0]}x{size[1]} px, {most}")
        if not choice.encoder:
            return
    try:
        context: Any = av.CodecContext.create(choice.encoder, "w")
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(f"video.codec={codec}: this FFmpeg has no encoder {choice.encoder}") from error
    try:
        context.width, context.height, context.pix_fmt = *size, choice.pixels
        context.time_base, context.options = Fraction(1, 25), dict(choice.options)
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(f"video.codec={codec}: its encoder does not take {size[0]}x{size[1]} px") from error


def write_video(
    path: Path,
    frames: Iterable[tuple[int, Levels]],
    codec: Codec,
    *,
    time_base: Fraction,
    rate: Fraction,
    end: int | None = None,
    sound_of: VideoFile | None = None,
    sound_to_end: bool = True,
) -> None:
    """Write a video atomically, with the sound of another video.

    The written video begins at time 0, whatever the time stamp of its first frame.

    Args:
        path: The file to write. See `suffix_with_sound` for its extension, which has no influence on the container.
        frames: At least one pair of a time stamp, in units of `time_base`, and a frame's levels, uint8 (H, W, 3). Time
            stamps must increase, and all frames must have the same size.
        codec: How to encode the video, one of `codecs.CODECS`.
        time_base: Unit of time stamps, in seconds.
        rate: Frames per second that the file states; the time stamps determine when frames are shown.
        end: When the last frame ends, in units of `time_base`; None shows it for the usual duration of a frame.
        sound_of: The video whose sound is added; None for a silent video. The time stamps of `frames` are those of this
            video, and its sound begins with the first frame. Animations have no sound.
        sound_to_end: Whether all the rest of the sound is added, or only the sound before `end`.

    Raises:
        InputError: If there are no frames, or the file cannot be written.

    Example:
        >>> def moving(index: int) -> Levels:
        ...     levels = np.full((64, 96, 3), 80, np.uint8)
        ...     levels[24:40, 2 * index : 2 * index + 16] = (240, 200, 40)
        ...     return levels
        >>> frames = ((index, moving(index)) for index in range(25))
        >>> write_video(Path("moving.mp4"), frames, CODECS["h264"], time_base=Fraction(1, 25), rate=Fraction(25))
    """
    os.environ.setdefault("SVT_LOG", "1")  # otherwise AV1's encoder prints more than errors
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        if codec.animation:
            usual = round(1 / (rate * time_base))
            _, every = _first_and_all(frames)
            write_animation(temporary, codec, every, time_base=time_base, usual=usual, end=end)
        else:
            _encode_video(temporary, frames, codec, time_base, rate, end, sound_of, sound_to_end=sound_to_end)
        os.replace(temporary, path)
    except (OSError, av.error.FFmpegError) as error:
        raise InputError(f"{str(path)!r} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def suffix_with_sound(codec: Codec, source: VideoFile) -> str:
    """Return the extension of a file with this codec and the sound of `source`.

    It is that of the codec, or that of Matroska where the codec's usual container cannot hold the sound.
    """
    return plan_sound(source, codec.suffix).suffix if not codec.animation else codec.suffix


_OPTIONS = {"fflags": "+bitexact"}  # otherwise Matroska files have random identifiers
_MP4_OPTIONS = {"movflags": "+faststart"}  # lets browsers play a file before they have all of it


def _encode_video(
    path: Path,
    frames: Iterable[tuple[int, Levels]],
    codec: Codec,
    time_base: Fraction,
    rate: Fraction,
    end: int | None,
    sound_of: VideoFile | None,
    *,
    sound_to_end: bool,
) -> None:
    (first, picture), every = _first_and_all(frames)
    plan = plan_sound(sound_of, codec.suffix) if sound_of else SoundPlan(codec.suffix)
    options = _OPTIONS | (_MP4_OPTIONS if plan.suffix == ".mp4" else {})
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(av.open(str(path), "w", format=FORMATS[plan.suffix], options=options))
        video: Any = output.add_stream(codec.encoder, rate=rate, options=dict(codec.options))
        _configure(video, picture, codec, time_base)
        sound = None
        if sound_of and plan.tracks:
            sound_end = None if sound_to_end or end is None else end * time_base
            sound = stack.enter_context(Sound(output, sound_of, plan, first * time_base, sound_end))
        begin: int | None = None
        last, waiting = first, None  # a packet waits, because the last one states how long it is shown
        for pts, levels in every:
            frame = _encodable(levels, codec)
            frame.pts, frame.time_base, last = pts - first, time_base, pts
            packets = video.encode(frame)
            begin = packets[0].dts if packets and begin is None else begin
            waiting = _mux_all_but_last(output, waiting, packets)
            if sound:
                sound.write_until(pts * time_base)
        remaining = [packet for packet in (waiting, *video.encode(None)) if packet is not None]
        if end is not None and remaining:
            begin = remaining[0].dts if begin is None else begin
            _end_at((end - first) * time_base, (last - first) * time_base, remaining, begin, plan.suffix)
        output.mux(remaining)
        if sound:
            sound.finish()


def _end_at(end: Fraction, last: Fraction, packets: Sequence[Any], begin: int, suffix: str) -> None:
    """Make a video end at `end`, in s, by changing the duration of its last packets.

    The last frame is shown from `last` on, in s. MP4 measures a video's length in decoding order, from the time stamp
    `begin` of the first packet, and the frame that is shown last need not be the last one in that order.
    """
    for packet in packets:
        if packet.pts * packet.time_base == last:
            packet.duration = max(1, round((end - last) / packet.time_base))
    if suffix == ".mp4" and packets:
        packet = packets[-1]
        packet.duration = max(1, round(end / packet.time_base) - (packet.dts - begin))


def _first_and_all(
    frames: Iterable[tuple[int, Levels]],
) -> tuple[tuple[int, Levels], Iterator[tuple[int, Levels]]]:
    """Return the first frame, and an iterator over all frames, including the first."""
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise InputError("a video cannot be written without frames")
    return first, itertools.chain([first], iterator)


def _mux_all_but_last(output: Any, waiting: Any, packets: Sequence[Any]) -> Any:
    """Write the packet that waited and all of `packets` but the last; return the packet that waits now."""
    if not packets:
        return waiting
    if waiting is not None:
        output.mux(waiting)
    output.mux(packets[:-1])
    return packets[-1]


def _configure(video: Any, levels: Levels, codec: Codec, time_base: Fraction) -> None:
    video.height, video.width, _ = levels.shape
    if codec.tag:
        video.codec_context.codec_tag = codec.tag
    video.pix_fmt, video.codec_context.time_base = codec.pixels, time_base
    if codec.pixels.startswith("yuv"):
        context = video.codec_context
        context.color_primaries = context.color_trc = context.colorspace = int(Colorspace.ITU709)
        context.color_range = int(ColorRange.MPEG)


def _encodable(levels: Levels, codec: Codec) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(levels), format="rgb24")
    if not codec.pixels.startswith("yuv"):
        return frame.reformat(format=codec.pixels)
    return frame.reformat(format=codec.pixels, dst_colorspace=Colorspace.ITU709)
