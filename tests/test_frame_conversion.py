"""Decoded frames are converted according to their tags: fields, pixel shape, orientation, colours, transparency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
import pytest
import videos
from av.filter import Graph
from command import OUT, run_in_process
from PIL import Image

from nst_exp.errors import InputError
from nst_exp.media.camera import Camera, find_camera
from nst_exp.media.frame_conversion import levels_of
from nst_exp.media.kind import kind_of
from nst_exp.media.video import Cut, VideoFile, probe, read_frames

WIDTH, HEIGHT = 64, 48
COLOURS = ((200, 40, 60), (30, 150, 80), (50, 60, 190), (128, 128, 128), (255, 255, 255), (10, 10, 10))
BT2020_OF_SRGB = np.array(  # ITU-R BT.2087, the inverse of its matrix from BT.2020 to BT.709
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)


def chart() -> np.ndarray:
    """Patches of flat colours."""
    return np.array(COLOURS, np.uint8).reshape(2, 3, 3).repeat(HEIGHT // 2, 0).repeat(WIDTH // 3 + 1, 1)[:, :WIDTH]


def encode(
    path: Path,
    frames: Sequence[av.VideoFrame],
    codec: str = "ffv1",
    *,
    set_up: Callable[[Any], None] = lambda stream: None,
    options: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a video of `frames` at 25 frames/s; their tags of colour become the file's."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=Fraction(25), options=dict(options))
        context, first = stream.codec_context, frames[0]
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.format.name
        context.colorspace, context.color_range = first.colorspace, first.color_range
        context.color_trc, context.color_primaries = first.color_trc, first.color_primaries
        context.time_base = Fraction(1, 25)
        set_up(stream)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def frame_of(levels: np.ndarray, format: str = "yuv444p", **tags: int) -> av.VideoFrame:
    """`levels` in one of FFmpeg's formats, converted by the matrix and range among `tags`."""
    given = {"rgb24": 3, "rgba": 4}
    source = next(name for name, channels in given.items() if channels == levels.shape[2])
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(levels), source)
    matrix, range_ = tags.get("colorspace"), tags.get("color_range")
    frame = frame.reformat(format=format, dst_colorspace=matrix or None, dst_color_range=range_)
    for name, value in tags.items():
        setattr(frame, name, value)
    return frame


def opened(path: Path) -> VideoFile:
    return probe(path, "content")


def read(path: Path) -> list[np.ndarray]:
    frames = read_frames(opened(path), Cut(), on_corrupt="error", name="content")
    return [frame.levels for frame in frames]


