"""A live camera: read in a thread, so that whoever asks gets the newest frame and never waits for late ones.

FFmpeg reads the device. Where there is none its test picture takes the place of one; as FFmpeg makes that as fast as it
can, it is held back to the pace of its own time stamps.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from nst_exp.errors import InputError
from nst_exp.media.frame_conversion import Levels, UnsupportedColoursError, levels_of

_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}  # FFmpeg's inputs, by sys.platform
_VIRTUAL = "lavfi"  # FFmpeg's input whose devices are filters
_TEST_PICTURE = "testsrc=size=320x240:rate=25"
_DEFAULT_RATE = Fraction(25)  # of what does not say
_PATIENCE = 10.0  # s without a frame after which a camera is given up
_PAUSE = 0.01  # s until a camera that had nothing to give is asked again

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """A camera that has been seen to work.

    Attributes:
        name: FFmpeg's, such as /dev/video0.
        format: FFmpeg's name of the input, such as v4l2.
        rate: frames a second, as far as it says.
        first: its first frame when it was tried.
    """

    name: str
    format: str
    rate: Fraction
    first: Levels = field(repr=False, compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        return self.first.shape[1], self.first.shape[0]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A frame as the camera gave it.

    Attributes:
        index: how many came before it, those included that nobody took.
        time: when it came, on the clock of `time.monotonic`, in s.
        levels: (H, W, 3).
    """

    index: int
    time: float
    levels: Levels


def find_camera(device: str | None, format: str | None) -> Device:
    """The camera that the config keys `camera.device` and `camera.format` name, tried.

    Args:
        device: None for the first /dev/video* that there is, else FFmpeg's test picture.
        format: None for what this system's cameras are to FFmpeg.

    Raises:
        InputError: if it cannot be opened, or gives no picture.
    """
    name, format = _found(device, format)
    container = _opened(name, format)
    try:
        stream = container.streams.video[0]
        give_up = time.monotonic() + _PATIENCE
        first = next(_decoded(container, lambda: time.monotonic() > give_up), None)
        if first is None:
            raise InputError(f"camera.device={name!r} gives no picture")
        try:
            levels = levels_of(first, stream.sample_aspect_ratio)
        except UnsupportedColoursError as error:
            raise InputError(f"camera.device={name!r}: {error}") from error
        return Device(name, format, Fraction(stream.average_rate or _DEFAULT_RATE), levels)
    finally:
        container.close()


class Camera:
    """A camera that is open, as a context manager; whoever is slow misses frames, and gets the newest."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._container = _opened(device.name, device.format)
        self._pixel_aspect = self._container.streams.video[0].sample_aspect_ratio
        self._changed = threading.Condition()
        self._newest: tuple[int, float, av.VideoFrame] | None = None
        self._over = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(_PATIENCE)

    def newest(self, after: int = -1) -> Snapshot:
        """The newest frame, as soon as there is one of an index above `after`.

        Raises:
            InputError: if none comes any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._index > after, timeout=_PATIENCE)
            if self._newest is None or self._index <= after:
                raise InputError(f"camera.device={self._device.name!r} gives no more frames")
            index, time_, frame = self._newest
        return Snapshot(index, time_, levels_of(frame, self._pixel_aspect))

    @property
    def _index(self) -> int:
        return -1 if self._newest is None else self._newest[0]

    def _read(self) -> None:
        """Keep the newest frame at hand until the camera is closed or gone; the thread's body."""
        try:
            for index, frame in enumerate(self._in_time()):
                with self._changed:
                    self._newest = index, time.monotonic(), frame
                    self._changed.notify_all()
                if self._closing.is_set():
                    break
        except av.error.FFmpegError as error:
            _log.warning("camera.device=%r: %s", self._device.name, error.strerror)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            self._container.close()

    def _in_time(self) -> Iterator[av.VideoFrame]:
        started = time.monotonic()
        for frame in _decoded(self._container, self._closing.is_set):
            if self._device.format == _VIRTUAL:
                self._closing.wait(started + (frame.time or 0.0) - time.monotonic())
            yield frame


def _found(device: str | None, format: str | None) -> tuple[str, str]:
    """Name and format."""
    own = _FORMATS.get(sys.platform, "v4l2")
    if device is not None:
        return device, format or own
    cameras = {int(path.name[5:]): path for path in Path("/dev").glob("video*") if path.name[5:].isdigit()}
    if cameras and format in (None, own):
        return str(cameras[min(cameras)]), own
    if format not in (None, _VIRTUAL):
        raise InputError(f"camera.format={format}: there is no such camera, name one with camera.device")
    _log.info("no camera is here, FFmpeg's test picture takes its place; camera.device names another")
    return _TEST_PICTURE, _VIRTUAL


def _opened(name: str, format: str) -> Any:
    try:
        container = av.open(name, format=format)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"camera.device={name!r} cannot be opened by {format}: {reason}") from error
    except ValueError as error:
        raise InputError(f"camera.format={format}: FFmpeg here knows no such input") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"camera.device={name!r} gives no picture")
    return container


def _decoded(container: Any, is_over: Callable[[], bool]) -> Iterator[av.VideoFrame]:
    """Its frames up to its end; what it has not ready, or what comes damaged, as a first frame may, is passed over.

    Args:
        is_over: asked when the camera has nothing to give: whether to stop asking.
    """
    while not is_over():
        try:
            yield from container.decode(video=0)
            return
        except (av.error.BlockingIOError, av.error.InvalidDataError):
            time.sleep(_PAUSE)
