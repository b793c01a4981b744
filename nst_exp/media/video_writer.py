"""Videos are written here, frame by frame, with the sound of another one.

This module must stay quick to import: inputs are checked before JAX is.
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
    """Refuse a codec whose encoder is missing here or does not take pictures of this (width, height).

    Raises:
        InputError: naming the codec.
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
    """Write a video, all or nothing, with the sound of another one. It begins at 0, whenever its first frame was.

    Args:
        frames: time stamps in units of `time_base`, rising, and levels of one size.
        rate: frames a second, for players that ask.
        end: when the last frame ends, in units of `time_base`; None: after a frame's usual time.
        sound_of: whose audio goes along, from the first frame on; None for silence.
        sound_to_end: whether all the rest of it goes along, or only what is heard until `end`.

    Raises:
        InputError: if the file cannot be written.
    """
    os.environ.setdefault("SVT_LOG", "1")  # AV1's encoder says more than errors otherwise
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
    """The suffix of a file of `codec` with the sound of `source`: Matroska where the usual container cannot hold it."""
    return plan_sound(source, codec.suffix).suffix if not codec.animation else codec.suffix


_OPTIONS = {"fflags": "+bitexact"}  # Matroska would write random identifiers
_MP4_OPTIONS = {"movflags": "+faststart"}  # browsers can play before they have the whole file


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
        last, waiting = first, None  # a packet waits, for the last frame says how long it is shown
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
    """Make a video whose last frame is shown from `last` on end at `end`, in s, by its last packets.

    MP4 counts its length in the order of decoding, from the time stamp `begin` of the first packet, in
    which the frame shown last need not be the last.
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
    """The first frame, and an iterator over all frames, the first included."""
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise InputError("a video cannot be written without frames")
    return first, itertools.chain([first], iterator)


def _mux_all_but_last(output: Any, waiting: Any, packets: Sequence[Any]) -> Any:
    """Write the packet that waited, and these; return the last of them instead, if there is one."""
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
