"""Videos and animations are written here, frame by frame, with the sound of another one.

This module must stay quick to import: inputs are checked before JAX is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import imageio.v3 as imageio
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from nst_exp.errors import InputError
from nst_exp.media.frame_conversion import Levels
from nst_exp.media.image import ASPECTS
from nst_exp.media.sound import Sound
from nst_exp.media.video import Clip


@dataclass(frozen=True)
class Codec:
    """How a clip is written.

    Attributes:
        encoder: FFmpeg's name of it; empty for animations.
        suffix: of the file, which says its container.
        pixels: FFmpeg's pixel format.
        options: of the encoder.
        even: whether both sides must be even.
        least: px, of either side.
    """

    encoder: str
    suffix: str
    pixels: str
    options: tuple[tuple[str, str], ...] = ()
    even: bool = False
    least: int = 2


CODECS = {
    # x265 writes where it should not below its block size of 64 px
    # CRF: of equal quality to the eye in each codec's own scale, visually close to lossless for painted texture
    # x264's macroblock trees differ from one time to the next on CPUs with AVX-512
    "h264": Codec(
        "libx264", ".mp4", "yuv420p", (("crf", "16"), ("preset", "medium"), ("x264-params", "mbtree=0")), even=True
    ),
    "h265": Codec(
        "libx265", ".mp4", "yuv420p", (("crf", "18"), ("x265-params", "log-level=none")), even=True, least=64
    ),
    "vp9": Codec("libvpx-vp9", ".webm", "yuv420p", (("crf", "24"), ("b", "0"), ("row-mt", "1")), even=True),
    "av1": Codec("libsvtav1", ".mp4", "yuv420p", (("crf", "24"), ("preset", "8")), even=True),
    "ffv1": Codec("ffv1", ".mkv", "bgr0", (("level", "3"),)),  # lossless
    "gif": Codec("", ".gif", "rgb24"),
    "webp": Codec("", ".webp", "rgb24"),
}


def fitted_size(stored: tuple[int, int], size: int, aspect: str, *, even: bool) -> tuple[int, int]:
    """(width, height) in px: the longer side `size` (`aspect="keep"`) or both, rounded to even if need be."""
    if aspect not in ASPECTS:
        raise InputError(f"aspect={aspect!r}: choose among {', '.join(ASPECTS)}")
    width, height = (size, size) if aspect == "stretch" else (side * size / max(stored) for side in stored)
    step = 2 if even else 1
    return max(step, step * round(width / step)), max(step, step * round(height / step))


def write_clip(
    path: Path,
    frames: Iterable[tuple[int, Levels]],
    codec: Codec,
    *,
    time_base: Fraction,
    rate: Fraction,
    sound_of: Clip | None = None,
    sound_to_end: bool = True,
) -> None:
    """Write a clip, all or nothing; with the sound of another one, its packets copied as they are.

    Args:
        frames: time stamps in units of `time_base`, rising, and levels of one size.
        rate: frames a second, for players that ask.
        sound_of: whose audio goes along, from the first frame on; None for silence.
        sound_to_end: whether all the rest of it goes along, or only what is heard until the last frame.

    Raises:
        InputError: if the file cannot be written.
    """
    os.environ.setdefault("SVT_LOG", "1")  # AV1's encoder says more than errors otherwise
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        if not codec.encoder:
            _write_animation(temporary, frames, codec, time_base, rate)
        else:
            _write_video(temporary, frames, codec, time_base, rate, sound_of, sound_to_end=sound_to_end)
        os.replace(temporary, path)
    except (OSError, av.error.FFmpegError) as error:
        raise InputError(f"{str(path)!r} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def suffix_with_sound(codec: Codec, clip: Clip) -> str:
    """The suffix for a clip of `codec` with the sound of `clip`: Matroska where the usual container cannot hold it."""
    if not clip.has_sound or not codec.encoder:
        return codec.suffix
    with av.open(str(clip.path)) as container:
        names = {stream.codec_context.name for stream in container.streams.audio}
    return codec.suffix if names <= _SOUND.get(codec.suffix, names) else ".mkv"


# What players understand in these containers; FFmpeg would write more.
_SOUND = {
    ".mp4": frozenset(("aac", "mp3", "mp3float", "ac3", "eac3", "alac", "opus", "libopus", "flac")),
    ".webm": frozenset(("opus", "libopus", "vorbis", "libvorbis")),
}
_FORMATS = {".mp4": "mp4", ".webm": "webm", ".mkv": "matroska"}
_SAME_BYTES = {"fflags": "+bitexact"}  # Matroska would write random identifiers


def _write_animation(
    path: Path, frames: Iterable[tuple[int, Levels]], codec: Codec, time_base: Fraction, rate: Fraction
) -> None:
    stamps, pictures = zip(*frames, strict=True)
    shown = [round((after - before) * time_base * 1000) for before, after in itertools.pairwise(stamps)]
    shown.append(shown[-1] if shown else round(1000 / rate))
    options: dict[str, Any] = {"lossless": False, "quality": 90} if codec.suffix == ".webp" else {}
    imageio.imwrite(
        path, np.stack(pictures), plugin="pillow", extension=codec.suffix, duration=shown, loop=0, **options
    )


def _write_video(
    path: Path,
    frames: Iterable[tuple[int, Levels]],
    codec: Codec,
    time_base: Fraction,
    rate: Fraction,
    sound_of: Clip | None,
    *,
    sound_to_end: bool,
) -> None:
    suffix = codec.suffix if sound_of is None else suffix_with_sound(codec, sound_of)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(av.open(str(path), "w", format=_FORMATS[suffix], options=_SAME_BYTES))
        video: Any = output.add_stream(codec.encoder, rate=rate, options=dict(codec.options))
        sound = stack.enter_context(Sound(output, sound_of)) if sound_of and sound_of.has_sound else None
        for pts, levels in frames:
            if video.width != levels.shape[1]:
                _configure(video, levels, codec, time_base)
            frame = _encodable(levels, codec)
            frame.pts, frame.time_base = pts, time_base
            output.mux(video.encode(frame))
            if sound:
                sound.copy_until(pts * time_base)
        output.mux(video.encode(None))
        if sound and sound_to_end:
            sound.copy_until(None)


def _configure(video: Any, levels: Levels, codec: Codec, time_base: Fraction) -> None:
    video.height, video.width, _ = levels.shape
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
