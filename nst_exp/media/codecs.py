"""The codecs that videos and animations are written with. This module imports no library of media."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Animation:
    """What an animation's format can hold.

    Attributes:
        tick: s, how finely the format counts time.
        least: ticks, the shortest duration that browsers do not replace by 100 ms.
        most_px: px, the largest length of either side.
    """

    tick: Fraction
    least: int
    most_px: int


@dataclass(frozen=True)
class Codec:
    """How a video is written.

    Attributes:
        encoder: FFmpeg's name of the encoder; empty where Pillow writes the file.
        suffix: of the file, which says its container.
        pixels: FFmpeg's pixel format.
        options: of the encoder.
        even: whether both sides must be even.
        least: px, the shortest length of either side.
        tag: how the container names the codec, where its usual name is not the one that all players know.
        animation: the format's limits if it is an animation, which has no sound; None for a video.
    """

    encoder: str
    suffix: str
    pixels: str
    options: tuple[tuple[str, str], ...] = ()
    even: bool = False
    least: int = 2
    tag: str = ""
    animation: Animation | None = None


# CRF: of equal quality to the eye in each codec's own scale, visually close to lossless for painted texture
CODECS = {
    "h264": Codec(  # x264's macroblock trees differ from one time to the next on CPUs with AVX-512
        "libx264", ".mp4", "yuv420p", (("crf", "16"), ("preset", "medium"), ("x264-params", "mbtree=0")), even=True
    ),
    "h265": Codec(  # x265 writes where it should not below its block size of 64 px
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
WITH_ANY_SOUND = ".mkv"  # the container where a codec's own cannot hold the sound
SUFFIXES = tuple(dict.fromkeys((*(codec.suffix for codec in CODECS.values()), WITH_ANY_SOUND)))