def far(one: np.ndarray, other: np.ndarray) -> float:
    """The mean absolute difference, in levels."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


# --- orientation -----------------------------------------------------------------------------------------------


def turned(stream: Any, *, degrees: int, mirrored: bool) -> None:
    stream.set_display_rotation(degrees, hflip=mirrored)


def test_all_orientations(tmp_path: Path) -> None:
    """A display matrix may turn a video, mirror it, or both. All eight orientations are undone and named in the log."""
    stored, told = videos.scene(3, WIDTH, HEIGHT), set()
    for degrees in (0, 90, 180, 270):
        for mirrored in (False, True):
            path = encode(
                tmp_path / f"{degrees}{mirrored}.mp4",
                [frame_of(stored, "yuv444p")],
                "libx264",
                set_up=partial(turned, degrees=degrees, mirrored=mirrored),
                options={"crf": "4"},
            )
            shown = np.rot90(stored, degrees // 90)
            expected = shown[:, ::-1] if mirrored else shown
            assert far(read(path)[0], expected) < 3, (degrees, mirrored)
            video = opened(path)
            assert video.size == (expected.shape[1], expected.shape[0])
            told.add(video.treatment)
            assert (degrees, mirrored) == (0, False) or "set upright" in video.treatment[0]
    assert len(told) == 6  # the two quarter turns have the same words, and so do their mirror images


# --- the shape of pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(64, 45), Fraction(1, 2)])
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square(aspect: Fraction, turned: bool, tmp_path: Path) -> None:
    """A circle stays a circle if pixels are shown wider or taller than they are stored, also in a turned video."""

    def set_up(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = aspect
        stream.set_display_rotation(90 if turned else 0)

    rows, columns = np.mgrid[:96, : round(96 / aspect)]
    disc = ((rows - 48) ** 2 + ((columns + 0.5) * float(aspect) - 48) ** 2 < 30**2) * 200
    stored = frame_of(np.repeat(disc[..., None], 3, 2).astype(np.uint8))
    path = encode(tmp_path / "a.mp4", [stored], "libx264", set_up=set_up, options={"crf": "4"})
    video, levels = opened(path), read(path)[0]
    assert video.size == (levels.shape[1], levels.shape[0])
    inside = levels[..., 1] > 100
    height, width = (int(inside.any(axis).sum()) for axis in (1, 0))
    assert abs(height / width - 1) < 0.05
    assert video.treatment[0] == (
        f"pixels {aspect.numerator}:{aspect.denominator}: shown at {video.size[0]}x{video.size[1]}"
    )


def test_a_camera_with_pixels_that_are_not_square() -> None:
    device = find_camera("testsrc=size=64x48:rate=25,setsar=2", "lavfi")
    with Camera(device) as camera:
        assert camera.newest().levels.shape == (48, 128, 3)
    assert device.size == (128, 48)


def test_a_senseless_pixel_shape_is_ignored(tmp_path: Path) -> None:
    def set_up(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(1000)

    path = encode(tmp_path / "a.mp4", [frame_of(chart())], "libx264", set_up=set_up)
    assert opened(path).size == (WIDTH, HEIGHT)


# --- interlacing -----------------------------------------------------------------------------------------------


STEP = 4  # px from one field to the next


def interlaced(scan: str, frames: int = 6) -> list[av.VideoFrame]:
    """A moving square; each frame is woven from two moments, as an interlaced camera records it."""
    graph = Graph()
    source = graph.add_buffer(width=WIDTH, height=HEIGHT, format=av.VideoFormat("yuv422p"), time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("setfield", mode=scan), graph.add("buffersink")).configure()
    woven = []
    for index in range(frames):
        levels = videos.scene(2 * index, WIDTH, HEIGHT, STEP)
        later = slice(scan == "tff", None, 2)
        levels[later] = videos.scene(2 * index + 1, WIDTH, HEIGHT, STEP)[later]
        frame = frame_of(levels, "yuv422p")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        graph.vpush(frame)
        woven.append(graph.vpull())
    return woven


def combs(levels: np.ndarray) -> float:
    """The difference of neighbouring lines, relative to that of lines of the same field."""
    green = levels[..., 1].astype(float)
    return float(np.abs(green[1:-1] - (green[:-2] + green[2:]) / 2).mean())


FLAGS = {"flags": "+ildct+ilme"}
INTERLACED = {  # codec, file, and the options by which they keep fields
    "h264": ("libx264", "a.mp4", {"crf": "4", "x264-params": "{scan}=1"}),
    "mpeg2": ("mpeg2video", "a.mpg", {"b": "4M", **FLAGS}),
    "ffv1": ("ffv1", "a.mkv", FLAGS),
    "prores": ("prores_ks", "a.mov", FLAGS),
}


@pytest.mark.parametrize("scan", ["tff", "bff"])
@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_videos_lose_their_combs(name: str, scan: str, tmp_path: Path) -> None:
    """A frame whose odd and even lines are two moments becomes a frame of one moment, in any codec and field order."""
    codec, file, options = INTERLACED[name]
    woven = interlaced(scan)
    path = encode(
        tmp_path / file,
        [frame.reformat(format="yuv422p10le") if name == "prores" else frame for frame in woven],
        codec,
        options={key: value.format(scan=scan) for key, value in options.items()},
    )
    smooth, stored = combs(videos.scene(4, WIDTH, HEIGHT)), videos.levels_of(path)
    frames = read(path)
    assert len(frames) == len(woven)
    for levels, with_combs in zip(frames[1:-1], stored[1:-1], strict=True):
        assert combs(with_combs) > 2 * smooth
        assert combs(levels) - smooth < 0.3 * (combs(with_combs) - smooth)
    assert "deinterlaced" in opened(path).treatment[0]


def test_progressive_frames_of_a_mixed_video_stay_as_they_are(tmp_path: Path) -> None:
    """A video may mix progressive and interlaced frames: only the latter are deinterlaced, and no frame is lost."""
    plain = [frame_of(videos.scene(index, WIDTH, HEIGHT), "yuv422p") for index in range(4)]
    path = encode(tmp_path / "a.mkv", [*plain, *interlaced("tff"), *plain], "ffv1", options=FLAGS)
    frames, stored = read(path), videos.levels_of(path)
    assert len(frames) == len(stored)
    for index in (0, 1, 2, 3, -2, -1):
        assert far(frames[index], stored[index]) < 0.5
    assert combs(frames[6]) < combs(stored[6])


# --- matrices and ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("range_", [1, 2])
@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7, 9])
def test_the_matrix_and_range_that_a_video_says(matrix: int, range_: int, tmp_path: Path) -> None:
    """The matrix and the range that a video states are used, whatever its size, if FFmpeg can convert them."""
    levels = chart() if matrix != 6 else np.tile(chart(), (16, 1, 1))  # 768 lines, where BT.709 would be guessed
    path = encode(tmp_path / "a.mkv", [frame_of(levels, "yuv444p", colorspace=matrix, color_range=range_)])
    assert far(read(path)[0], levels) < 1.5
    assert opened(path).treatment == ()


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_a_matrix_that_is_not_supported_is_named(matrix: int, tmp_path: Path) -> None:
    frame = frame_of(chart(), "yuv444p")
    frame.colorspace = matrix
    path = encode(tmp_path / "a.mkv", [frame])
    with pytest.raises(InputError, match=r"content='.*a.mkv' cannot .*: its colours' matrix, .*, is not supported"):
        opened(path)


# --- primaries and high dynamic range --------------------------------------------------------------------------


def linear(levels: np.ndarray) -> np.ndarray:
    """sRGB's transfer function (IEC 61966-2-1)."""
    signal = levels / 255
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def pq(light: np.ndarray) -> np.ndarray:
    """The inverse EOTF of ITU-R BT.2100's PQ, for light in cd/m2."""
    power = (light / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light: np.ndarray) -> np.ndarray:
    """The inverse EOTF of ITU-R BT.2100's HLG on a display of 1000 cd/m2, for light in cd/m2."""
    shown = light / 1000
    luminance = (shown @ (0.2627, 0.6780, 0.0593))[..., None]
    scene = shown * np.maximum(luminance, 1e-9) ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


