"""The sound of videos stays in step, ends with the picture, and costs no frame, whatever the source holds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from command import OUT, Outcome, run_in_process

from nst_exp.media.codecs import CODECS
from nst_exp.media.sound import plan_sound
from nst_exp.media.video import Cut, Frame, VideoFile, probe, read_frames
from nst_exp.media.video_writer import write_video

RATE = Fraction(25)
PACKET = 0.03  # s; no packet of the codecs here lasts longer


def video_with(path: Path, sound: str, frames: int = 25, codec: str = "libx264") -> VideoFile:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    videos.write(path, frames, rate=RATE, sound=sound, codec=codec, pixels=pixels)
    return probe(path, "content")


def two_tracks(path: Path) -> Path:
    """Write a track of AAC and one of an unknown codec, as telephones do."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        tracks = [output.add_stream("aac", rate=48000, layout="mono") for _ in range(2)]
        for index in range(8):
            output.mux(video.encode(av.VideoFrame.from_ndarray(videos.scene(index), format="rgb24")))
        for track in tracks:
            output.mux(videos._sine(track, 0.32))
        output.mux(video.encode(None))
    data = path.read_bytes()
    at = data.rindex(b"mp4a", 0, data.rindex(b"stsd", 0, len(data)) + 24)
    path.write_bytes(data[:at] + b"zzzz" + data[at + 4 :].replace(b"esds", b"zzzz"))
    return path


def painted(*arguments: str, folder: Path) -> Outcome:
    return run_in_process(*arguments, "video.steps=1", "video.window=1", "steps=1", folder=folder)


def durations(path: Path) -> dict[str, float]:
    """When the last decoded frame of each kind of stream ends, in s."""
    ends: dict[str, float] = {}
    with av.open(str(path)) as container:
        for frame in container.decode(*container.streams.audio, *container.streams.video):
            assert isinstance(frame, av.AudioFrame | av.VideoFrame)
            length = frame.samples / frame.sample_rate if isinstance(frame, av.AudioFrame) else 0
            kind, end = type(frame).__name__, float(videos.seconds_of(frame)) + length
            ends[kind] = max(ends.get(kind, 0), end)
    return ends


def begins_of_tone(path: Path) -> float:
    """When the sound begins to be loud, in s."""
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            levels = frame.to_ndarray().astype(float)
            levels = np.abs(levels / (32768 if frame.format.name.startswith("s16") else 1)).max(axis=0)
            if (levels > 0.1).any():
                return float(videos.seconds_of(frame)) + int(np.argmax(levels > 0.1)) / frame.sample_rate
    return float("inf")


@pytest.mark.parametrize(
    ("name", "sound", "codec", "suffix", "words"),
    [
        ("a.mp4", "aac", "h264", ".mp4", "aac, copied"),
        ("a.mp4", "aac", "vp9", ".mkv", "aac, copied"),
        ("a.mkv", "flac", "h264", ".mp4", "flac, copied"),
        ("a.mkv", "libopus", "vp9", ".webm", "opus, copied"),
        ("a.mkv", "pcm_s16le", "h264", ".mkv", "pcm_s16le, copied"),
        ("a.wmv", "wmav2", "h264", ".mp4", "wmav2, encoded to AAC"),
        ("a.wmv", "wmav2", "vp9", ".webm", "wmav2, encoded to Opus"),
        ("a.mov", "pcm_alaw", "h264", ".mp4", "pcm_alaw, encoded to AAC"),
        ("a.mov", "pcm_mulaw", "ffv1", ".mkv", "pcm_mulaw, encoded to Opus"),
        ("a.avi", "adpcm_ms", "h264", ".mp4", "adpcm_ms, encoded to AAC"),
        ("a.m2ts", "pcm_bluray", "h264", ".mp4", "pcm_bluray, encoded to AAC"),
        ("a.ts", "mp2", "h265", ".mkv", "mp2, copied"),
    ],
)
def test_sound_of_every_kind_goes_along(
    name: str, sound: str, codec: str, suffix: str, words: str, tmp_path: Path
) -> None:
    """Kind: sound that the container of the written video cannot hold is lost. It is encoded, or copied if possible."""
    source = {"wmv": "wmv2", "avi": "mjpeg"}.get(name.rpartition(".")[2], "libx264")
    video = video_with(tmp_path / name, sound, codec=source)
    plan = plan_sound(video, CODECS[codec].suffix)
    assert plan.suffix == suffix
    (word,) = plan.words
    assert words in word.replace("mp2float", "mp2")
    path = tmp_path / f"out{suffix}"
    levels = [(frame.pts, np.pad(frame.levels, ((0, 32), (0, 16), (0, 0)))) for frame in frames_of(video)]
    write_video(path, levels, CODECS[codec], time_base=video.time_base, rate=video.rate, sound_of=video)
    ends = durations(path)
    assert ends["VideoFrame"] == pytest.approx(0.96, abs=0.002)
    assert ends["AudioFrame"] == pytest.approx(1, abs=0.08)
    assert abs(begins_of_tone(path) - begins_of_tone(video.path) + start_of(video.path)) < (
        PACKET if "copied" in words else 0.01
    )


