"""Every frame of a whole file is read, however it is coded; a file that was cut is reported before the first frame."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos
from PIL import Image

from nst_exp.errors import InputError
from nst_exp.media.video import Cut, Frame, probe, read_frames

TICK = Fraction(1, 25)
SIZE = (48, 32)


def read(path: Path, cut: Cut | None = None, on_corrupt: str = "error") -> list[Frame]:
    return list(read_frames(probe(path, "content"), cut or Cut(), on_corrupt=on_corrupt, name="content"))


def added(output: Any, codec: str, pixels: str, options: dict[str, str] | None = None) -> Any:
    stream: Any = output.add_stream(codec, rate=Fraction(25), options=options or {})
    stream.width, stream.height, stream.pix_fmt = *SIZE, pixels
    return stream


def coded(stream: Any, frames: int) -> list[av.Packet[Any]]:
    packets = []
    for index in range(frames):
        frame = av.VideoFrame.from_ndarray(videos.scene(index, *SIZE), format="rgb24").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = index, TICK
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def packet(content: bytes, index: int, stream: Any) -> av.Packet[Any]:
    made = av.Packet(content) if content else av.Packet(0)
    made.pts = made.dts = index
    made.time_base, made.stream = TICK, stream
    return made


def test_an_empty_packet_shows_the_frame_before_it_again(tmp_path: Path) -> None:
    """A frame that equals the one before may be stored as an empty packet, also at the end. It counts as a frame."""
    path, empty = tmp_path / "a.nut", {2, 3, 7, 9}
    with av.open(str(path), "w") as output:
        stream = added(output, "ffv1", "yuv444p")
        for index, whole in enumerate(coded(stream, 10)):
            output.mux(packet(b"" if index in empty else bytes(whole), index, stream))
    frames = read(path)
    assert [frame.index for frame in frames] == list(range(10))
    assert np.diff([frame.pts for frame in frames]).tolist() == [frames[1].pts] * 9
    for before, after in itertools.pairwise(frames):
        assert np.array_equal(before.levels, after.levels) == (after.index in empty)


def test_packed_frames(tmp_path: Path) -> None:
    """AVI files of DivX may hold two frames in one packet, and an almost empty packet later."""
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as output:
        stream = added(output, "mpeg4", "yuv420p", {"bf": "1"})
        whole = [bytes(packet) for packet in coded(stream, 9)]
        first, pairs = whole[0], list(zip(whole[1::2], whole[2::2], strict=True))
        first = re.sub(b"\0\0\1\xb2Lavc[0-9.]+", b"\0\0\1\xb2DivX503b1393p", first)
        stored = [first] + [part for forward, both in pairs for part in (forward + both, b"\0\0\1\xb6\x51\x80\x7f")]
        for index, content in enumerate(stored):
            output.mux(packet(content, index, stream))
    frames = read(path)
    assert len(frames) == 9
    assert len({frame.levels.tobytes() for frame in frames}) == 9


@pytest.mark.parametrize(
    ("file", "codec", "pixels"),
    [
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.flv", "flv", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "png", "rgb24"),
    ],
)
def test_a_cut_file_is_reported_at_once(file: str, codec: str, pixels: str, tmp_path: Path) -> None:
    """A file that ends too early is refused before anything is painted, unless the frames before its end suffice."""
    path = tmp_path / file
    options = {"movflags": "+faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as output:
        output.mux(coded(added(output, codec, pixels, {"g": "1", "b": "4M"}), 25))
    assert len(read(path)) == 25
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match=rf"content='.*{file}' ends after \d+ frames, \d+ before its end: it was cut"):
        read(path)
    assert 3 <= len(read(path, on_corrupt="skip")) < 25
    assert len(read(path, Cut(end=2))) == 2


def test_a_cut_file_will_do_up_to_the_cut(tmp_path: Path) -> None:
    """As docs/videos.md says: all frames before the cut can be asked for, and none behind it."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as output:
        output.mux(coded(added(output, "libx264", "yuv420p", {"g": "1", "b": "4M"}), 25))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(InputError) as refused:
        read(path)
    found = re.search(r"ends after (\d+) frames", str(refused.value))
    assert found
    before_the_cut = int(found[1])
    assert len(read(path, Cut(end=before_the_cut))) == before_the_cut
    with pytest.raises(InputError, match="it was cut short"):
        read(path, Cut(end=before_the_cut + 1))


def test_sound_may_be_longer_than_the_picture(tmp_path: Path) -> None:
    """The length of a file is that of its longest stream. Pictures that end earlier do not mean that it was cut."""
    path = tmp_path / "a.wmv"
    with av.open(str(path), "w", format="asf") as output:
        stream = added(output, "wmv2", "yuv420p")
        audio: Any = output.add_stream("wmav2", rate=44100, layout="mono")
        audio.bit_rate = 64000
        output.mux(coded(stream, 10))
        output.mux(videos._sine(audio, 1.0))
    assert len(read(path)) == 10


def test_animations_are_read_frame_by_frame(tmp_path: Path) -> None:
    """Only a few decoded frames of an animation are held in memory, however many it has."""
    import tracemalloc

    pictures = [Image.new("RGB", (300, 200), (8 * index, 255 - 8 * index, 0)) for index in range(30)]
    for file in ("a.gif", "a.webp", "a.png"):
        pictures[0].save(tmp_path / file, save_all=True, append_images=pictures[1:], duration=40, loop=0)
        video = probe(tmp_path / file, "content")
        tracemalloc.start()
        count = sum(1 for _ in read_frames(video, Cut(), on_corrupt="error", name="content"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == 30
        assert peak < 10 * 300 * 200 * 4
