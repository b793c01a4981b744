"""Writing of animations (GIF and WebP), frame by frame.

No more than three frames are held in memory at a time. Keep imports of this module fast: inputs are checked before JAX
is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import GifImagePlugin
from PIL import Image as PillowImage

from nst_exp.media.codecs import Codec
from nst_exp.media.frame_conversion import Levels

_MAX_TICKS = 65535  # the longest duration of a GIF's frame; longer ones are stored as several frames


class _Picture(NamedTuple):
    """A frame of an animation: when it begins, counted from 0, and how long it is shown, both in ticks."""

    begin: int
    ticks: int
    levels: Levels


def write_animation(
    path: Path, codec: Codec, frames: Iterator[tuple[int, Levels]], *, time_base: Fraction, usual: int, end: int | None
) -> None:
    """Write an animation that begins at time 0 and repeats forever.

    The file is not written atomically.

    Args:
        path: The file to write.
        codec: A codec for animations, that is, one whose `animation` is not None.
        frames: At least one pair of a time stamp, in units of `time_base`, and a frame's levels. Time stamps must
            increase, and all frames must have the same size.
        time_base: Unit of time stamps, in seconds.
        usual: Usual duration of a frame, in units of `time_base`.
        end: When the last frame ends, in units of `time_base`; None shows it for the usual duration.

    Raises:
        OSError: If the file cannot be written.
        av.error.FFmpegError: If FFmpeg cannot encode or write the file.
    """
    format_ = codec.animation
    assert format_ is not None
    pictures = _shown(_in_ticks(frames, time_base / format_.tick, usual, end), format_.least)
    if codec.encoder:
        _write_encoded(path, codec, format_.tick, pictures)
    else:
        _write_gif(path, pictures)


def _in_ticks(
    frames: Iterator[tuple[int, Levels]], scale: Fraction, usual: int, end: int | None
) -> Iterator[tuple[int, Levels | None]]:
    """Yield each frame's beginning, in ticks from 0, with its levels, and finally the animation's end with None."""
    first = last = None
    for stamp, levels in frames:
        first, last = stamp if first is None else first, stamp
        yield round((stamp - first) * scale), levels
    assert first is not None
    assert last is not None
    yield round(((last + usual if end is None else end) - first) * scale), None


def _shown(frames: Iterable[tuple[int, Levels | None]], least: int) -> Iterator[_Picture]:
    """Yield the frames that are shown long enough, and leave out all others.

    A frame that would be shown for less than `least` ticks gives its time to the frame before it, so that the total
    duration stays the same. Each frame is held back until its duration is known.
    """
    shown: tuple[int, Levels] | None = None
    waiting: tuple[int, Levels] | None = None
    for begin, levels in frames:
        if shown is None:
            assert levels is not None
            shown = begin, levels
            continue
        if waiting is not None and begin - waiting[0] >= least:
            yield _Picture(shown[0], waiting[0] - shown[0], shown[1])
            shown, waiting = waiting, None
        if levels is None:
            yield _Picture(shown[0], max(begin, least) - shown[0], shown[1])
        elif waiting is None and begin - shown[0] >= least:
            waiting = begin, levels


def _write_encoded(path: Path, codec: Codec, tick: Fraction, pictures: Iterable[_Picture]) -> None:
    """Write the animation with FFmpeg's encoder for the format."""
    with av.open(str(path), "w", format=codec.suffix.removeprefix("."), options={"loop": "0"}) as output:
        video: Any = None
        end = 0
        for picture in pictures:
            if video is None:
                video = output.add_stream(codec.encoder, rate=1 / tick, options=dict(codec.options))
                video.height, video.width, _ = picture.levels.shape
                video.pix_fmt, video.codec_context.time_base = codec.pixels, tick
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.levels), format="rgb24")
            frame = frame.reformat(format=codec.pixels)
            frame.pts, frame.duration, frame.time_base = picture.begin, picture.ticks, tick
            output.mux(video.encode(frame))
            end = picture.begin + picture.ticks
        output.mux(video.encode(None))
    if codec.suffix == ".webp":
        _end_at(path, end)


def _end_at(path: Path, end: int) -> None:
    """Make a WebP animation end at `end`, in ms.

    FFmpeg shows the last frame for the average duration of the others, so the duration is corrected in the file.

    References:
        WebP Container Specification, "Extended File Format": chunks ANMF.
    """
    with path.open("r+b") as file:
        file.seek(12)
        begin = ticks = place = 0
        while len(head := file.read(8)) == 8:
            start, size = file.tell(), int.from_bytes(head[4:], "little")
            if head[:4] == b"ANMF":
                place, begin = start + 12, begin + ticks
                file.seek(place)
                ticks = int.from_bytes(file.read(3), "little")
            file.seek(start + size + size % 2)
        if place:  # a file with a single frame is no animation
            file.seek(place)
            file.write((end - begin).to_bytes(3, "little"))


def _write_gif(path: Path, pictures: Iterable[_Picture]) -> None:
    """Write a GIF in which each frame stores only the part that differs from the previous frame.

    Each part has its own palette of up to 256 colours. Pillow's own writer would hold all frames in memory until the
    last one is available.
    """
    before: Levels | None = None
    with path.open("wb") as file:
        for _, ticks, levels in pictures:
            if before is None:
                header, _ = GifImagePlugin.getheader(_paletted(levels), info={"loop": 0})
                file.write(b"".join(header))
            while ticks:
                part = min(ticks, _MAX_TICKS)
                (left, top), changed = _changed(before, levels)
                settings = {"duration": 10 * part, "disposal": 1, "include_color_table": True}
                file.write(b"".join(GifImagePlugin.getdata(_paletted(changed), (left, top), **settings)))
                ticks, before = ticks - part, levels
        file.write(b";")


def _paletted(levels: Levels) -> PillowImage.Image:
    return PillowImage.fromarray(levels).convert("P", palette=PillowImage.Palette.ADAPTIVE)


def _changed(before: Levels | None, levels: Levels) -> tuple[tuple[int, int], Levels]:
    """Find the part of a frame that differs from the previous frame.

    Returns:
        The part's position, (left, top) in px, and its levels.
    """
    if before is None:
        return (0, 0), levels
    differs = (before != levels).any(axis=2)
    if not differs.any():
        return (0, 0), levels[:1, :1]
    rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
    part = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (int(columns[0]), int(rows[0])), np.ascontiguousarray(part)
