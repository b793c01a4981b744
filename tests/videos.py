"""Makes videos for tests: a textured scene with something that moves, in any codec, rate and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = Fraction(30000, 1001)


def scene(index: int, width: int = 48, height: int = 32, step: int = 2) -> np.ndarray:
    """A still background of smooth texture and a bright square that moves `step` px a frame to the right."""
    rows, columns = np.mgrid[:height, :width]
    texture = 90 + 40 * np.sin(columns / 5) * np.cos(rows / 4)
    levels = np.stack([texture, texture[::-1], 200 - texture], axis=-1)
    left = 4 + step * index
    levels[height // 3 : height // 3 + 8, left : left + 8] = (240, 200, 40)
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def write(
    path: Path,
    frames: int = 6,
    *,
    stamps: Sequence[int] | None = None,
    rate: Fraction = RATE,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (48, 32),
    rotation: int = 0,
    sound: str | None = None,
) -> Path:
    """Write a video of `scene`, with `stamps` in units of 1 / rate's numerator, and a sine as `sound` of that codec."""
    base = Fraction(1, rate.numerator) if stamps else 1 / rate
    with av.open(str(path), "w") as output:
        video: Any = output.add_stream(codec, rate=rate, options={"crf": "10"} if codec == "libx264" else {})
        video.width, video.height, video.pix_fmt = *size, pixels
        video.codec_context.time_base = base
        if rotation:
            video.set_display_rotation(rotation)
        audio: Any = output.add_stream(sound, rate=48000, layout="mono") if sound else None
        if sound and sound.startswith("wma"):  # whose default bit rate it refuses
            audio.codec_context.bit_rate = 96_000
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(scene(index, *size), format="rgb24").reformat(format=pixels)
            frame.pts = stamps[index] if stamps else index
            frame.time_base = base
            output.mux(video.encode(frame))
        if audio is not None:
            for packet in _sine(audio, seconds=float(frames / rate)):
                output.mux(packet)
        output.mux(video.encode(None))
    return path


def _sine(audio: Any, seconds: float) -> list[Any]:
    packets, size = [], audio.codec_context.frame_size or 1024
    for start in range(0, math.ceil(seconds * 48000), size):
        wave = np.sin(2 * np.pi * 440 * (start + np.arange(size)) / 48000)
        planar = audio.codec_context.format.name
        data = wave.astype(np.float32) if "flt" in planar else np.rint(20000 * wave).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(data[None], format=planar, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        packets += audio.encode(frame)
    return packets + audio.encode(None)


def stamps_of(path: Path) -> list[Fraction]:
    """When each frame of a video is shown, in s."""
    with av.open(str(path)) as container:
        return [seconds_of(frame) for frame in container.decode(video=0)]


def levels_of(path: Path) -> list[np.ndarray]:
    """The frames of a video, as they are stored."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def sound_of(path: Path) -> list[tuple[Fraction, bytes]]:
    """The time, in s, and the bytes of each packet of sound."""
    with av.open(str(path)) as container:
        packets = container.demux(audio=0)
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets if packet.pts is not None]


def seconds_of(frame: av.VideoFrame | av.AudioFrame) -> Fraction:
    """When a decoded frame is shown or heard, in s."""
    assert frame.pts is not None
    assert frame.time_base is not None
    return frame.pts * frame.time_base