def frames_of(video: VideoFile) -> list[Frame]:
    return list(read_frames(video, Cut(), on_corrupt="error", name="content"))


def start_of(path: Path) -> float:
    """When the first picture is shown, in s."""
    return float(videos.stamps_of(path)[0])


def test_a_track_that_nobody_decodes_is_left_out_by_name_before_painting(tmp_path: Path) -> None:
    """Kind: a stream that FFmpeg does not know or cannot decode stops the run. The other streams are copied."""
    source = two_tracks(tmp_path / "a.mov")
    outcome = painted(f"content={source}", folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    said = outcome.stdout + outcome.stderr
    assert "sound track 1: aac, copied; sound track 2: of a codec unknown to FFmpeg, left out" in said
    made = tmp_path / OUT / "pastiche.mp4"
    with av.open(str(made)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    assert [data for _, data in videos.sound_of(made)] == [data for _, data in videos.sound_of(source)]


@pytest.mark.parametrize(("name", "sound"), [("a.mp4", "aac"), ("a.mov", "pcm_alaw")])
def test_sound_of_a_part_begins_and_ends_with_its_picture(name: str, sound: str, tmp_path: Path) -> None:
    """Kind: the sound of a part of a video is longer or shorter than its frames are shown."""
    video = video_with(tmp_path / name, sound, frames=30)
    part = ("video.start=5", "video.end=15", "video.every=3", "video.write=[video,side_by_side]")
    outcome = painted(f"content={video.path}", *part, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    for made in (tmp_path / OUT / "pastiche.mp4", tmp_path / OUT / "side_by_side.mp4"):
        assert videos.stamps_of(made) == [Fraction(index * 3, 25) for index in range(4)]
        assert durations(made)["AudioFrame"] == pytest.approx(0.48, abs=PACKET)  # the last one is shown for 3 frames
        assert begins_of_tone(made) < PACKET
        with av.open(str(made)) as container:
            (picture,) = container.streams.video
            assert picture.duration is not None
            assert picture.time_base is not None
            assert picture.duration * picture.time_base == Fraction(12, 25)


def test_the_sound_of_a_stopped_run_ends_with_its_picture(tmp_path: Path) -> None:
    """Kind: the sound is longer than a video whose run was stopped, here by a frame that cannot be decoded."""
    path = video_with(tmp_path / "a.avi", "adpcm_ms", frames=30, codec="mjpeg").path
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    size = int.from_bytes(data[starts[6] - 4 : starts[6]], "little")
    data[starts[6] : starts[6] + size] = bytes(size)
    path.write_bytes(data)
    outcome = painted(f"content={path}", folder=tmp_path)
    assert outcome.code == 1
    made = tmp_path / OUT / "pastiche.mp4"
    assert len(videos.stamps_of(made)) == 6
    assert durations(made)["AudioFrame"] == pytest.approx(0.24, abs=PACKET)
    assert not (tmp_path / OUT / "result.json").exists()


def test_pictures_are_written_whatever_becomes_of_the_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: painted frames are lost because the sound fails, at its beginning or later, while the video is written."""
    from nst_exp.media import sound

    video = video_with(tmp_path / "a.mov", "pcm_alaw", frames=4)

    def fails(*_: object) -> None:
        raise ValueError("no sound today")

    for number, part in enumerate(("_add_encoder", "_Encoding.write")):
        with monkeypatch.context() as patch:
            patch.setattr(f"{sound.__name__}.{part}", fails)
            outcome = painted(f"content={video.path}", f"hydra.run.dir={number}", "registry=null", folder=tmp_path)
        assert outcome.code == 0, outcome.stderr
        assert len(videos.stamps_of(tmp_path / str(number) / "pastiche.mp4")) == 4