HDR = {"pq": (pq, 16), "hlg": (hlg, 18)}


@pytest.mark.parametrize("name", HDR)
def test_high_dynamic_range_is_tone_mapped(name: str, tmp_path: Path) -> None:
    """A picture in PQ or HLG and BT.2020, with white at 203 cd/m2 (BT.2408), is converted to the ordinary picture."""
    curve, transfer = HDR[name]
    signal = curve(203 * linear(chart()) @ BT2020_OF_SRGB.T)
    luma = signal @ (0.2627, 0.6780, 0.0593)
    blue, red = (signal[..., 2] - luma) / 1.8814, (signal[..., 0] - luma) / 1.4746
    coded = np.stack([16 + 219 * luma, 128 + 224 * blue, 128 + 224 * red], -1) * 256
    frame = av.VideoFrame.from_ndarray(np.rint(coded).astype(np.uint16), "yuv444p16le")
    frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, transfer, 9
    path = encode(tmp_path / "a.mkv", [frame] * 2)
    assert far(read(path)[1], chart()) < 8
    assert opened(path).treatment == (f"{name.upper()} BT.2020: tone-mapped to sRGB",)


@pytest.mark.parametrize("name", HDR)
def test_highlights_keep_their_detail(name: str) -> None:
    """Levels above white paper stay distinct from it and from each other, and nothing gets darker."""
    curve, transfer = HDR[name]
    light = np.array([50.0, 100, 150, 203, 300, 500, 1000]).reshape(1, 7, 1).repeat(2, 0).repeat(3, 2)
    frame = av.VideoFrame.from_ndarray(np.rint(65535 * curve(light)).astype(np.uint16), "rgb48le")
    frame.color_trc, frame.color_primaries, frame.color_range = transfer, 9, 2
    shown = levels_of(frame)[0, :, 1].astype(int)
    assert (np.diff(shown) >= 1).all()
    assert np.abs(shown[:3] - (137, 187, 223)).max() <= 2  # the levels in sRGB, with white at 203 cd/m2
    assert shown[3] >= 238 and shown[-1] >= 253


