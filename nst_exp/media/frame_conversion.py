"""Conversion of decoded frames to upright sRGB images.

This covers interlacing, colour, transparency, pixel shape and orientation. FFmpeg does the work: its filter `bwdif`
deinterlaces, and its scaler converts matrices, ranges, primaries and transfer functions. Each frame is converted
according to its own description, so a video whose description changes midway is read correctly.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from PIL import Image as PillowImage

Levels = npt.NDArray[np.uint8]  # (H, W, 3), sRGB

_HD = 720  # px: video that states no matrix is BT.709 from this height on, else BT.601 (ITU practice)
_MAX_PIXEL_ASPECT = 16  # a pixel whose sides have a larger ratio is a mistake in the file

# Matrices, transfer functions and primaries have the numbers of ITU-T H.273, which FFmpeg uses, too.
_BT709, _UNSPECIFIED, _BT601, _BT2020 = 1, 2, 5, 9
_MATRICES = frozenset((_BT709, 4, _BT601, 6, 7, _BT2020))  # those that FFmpeg's scaler converts
_OTHER_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "derived from primaries",
    13: "derived from primaries with constant luminance",
    14: "ICtCp",
    15: "IPT-C2 (Dolby Vision without a compatible base)",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
# These transfer functions need a conversion. All others are close to that of sRGB, and players show them unconverted.
_TRANSFERS = {8: "linear light", 9: "logarithmic", 10: "logarithmic", 16: "PQ", 18: "HLG"}
_PQ, _HLG = 16, 18
_HIGH_RANGE = frozenset((_PQ, _HLG))
_REFERENCE_WHITE, _KNEE = 203.0, 150.0  # cd/m2; see `_tone_curve`
_PRIMARIES = {
    4: "BT.470M",
    5: "BT.601 (625 lines)",
    6: "BT.601 (525 lines)",
    7: "SMPTE 240M",
    8: "film",
    _BT2020: "BT.2020",
    10: "XYZ",
    11: "DCI-P3",
    12: "Display P3",
    22: "EBU 3213",
}
_TOP_FIRST, _BOTTOM_FIRST = " (top field first)", " (bottom field first)"
# in order of display, by FFmpeg's numbers
_FIELD_ORDERS = {2: _TOP_FIRST, 3: _BOTTOM_FIRST, 4: _BOTTOM_FIRST, 5: _TOP_FIRST}

_this_thread = threading.local()


class UnsupportedColoursError(ValueError):
    """Raised if the colours of a frame are encoded in a way that cannot be converted."""


def levels_of(frame: av.VideoFrame, pixel_aspect: Fraction | None = None) -> Levels:
    """Convert a frame to an upright sRGB image with square pixels.

    Transparent parts are composited over white.

    Args:
        frame: A decoded frame.
        pixel_aspect: Width of a pixel divided by its height. None and 0 mean unknown, and are treated as square.

    Returns:
        Levels 0 to 255, uint8 (H, W, 3).

    Raises:
        UnsupportedColoursError: If the frame's colours are encoded in a way that FFmpeg's scaler does not convert.
    """
    levels = _over_white(frame) if _has_alpha(frame) else _levels(_converted(frame, "rgb24"))
    levels = resize(levels, square_size(frame.width, frame.height, pixel_aspect))
    return Orientation.of(frame).applied(levels)


def shown_size(frame: av.VideoFrame, pixel_aspect: Fraction | None = None) -> tuple[int, int]:
    """Return the (width, height), in px, of what `levels_of` returns for the same arguments."""
    return Orientation.of(frame).size(square_size(frame.width, frame.height, pixel_aspect))


def resize(levels: Levels, size: tuple[int, int]) -> Levels:
    """Resize an image by Lanczos resampling, like the images that are read from files.

    Args:
        levels: uint8 (H, W, 3).
        size: The new (width, height), in px. If it is the present one, `levels` is returned unchanged.
    """
    if (levels.shape[1], levels.shape[0]) == size:
        return levels
    image = PillowImage.fromarray(levels)
    return np.asarray(image.resize(size, PillowImage.Resampling.LANCZOS, reducing_gap=3))


def treatment_of(
    frames: Sequence[av.VideoFrame], pixel_aspect: Fraction | None, field_order: int = 0
) -> tuple[str, ...]:
    """Describe what is unusual about a video and how it is converted.

    Args:
        frames: The first frames of the video, at least one. Colour, pixel shape and orientation are taken from the
            first one; the video counts as interlaced if any of them is.
        pixel_aspect: Width of a pixel divided by its height, as in `levels_of`.
        field_order: FFmpeg's number for the field order that the stream states; 0 if unknown.

    Returns:
        One phrase for each peculiarity; empty for an ordinary video.

    Raises:
        UnsupportedColoursError: If the colours cannot be converted.
    """
    first, words = frames[0], []
    if any(frame.interlaced_frame for frame in frames):
        words.append(f"interlaced{_FIELD_ORDERS.get(field_order, '')}: deinterlaced")
    orientation = Orientation.of(first)
    if square_size(first.width, first.height, pixel_aspect) != (first.width, first.height):
        assert pixel_aspect is not None
        width, height = shown_size(first, pixel_aspect)
        words.append(f"pixels {pixel_aspect.numerator}:{pixel_aspect.denominator}: shown at {width}x{height}")
    if str(orientation):
        words.append(f"{orientation}: set upright")
    words += _colour_words(first)
    if _is_transparent(first):
        words.append("transparent: laid over white")
    return tuple(words)


# --- interlacing -----------------------------------------------------------------------------------------------


def deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Deinterlace those frames that are interlaced, so that all their lines show the same moment.

    The filter is set up at the first interlaced frame, so that progressive videos never pass through it. It is set up
    anew where the size or the pixel format changes.
    """
    graph: Graph | None = None
    layout = None
    for frame in frames:
        if graph is not None and layout != _layout(frame):
            yield from _filtered(graph, None)
            graph = None
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None:
            graph, layout = _deinterlacer(frame), _layout(frame)
        yield from _filtered(graph, frame)
    if graph is not None:
        yield from _filtered(graph, None)


