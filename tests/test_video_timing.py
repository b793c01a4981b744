"""When the frames of written videos are shown, and that players accept the files."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from av.video.reformatter import Colorspace
from command import run_in_process
from PIL import Image

from nst_exp.errors import InputError
from nst_exp.media.codecs import CODECS
from nst_exp.media.timing import ending_of
from nst_exp.media.video import Cut, probe, read_frames
from nst_exp.media.video_writer import check_writable, write_video


def shown_ms(path: Path) -> list[int]:
    """The duration in ms of each frame of an animation."""
    with Image.open(path) as image:
        durations = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            durations.append(round(image.info["duration"]))
    return durations


@pytest.mark.parametrize("codec", ["gif", "webp"])
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30), Fraction(60000, 1001), Fraction(120), Fraction(240)])
def test_animations_last_as_long_as_their_source(codec: str, rate: Fraction, tmp_path: Path) -> None:
    """Kind: rates that the clock of an animation cannot count, or that browsers show more slowly than stated."""
    frames = [(index, videos.scene(index % 16)) for index in range(24)]
    path = tmp_path / f"a.{codec}"
    write_video(path, frames, CODECS[codec], time_base=1 / rate, rate=rate)
    shown = shown_ms(path)
    assert abs(sum(shown) - 24000 / rate) <= (5 if codec == "gif" else 0.5)
    assert min(shown) >= (20 if codec == "gif" else 11)
    assert len(shown) == 24 or rate > 50


@pytest.mark.parametrize(("codec", "tolerance"), [("gif", 5), ("webp", 0)])
@pytest.mark.parametrize("end", [1262, 1333, 5000])
def test_uneven_animations_keep_each_moment(codec: str, tolerance: int, end: int, tmp_path: Path) -> None:
    """Each frame begins within half a tick of its time, however many there are; the last one keeps its duration."""
    stamps, path = [7, 41, 74, 107, 207, 240, 1240], tmp_path / f"a.{codec}"
    frames = [(stamp, videos.scene(index)) for index, stamp in enumerate(stamps)]
    write_video(path, frames, CODECS[codec], time_base=Fraction(1, 1000), rate=Fraction(25), end=end)
    begins = np.cumsum([0, *shown_ms(path)])
    assert np.abs(begins - (np.array([*stamps, end]) - 7)).max() <= tolerance


@pytest.mark.parametrize("codec", ["gif", "webp"])
def test_what_stands_still_is_shown_all_the_same(codec: str, tmp_path: Path) -> None:
    """Kind: pictures that do not differ, differ only in a corner, or are shown for longer than a GIF can count."""
    still, path = videos.scene(0), tmp_path / f"a.{codec}"
    corner = still.copy()
    corner[-1, -1] = 255 - corner[-1, -1]
    frames = list(enumerate([still, still, corner, corner, videos.scene(5), still, still]))
    write_video(path, frames, CODECS[codec], time_base=Fraction(200), rate=Fraction(1, 200), end=12)
    shown, pictures = [], []
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            pictures.append(np.asarray(image.convert("RGB")))  # decodes the frame and its duration
            shown.append(image.info["duration"] / 200_000)
    ends = np.cumsum(shown)
    assert ends[-1] == pytest.approx(12)
    for moment, expected in frames:
        found = pictures[int(np.searchsorted(ends, moment + 0.5))]
        assert np.abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize(("codec", "most"), [("gif", 0.03), ("webp", 0.2)])
def test_animations_are_written_as_their_frames_come(codec: str, most: float, tmp_path: Path) -> None:
    """Kind: an animation is held in memory as a whole, instead of only the encoded frames."""
    size, count, alive, held = (480, 320), 40, 0, 0

    class Levels(np.ndarray):
        """Counts the pictures that are in memory."""

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.base is None

    def frames() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal alive, held
        for index in range(count):
            levels = Levels((size[1], size[0], 3), np.uint8)
            levels[:] = videos.scene(index, *size)
            alive += 1
            held = max(held, alive)
            yield index, levels

    write_video(tmp_path / "a", frames(), CODECS[codec], time_base=Fraction(1, 25), rate=Fraction(25))
    assert held <= 5
    assert (tmp_path / "a").stat().st_size < most * count * 3 * size[0] * size[1]


@pytest.mark.parametrize("codec", ["h264", "vp9", "ffv1", "gif", "webp"])
@pytest.mark.parametrize("size", [(640, 32), (32, 480), (640, 480)])
def test_no_size_is_taken_for_another(codec: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Kind: pictures that share a side with the encoder's preset size, 640x480 px, are encoded at that size."""
    path, levels = tmp_path / f"a{CODECS[codec].suffix}", videos.scene(0, *size)
    write_video(path, [(0, levels), (1, levels)], CODECS[codec], time_base=Fraction(1, 25), rate=Fraction(25))
    video = probe(path, "content")
    assert video.size == size
    for frame in read_frames(video, Cut(), on_corrupt="error", name="content"):
        assert np.abs(frame.levels.astype(int) - levels).mean() < (1 if codec == "ffv1" else 4)
    if codec in ("h264", "vp9"):
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.colorspace == Colorspace.ITU709


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_very_short_animations_are_still_shown(frames: int, tmp_path: Path) -> None:
    pictures = [(index, videos.scene(index)) for index in range(frames)]
    write_video(tmp_path / "a.webp", pictures, CODECS["webp"], time_base=Fraction(1, 500), rate=Fraction(500))
    assert len(probe_or_one(tmp_path / "a.webp")) == 1


