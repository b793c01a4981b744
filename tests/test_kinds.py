"""The kind of a file is determined by its content: video, animation, picture, or none of these."""

from __future__ import annotations

import itertools
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import videos
from command import run_in_process
from PIL import Image

from nst_exp.errors import InputError
from nst_exp.media.image import read_image
from nst_exp.media.kind import kind_of
from nst_exp.media.video import Cut, probe, read_frames

RAW = {  # files without a container: codec and FFmpeg's name of the format
    "a.m1v": ("mpeg1video", "mpeg1video"),
    "a.m2v": ("mpeg2video", "mpeg2video"),
    "a.h264": ("libx264", "h264"),
    "a.hevc": ("libx265", "hevc"),
    "a.mjpeg": ("mjpeg", "mjpeg"),
    "a.y4m": ("rawvideo", "yuv4mpegpipe"),
    "a.ivf": ("libvpx-vp9", "ivf"),
    "a.m4v": ("mpeg4", "m4v"),
}


def raw(path: Path, codec: str, format: str) -> Path:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with av.open(str(path), "w", format=format) as output:
        stream: Any = output.add_stream(codec, rate=Fraction(25), options=options)
        stream.width, stream.height = 64, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(8):
            frame = av.VideoFrame.from_ndarray(videos.scene(index, 64, 64), format="rgb24")
            output.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("file", RAW)
def test_raw_video_is_video(file: str, tmp_path: Path) -> None:
    """A stream without a container is a video, whatever its name, although Pillow takes some of them for pictures."""
    path = raw(tmp_path / file, *RAW[file])
    without_suffix = Path(shutil.copy(path, tmp_path / "without_suffix"))
    for one in (path, without_suffix):
        assert kind_of(one) == "video"
        video = probe(one, "content")
        assert (video.size, video.rate, video.frames) == ((64, 64), Fraction(25), 8)
        frames = list(read_frames(video, Cut(), on_corrupt="error", name="content"))
        assert len(frames) == 8
        assert {round(1 / ((b.pts - a.pts) * video.time_base)) for a, b in itertools.pairwise(frames)} == {25}


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    """A video with the name of a picture is a video, and a picture with the name of a video is a picture."""
    video = videos.write(tmp_path / "a.mp4", frames=2).rename(tmp_path / "a.jpg")
    picture = tmp_path / "a.mp4"
    Image.fromarray(videos.scene(0)).save(picture, format="JPEG")
    assert (kind_of(video), kind_of(picture)) == ("video", "image")


def song(path: Path, *, cover: bool) -> Path:
    """Write a song, with or without a cover picture, as music shops sell it."""
    with av.open(str(path), "w") as output:
        audio = output.add_stream("libmp3lame" if path.suffix == ".mp3" else "aac", rate=48000, layout="mono")
        audio.format = "fltp"
        picture: Any = output.add_stream("mjpeg") if cover else None
        if cover:
            picture.width, picture.height, picture.pix_fmt = 48, 32, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        output.mux(videos._sine(audio, 0.3))
        if cover:
            frame = av.VideoFrame.from_ndarray(videos.scene(0), format="rgb24").reformat(format="yuvj420p")
            output.mux(picture.encode(frame) + picture.encode(None))
    return path


def page(path: Path) -> Path:
    Image.fromarray(videos.scene(0, 200, 200)).save(path, "PDF")
    return path


def drawing(path: Path) -> Path:
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5" height="5"/></svg>')
    return path


def words(path: Path) -> Path:
    path.write_text("These are words, not pixels.\n" * 40)
    return path


def archive(path: Path) -> Path:
    inner = videos.write(path.with_name("inner.avi"), codec="mjpeg", pixels="yuvj420p")
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.write(inner)
    else:
        with tarfile.open(path, "w") as file:
            file.add(inner)
    return path


def heic(path: Path) -> Path:
    """A file that begins like a photograph of a telephone, followed by a video of one frame."""
    videos.write(path.with_name("inner.mp4"), frames=1)
    inner = path.with_name("inner.mp4").read_bytes()
    path.write_bytes(inner[:8] + b"heic" + inner[12:16] + b"mif1heic" + inner[24:])
    return path


def opened(path: Path) -> None:
    """Read the file as the kind that it is taken for."""
    if kind_of(path) == "video":
        probe(path, "content")
    else:
        read_image(path, size=32, aspect="keep", smallest_side=16, name="content")


NO_VIDEO: dict[str, tuple[Callable[[Path], Path], str]] = {
    "song.mp3": (lambda path: song(path, cover=True), "has no video in it, only sound and a cover picture"),
    "song.m4a": (lambda path: song(path, cover=False), "has no video in it, only sound"),
    "page.pdf": (page, "not a picture of a known kind"),
    "drawing.svg": (drawing, "not a picture of a known kind"),
    "words.txt": (words, "not a picture of a known kind"),
    "videos.zip": (archive, "not a picture of a known kind"),
    "videos.tar": (archive, "not a picture of a known kind"),
    "IMG_0001.HEIC": (heic, "is a HEIC picture, which is not read here: convert it to JPEG first"),
}


@pytest.mark.parametrize("file", NO_VIDEO)
def test_what_is_no_video_is_not_painted_as_one(file: str, tmp_path: Path) -> None:
    """Sound, documents, archives and pictures are refused by their kind, also if FFmpeg could decode a part of them."""
    write, refusal = NO_VIDEO[file]
    path = write(tmp_path / file)
    for one in (path, Path(shutil.copy(path, tmp_path / "without_suffix"))):
        with pytest.raises(InputError, match=refusal) as raised:
            opened(one)
        assert str(raised.value).startswith(f"content='{one}'")


def test_the_command_refuses_a_song_in_one_line(tmp_path: Path) -> None:
    path = song(tmp_path / "song.mp3", cover=True)
    outcome = run_in_process(f"content={path}", folder=tmp_path)
    assert outcome.code == 1
    assert outcome.stderr == f"nst_exp: content='{path}' has no video in it, only sound and a cover picture\n"


@pytest.mark.parametrize("key", ["content", "style"])
def test_the_command_refuses_a_heic_picture_by_name(key: str, tmp_path: Path) -> None:
    path = heic(tmp_path / "named_otherwise.jpg")
    outcome = run_in_process(f"{key}={path}", folder=tmp_path)
    assert outcome.code == 1
    assert outcome.stderr.startswith(f"nst_exp: {key}='{path}' is a HEIC picture, which is not read here: convert it")
    assert len(outcome.stderr.splitlines()) == 1