def test_other_primaries_are_converted(tmp_path: Path) -> None:
    """A video with other primaries than sRGB's is converted to sRGB's colours, and its greys stay as they are."""
    mixed = linear(chart()) @ BT2020_OF_SRGB.T
    coded = np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)
    frame = frame_of(np.rint(255 * coded).astype(np.uint8), "yuv444p", colorspace=9, color_range=1)
    frame.color_primaries, frame.color_trc = 9, 13
    path = encode(tmp_path / "a.mkv", [frame])
    assert far(read(path)[0], chart()) < 3
    assert opened(path).treatment == ("BT.2020 primaries: converted to sRGB",)


# --- transparency ----------------------------------------------------------------------------------------------

TRANSPARENT = {
    "vp9": ("libvpx-vp9", "a.webm", "yuva420p", {}),
    "vp8": ("libvpx", "a.webm", "yuva420p", {"auto-alt-ref": "0"}),
    "prores": ("prores_ks", "a.mov", "yuva444p10le", {}),
    "qtrle": ("qtrle", "a.mov", "argb", {}),
    "png": ("png", "a.mov", "rgba", {}),
    "ffv1": ("ffv1", "a.mkv", "bgra", {}),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_videos_lie_over_white(name: str, tmp_path: Path) -> None:
    """Transparent parts of a video become white, as with pictures, in any codec that has transparency."""
    codec, file, pixels, options = TRANSPARENT[name]
    levels = np.full((HEIGHT, WIDTH, 4), (200, 40, 60, 255), np.uint8)
    levels[:, 32:48, 3], levels[:, 48:, 3] = 128, 0
    path = encode(tmp_path / file, [frame_of(levels, pixels)] * 2, codec, options=options)
    for frame in read(path):
        assert far(frame[:, 2:30], levels[:, 2:30, :3]) < 8
        assert far(frame[:, 34:46], np.full((HEIGHT, 12, 3), (228, 148, 158))) < 12
        assert far(frame[:, 52:], np.full((HEIGHT, 12, 3), 255)) < 4
    assert "transparent: laid over white" in opened(path).treatment


@pytest.mark.parametrize("file", ["a.png", "a.webp", "a.gif", "a.avif"])
def test_transparent_animations_lie_over_white(file: str, tmp_path: Path) -> None:
    """The same holds for animations, which Pillow reads."""
    pictures = []
    for left in (8, 24):
        levels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        levels[:, left : left + 8] = (200, 40, 60, 255)
        pictures.append(Image.fromarray(levels))
    pictures[0].save(tmp_path / file, save_all=True, append_images=pictures[1:], duration=50, loop=0, disposal=2)
    assert kind_of(tmp_path / file) == "video"
    for frame, left in zip(read(tmp_path / file), (8, 24), strict=True):
        expected = np.full((HEIGHT, WIDTH, 3), 255)
        expected[:, left : left + 8] = (200, 40, 60)
        assert far(frame, expected) < 8


# --- the command -----------------------------------------------------------------------------------------------


def test_the_command_says_what_is_done_about_an_unusual_video(tmp_path: Path) -> None:
    """One log line at the start names the unusual properties and the conversion; the video is written accordingly."""

    def set_up(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(1, 2)
        stream.set_display_rotation(0, hflip=True)

    path = tmp_path / "a.mp4"
    encode(path, interlaced("tff", 3), "libx264", set_up=set_up, options={"x264-params": "tff=1"})
    quick = ("steps=1", "video.mode=independent", "video.write=[video]")
    outcome = run_in_process(f"content={path}", *quick, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    told = [line for line in (outcome.stdout + outcome.stderr).splitlines() if "content: " in line]
    assert len(told) == 1
    assert told[0].endswith(
        "content: 64x96, 25 frames/s; interlaced (top field first): deinterlaced; pixels 1:2: shown at 64x96; "
        "stored mirrored: set upright"
    )
    assert videos.levels_of(tmp_path / OUT / "pastiche.mp4")[0].shape == (32, 22, 3)