def probe_or_one(path: Path) -> list[Image.Image]:
    with Image.open(path) as image:
        return [image.copy() for _ in range(getattr(image, "n_frames", 1))]


@pytest.mark.parametrize(("name", "start"), [("a.ts", 0), ("a.mkv", 4), ("a.mp4", 4)])
def test_a_video_begins_at_0_and_keeps_its_spacing(name: str, start: int, tmp_path: Path) -> None:
    """Kind: a source or a part of it whose first frame is not at 0 changes the differences of time stamps."""
    rate = Fraction(25)
    stamps = [50_000 * 25 + step for step in (0, 1, 2, 5, 6, 7, 9, 10)]
    source = videos.write(tmp_path / name, 8, stamps=stamps, rate=rate)
    video = probe(source, "content")
    frames = [(frame.pts, frame.levels) for frame in read_frames(video, Cut(start), on_corrupt="error", name="content")]
    ending = ending_of(video, frames[-1][0], 1)
    assert ending.of_source
    for codec in ("h264", "vp9", "ffv1"):
        path = tmp_path / f"out{CODECS[codec].suffix}"
        write_video(path, frames, CODECS[codec], time_base=video.time_base, rate=rate, end=ending.pts)
        expected = [float(Fraction(stamp - stamps[start], 25)) for stamp in stamps[start:]]
        assert [float(stamp) for stamp in videos.stamps_of(path)] == pytest.approx(expected, abs=0.001)
        with av.open(str(path)) as container:
            assert container.duration is not None
            assert container.duration / 1e6 == pytest.approx(expected[-1] + 0.04, abs=0.01)


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_mp4_is_as_players_want_it(codec: str, tmp_path: Path) -> None:
    """Kind: files that FFmpeg plays, but that other players refuse, or play only after they are loaded completely."""
    frames = [(index, videos.scene(index, 64, 64)) for index in range(3)]
    path = tmp_path / "a.mp4"
    write_video(path, frames, CODECS[codec], time_base=Fraction(1, 25), rate=Fraction(25))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        assert (
            container.streams.video[0].codec_context.codec_tag == {"h264": "avc1", "h265": "hvc1", "av1": "av01"}[codec]
        )


def test_what_an_encoder_does_not_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: a codec that is missing, or that cannot hold pictures of this size, is noticed only after the painting."""
    for codec, size in (("webp", (16384, 64)), ("gif", (64, 70000)), ("h264", (40000, 64)), ("vp9", (70000, 64))):
        with pytest.raises(InputError, match=f"video.codec={codec}: .*{size[0]}x{size[1]} px"):
            check_writable(codec, size)
    monkeypatch.setitem(CODECS, "h264", CODECS["h264"].__class__("libnothing", ".mp4", "yuv420p"))
    source = videos.write(tmp_path / "a.mp4", 2)
    outcome = run_in_process(f"content={source}", folder=tmp_path)
    assert outcome.code == 1
    assert "video.codec=h264: this FFmpeg has no encoder libnothing" in outcome.stderr