def _layout(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    bwdif = graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _filtered(graph: Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Push a frame into the filter, or None at the end, and yield all frames that are ready."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


# --- colour ----------------------------------------------------------------------------------------------------


def _converted(frame: av.VideoFrame, format: str) -> av.VideoFrame:
    """Convert a frame to sRGB in one of FFmpeg's RGB formats.

    As players do, this treats a video of ordinary range as sRGB once its primaries are those of sRGB.
    """
    _complete_description(frame)
    target: dict[str, Any] = {}
    if frame.color_trc in _TRANSFERS:
        frame = _tone_mapped(frame) if frame.color_trc in _HIGH_RANGE else frame
        target = {"dst_color_trc": ColorTrc.IEC61966_2_1, "dst_color_primaries": ColorPrimaries.BT709}
    elif frame.color_primaries in _PRIMARIES:
        same = {"dst_color_trc": frame.color_trc} if frame.color_trc in set(ColorTrc) else {}
        target = {"dst_color_primaries": ColorPrimaries.BT709, **same}
    return _reformatter().reformat(frame, format=format, **target)


def _tone_mapped(frame: av.VideoFrame) -> av.VideoFrame:
    """Convert a high-range frame to RGB, with all light brought below the white at which FFmpeg's scaler clips."""
    format = "rgba64le" if _has_alpha(frame) else "rgb48le"
    signal = np.array(frame.reformat(format=format).to_ndarray(), np.uint16)
    signal[..., :3] = _tone_curve(frame.color_trc)[signal[..., :3]]
    mapped_frame = av.VideoFrame.from_ndarray(signal, format)
    mapped_frame.color_trc, mapped_frame.color_primaries = frame.color_trc, frame.color_primaries
    return mapped_frame


@functools.lru_cache(maxsize=2)
def _tone_curve(transfer: int) -> npt.NDArray[np.uint16]:
    """Return a lookup table that tone-maps 16-bit signals encoded by PQ or HLG.

    Light up to `_KNEE` stays as it is. Brighter light, up to the brightest that the encoding can express, follows
    Reinhard's curve with a white point and ends at the reference white.

    References:
        ITU-R BT.2100-2: EOTFs; that of HLG for greys on a display of 1000 cd/m2.
        ITU-R BT.2408: reference white.
        Reinhard et al. (2002), Photographic tone reproduction for digital images, equation 4.
    """
    signal = np.linspace(0, 1, 65536)
    light = _pq_light(signal) if transfer == _PQ else _hlg_light(signal)
    room = _REFERENCE_WHITE - _KNEE
    over, brightest = np.maximum(light - _KNEE, 0) / room, (light[-1] - _KNEE) / room
    mapped = np.minimum(light, _KNEE) + room * over * (1 + over / brightest**2) / (1 + over)
    return np.rint(65535 * np.interp(mapped, light, signal)).astype(np.uint16)


def _pq_light(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convert PQ signals in [0, 1] to light in cd/m2 (BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg_light(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convert HLG signals of greys in [0, 1] to light in cd/m2 (BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return 1000 * scene**1.2


def _levels(frame: av.VideoFrame) -> Levels:
    return np.asarray(frame.to_ndarray(), np.uint8)


def _complete_description(frame: av.VideoFrame) -> None:
    """Fill in the usual values where a frame does not describe its colours.

    Raises:
        UnsupportedColoursError: If FFmpeg's scaler does not know the frame's matrix.
    """
    if frame.color_trc in _HIGH_RANGE and frame.color_primaries == _UNSPECIFIED:
        frame.color_primaries = _BT2020
    if _is_rgb(frame) or frame.colorspace in _MATRICES:
        return
    if frame.colorspace in _OTHER_MATRICES:
        matrix = _OTHER_MATRICES[frame.colorspace]
        raise UnsupportedColoursError(f"its colours' matrix, {matrix}, is not supported: encode it with BT.709's")
    wide = frame.color_primaries == _BT2020
    frame.colorspace = _BT2020 if wide else _BT709 if frame.height >= _HD else _BT601


def _colour_words(frame: av.VideoFrame) -> list[str]:
    _complete_description(frame)
    primaries, transfer = _PRIMARIES.get(frame.color_primaries), _TRANSFERS.get(frame.color_trc)
    if transfer is None:
        return [f"{primaries} primaries: converted to sRGB"] if primaries else []
    done = "tone-mapped" if frame.color_trc in _HIGH_RANGE else "converted"
    return [f"{' '.join(filter(None, (transfer, primaries)))}: {done} to sRGB"]


def _is_rgb(frame: av.VideoFrame) -> bool:
    """Return whether the pixel format holds RGB, or indices into a palette of RGB."""
    return frame.format.is_rgb or frame.format.has_palette or frame.format.is_bayer


def _reformatter() -> VideoReformatter:
    """Return this thread's reformatter, kept because FFmpeg takes seconds to prepare a conversion of primaries."""
    if not hasattr(_this_thread, "reformatter"):
        _this_thread.reformatter = VideoReformatter()
    reformatter: VideoReformatter = _this_thread.reformatter
    return reformatter


# --- transparency ----------------------------------------------------------------------------------------------


def _has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def _over_white(frame: av.VideoFrame) -> Levels:
    image = _with_alpha(frame)
    return np.asarray(PillowImage.alpha_composite(PillowImage.new("RGBA", image.size, "white"), image).convert("RGB"))


def _with_alpha(frame: av.VideoFrame) -> PillowImage.Image:
    return PillowImage.fromarray(_levels(_converted(frame, "rgba")))


def _is_transparent(frame: av.VideoFrame) -> bool:
    return _has_alpha(frame) and _with_alpha(frame).getchannel("A").getextrema() != (255, 255)


# --- geometry --------------------------------------------------------------------------------------------------


def square_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Return the (width, height), in px, of an image after its pixels are made square.

    One side is stretched, so that neither side gets shorter.

    Args:
        width: The width as stored, in px.
        height: The height as stored, in px.
        pixel_aspect: Width of a pixel divided by its height, as in `levels_of`. A ratio above 16 or below 1/16 is
            ignored as a mistake in the file.
    """
    if not pixel_aspect or not 1 / _MAX_PIXEL_ASPECT <= pixel_aspect <= _MAX_PIXEL_ASPECT:
        return width, height
    if pixel_aspect > 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


@dataclass(frozen=True)
class Orientation:
    """How to turn a stored image upright: transpose it first, then reverse its rows and columns.

    Attributes:
        transposed: Whether rows and columns are swapped.
        reverse_rows: Whether the image is then flipped top to bottom.
        reverse_columns: Whether the image is then flipped left to right.
    """

    transposed: bool = False
    reverse_rows: bool = False
    reverse_columns: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """Return the orientation that a frame's display matrix states, rounded to the nearest right angle.

        A frame without a display matrix is upright. The matrix maps stored coordinates (x to the right, y down) to
        displayed ones: x' = a x + c y, y' = b x + d y. It is stored as nine integers, a, b, u, c, d, v, x, y, w
        (libavutil/display.h).
        """
        side_data: Any = frame.side_data
        matrices = [data for data in side_data if data.type is SideDataType.DISPLAYMATRIX]
        if not matrices:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(matrices[0])[:20], np.int32).tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(transposed=True, reverse_rows=b < 0, reverse_columns=c < 0)
        return cls(reverse_rows=d < 0, reverse_columns=a < 0)

    def applied(self, levels: Levels) -> Levels:
        """Return the image `levels`, uint8 (H, W, 3), turned upright."""
        if self.transposed:
            levels = levels.transpose(1, 0, 2)
        rows, columns = -1 if self.reverse_rows else 1, -1 if self.reverse_columns else 1
        return np.ascontiguousarray(levels[::rows, ::columns])

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """Return the upright (width, height) of an image that is stored as (width, height)."""
        return (stored[1], stored[0]) if self.transposed else stored

    def __str__(self) -> str:
        """Describe how the image is stored; empty if it is stored upright."""
        mirrored = self.transposed ^ self.reverse_rows ^ self.reverse_columns
        if self.transposed:
            return "stored turned by 90 degrees" + (" and mirrored" if mirrored else "")
        if self.reverse_rows:
            return "stored upside down" if mirrored else "stored turned by 180 degrees"
        return "stored mirrored" if self.reverse_columns else ""
