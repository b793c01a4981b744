"""Videos are read and written: time stamps, sound, colours, damage."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import videos
from PIL import Image

from nst_exp.errors import InputError
from nst_exp.media.codecs import CODECS
from nst_exp.media.kind import kind_of
from nst_exp.media.sizes import fitted_size
from nst_exp.media.video import Cut, Frame, VideoFile, probe, read_frames
from nst_exp.media.video_writer import write_video

VARIABLE = [0, 1001, 2002, 5005, 6006, 10010]


def opened(path: Path) -> VideoFile:
    return probe(path, "content")


def read(path: Path, cut: Cut | None = None, on_corrupt: str = "error") -> list[Frame]:
    return list(read_frames(opened(path), cut or Cut(), on_corrupt=on_corrupt, name="content"))


def copied(source: Path, target: Path, codec: str, cut: Cut | None = None, *, sound: bool = False) -> Path:
    video = opened(source)
    frames = ((frame.pts, frame.levels) for frame in read(source, cut))
    sound_of = video if sound else None
    write_video(target, frames, CODECS[codec], time_base=video.time_base, rate=video.rate, sound_of=sound_of)
    return target


def test_what_a_video_says_of_itself(tmp_path: Path) -> None:
    video = opened(videos.write(tmp_path / "a.mp4", sound="aac"))
    assert (video.size, video.rate, video.frames, video.has_sound) == ((48, 32), videos.RATE, 6, True)


@pytest.mark.parametrize("codec", [name for name in CODECS if name not in ("gif", "webp")])
def test_exact_rates_and_variable_stamps_survive(codec: str, tmp_path: Path) -> None:
    source = videos.write(tmp_path / "a.mp4", stamps=VARIABLE, size=(64, 64))
    target = copied(source, tmp_path / f"b{CODECS[codec].suffix}", codec)
    expected = [Fraction(stamp, 30000) for stamp in VARIABLE]
    exact = CODECS[codec].suffix == ".mp4"  # Matroska and WebM count only milliseconds
    tolerance = 0 if exact else Fraction(1, 1000)
    assert all(abs(one - other) <= tolerance for one, other in zip(videos.stamps_of(target), expected, strict=True))
    constant = copied(videos.write(tmp_path / "c.mp4", size=(64, 64)), tmp_path / f"d{CODECS[codec].suffix}", codec)
    assert opened(constant).rate == videos.RATE


@pytest.mark.parametrize("codec", CODECS)
def test_colours_survive(codec: str, tmp_path: Path) -> None:
    levels = [videos.scene(index, 64, 64) for index in range(3)]
    path = tmp_path / f"a{CODECS[codec].suffix}"
    stamps = [0, 40, 80]
    frames = zip(stamps, levels, strict=True)
    write_video(path, frames, CODECS[codec], time_base=Fraction(1, 1000), rate=Fraction(25))
    for frame, stamp, expected in zip(read(path), stamps, levels, strict=True):
        difference = np.abs(frame.levels.astype(int) - expected)
        assert difference[16:48, 32:].mean() < (0.01 if codec == "ffv1" else 6)  # gif: 256 colours
        assert frame.pts * opened(path).time_base == Fraction(stamp, 1000)


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_frames_give_the_same_bytes(codec: str, tmp_path: Path) -> None:
    frames = [(index, videos.scene(index, 226, 170)) for index in range(5)]
    written = set()
    for number in range(6):
        path = tmp_path / f"{number}{CODECS[codec].suffix}"
        write_video(path, frames, CODECS[codec], time_base=Fraction(1, 10), rate=Fraction(10))
        written.add(path.read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(rotation: int, tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mp4", frames=2, rotation=rotation)
    assert opened(path).size == ((48, 32) if rotation == 180 else (32, 48))
    expected = np.rot90(videos.scene(0), rotation // 90)
    assert np.abs(read(path)[0].levels.astype(int) - expected).mean() < 6


def test_sound_is_copied_bit_for_bit(tmp_path: Path) -> None:
    source = videos.write(tmp_path / "a.mp4", frames=20, sound="aac")
    target = copied(source, tmp_path / "b.mp4", "h264", sound=True)
    packets, copies = videos.sound_of(source), videos.sound_of(target)
    assert copies
    assert copies == packets[: len(copies)]
    assert videos.stamps_of(target)[-1] < copies[-1][0] + Fraction(1, 20)


def test_sound_of_a_part_stays_in_sync(tmp_path: Path) -> None:
    source = videos.write(tmp_path / "a.mp4", frames=30, sound="aac")
    target = copied(source, tmp_path / "b.mp4", "h264", Cut(start=12, end=24), sound=True)
    offset = videos.stamps_of(source)[12] - videos.stamps_of(target)[0]
    packets = {data: time for time, data in videos.sound_of(source)}
    copies = videos.sound_of(target)
    assert 12 <= len(copies) < len(packets)
    for time, data in copies:
        assert abs(packets[data] - offset - time) < Fraction(1, 1000)


def test_sound_that_mp4_cannot_hold_goes_into_matroska(tmp_path: Path) -> None:
    from nst_exp.media.video_writer import suffix_with_sound

    source = videos.write(tmp_path / "a.avi", frames=4, codec="mjpeg", pixels="yuvj420p", sound="pcm_s16le")
    assert suffix_with_sound(CODECS["h264"], opened(source)) == ".mkv"
    target = copied(source, tmp_path / "b.mkv", "h264", sound=True)
    copy, original = (b"".join(data for _, data in videos.sound_of(path)) for path in (target, source))
    assert copy == original


def test_parts(tmp_path: Path) -> None:
    path = videos.write(tmp_path / "a.mp4", frames=10)
    assert [frame.index for frame in read(path, Cut(2, 9, 3))] == [2, 5, 8]
    assert Cut(2, 9, 3).count(10) == 3
    assert Cut(2, None, 3).count(None) is None
    assert Cut(12).count(10) == 0


def test_animations(tmp_path: Path) -> None:
    pictures = [Image.fromarray(videos.scene(index)) for index in range(3)]
    for name in ("a.gif", "a.webp"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=[50, 70, 90], loop=0)
        assert kind_of(tmp_path / name) == "video"
        assert [frame.pts for frame in read(tmp_path / name)] == [0, 50, 120]
    still = tmp_path / "still.gif"
    pictures[0].save(still)
    assert kind_of(still) == "image"


def test_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("neither\n" * 100)
    (tmp_path / "broken.mp4").write_bytes(b"nothing of the sort")
    video = videos.write(tmp_path / "video.mkv")
    video.rename(tmp_path / "no_suffix")
    Image.fromarray(videos.scene(0)).save(tmp_path / "a.png")
    kinds = {name: kind_of(tmp_path / name) for name in ("a.txt", "broken.mp4", "no_suffix", "a.png", "absent.png")}
    assert kinds == {
        "a.txt": "image",
        "broken.mp4": "video",
        "no_suffix": "video",
        "a.png": "image",
        "absent.png": "image",
    }


def test_damage(tmp_path: Path) -> None:
    whole = videos.write(tmp_path / "a.avi", frames=12, codec="mjpeg", pixels="yuvj420p")
    data = bytearray(whole.read_bytes())
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"content='.*cut.avi'.*(cannot be decoded|cut short)"):
        read(cut)
    assert 0 < len(read(cut, on_corrupt="skip")) < 12
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    data[starts[5] : starts[6] - 8] = bytes(starts[6] - 8 - starts[5])
    torn = tmp_path / "torn.avi"
    torn.write_bytes(data)
    with pytest.raises(InputError, match="frame 5 cannot be decoded"):
        read(torn)
    assert len(read(torn, on_corrupt="skip")) == 11


@pytest.mark.parametrize("content", [b"", b"nothing of the sort"])
def test_no_video(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"content='.*a.mp4' cannot be read: "):
        opened(tmp_path / "a.mp4")


def test_sound_without_a_picture(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        audio = output.add_stream("aac", rate=48000, layout="mono")
        output.mux(videos._sine(audio, 0.2))
    with pytest.raises(InputError, match="has no video in it"):
        opened(tmp_path / "a.mp4")


def test_failing_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Iterator[tuple[int, np.ndarray]]:
        yield 0, videos.scene(0)
        raise InputError("the source ends")

    with pytest.raises(InputError, match="the source ends"):
        write_video(tmp_path / "a.mp4", frames(), CODECS["h264"], time_base=Fraction(1, 25), rate=Fraction(25))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stored", "size", "aspect", "even", "fitted"),
    [
        ((641, 479), 320, "keep", False, (320, 239)),
        ((641, 479), 320, "keep", True, (320, 240)),
        ((640, 480), 225, "stretch", True, (224, 224)),
        ((100, 2000), 101, "keep", True, (6, 100)),
    ],
)
def test_sizes(stored: tuple[int, int], size: int, aspect: str, even: bool, fitted: tuple[int, int]) -> None:
    assert fitted_size(stored, size, aspect, even=even) == fitted
