"""Codecs and containers of the videos and animations that a run writes.

`CODECS` is the registry; its keys are the values of `video.codec`. The module imports no media library, so that
settings can be checked quickly.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Animation:
    """The limits of an animation format.

    Attributes:
        tick: Resolution of the format's time stamps, in seconds.
        least: Shortest duration of a frame, in ticks, that browsers respect. They show shorter frames for 100 ms.
        most_px: Maximum width and height, in px.
    """

    tick: Fraction
    least: int
    most_px: int


@dataclass(frozen=True)
class Codec:
    """A codec with its container and its encoder settings.

    Attributes:
        encoder: FFmpeg's name of the encoder; empty if Pillow writes the file.
        suffix: File name extension, with its dot, which also determines the container.
        pixels: FFmpeg's name of the pixel format.
        options: Options of the encoder, as pairs of a name and a value.
        even: Whether width and height must both be even.
        least: Minimum width and height, in px.
        tag: Four-character code of the codec in the container, where not all players know the default one; empty for
            the default.
        animation: Limits of the animation format; None for a video. Animations have no sound.
    """

    encoder: str
    suffix: str
    pixels: str
    options: tuple[tuple[str, str], ...] = ()
    even: bool = False
    least: int = 2
    tag: str = ""
    animation: Animation | None = None


# CRF values are on each codec's own scale. These give about the same visual quality in all codecs, which is close to
# lossless for painted texture.
CODECS = {
    "h264": Codec(  # mbtree=0 because x264's macroblock trees vary from run to run on CPUs with AVX-512
        "libx264", ".mp4", "yuv420p", (("crf", "16"), ("preset", "medium"), ("x264-params", "mbtree=0")), even=True
    ),
    "h265": Codec(  # least=64 because x265 writes out of bounds below its block size of 64 px
        "libx265",
        ".mp4",
        "yuv420p",
        (("crf", "18"), ("x265-params", "log-level=none")),
        even=True,
        least=64,
        tag="hvc1",
    ),
    "vp9": Codec("libvpx-vp9", ".webm", "yuv420p", (("crf", "24"), ("b", "0"), ("row-mt", "1")), even=True),
    "av1": Codec("libsvtav1", ".mp4", "yuv420p", (("crf", "24"), ("preset", "8")), even=True),
    "ffv1": Codec("ffv1", ".mkv", "bgr0", (("level", "3"),)),  # lossless
    "gif": Codec("", ".gif", "rgb24", animation=Animation(Fraction(1, 100), least=2, most_px=65535)),
    "webp": Codec(
        "libwebp_anim",
        ".webp",
        "bgra",
        (("lossless", "0"), ("quality", "90")),
        animation=Animation(Fraction(1, 1000), least=11, most_px=16383),
    ),
}
WITH_ANY_SOUND = ".mkv"  # the container to use if a codec's own cannot hold the sound
SUFFIXES = tuple(dict.fromkeys((*(codec.suffix for codec in CODECS.values()), WITH_ANY_SOUND)))
