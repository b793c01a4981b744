"""Live cameras, read in a background thread that keeps only the newest frame.

A slow consumer therefore always gets the newest frame and never waits for late ones. FFmpeg reads the device. On a
machine without a camera, FFmpeg's test pattern takes its place. Since FFmpeg generates the pattern as fast as it can,
it is slowed down to the pace of its own time stamps.
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

# FFmpeg's input formats for cameras, by sys.platform
_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_VIRTUAL = "lavfi"  # FFmpeg's input format whose devices are filters
_TEST_PICTURE = "testsrc=size=320x240:rate=25"
_DEFAULT_RATE = Fraction(25)  # frames per second, of cameras that report no rate
_TIMEOUT_S = 10.0  # a camera that delivers no frame for this long is given up
_PAUSE_S = 0.01  # pause before a camera that had no frame ready is asked again

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """A camera that has been tried and works.

    Attributes:
        name: FFmpeg's name of the device, such as /dev/video0.
        format: FFmpeg's name of the input format, such as v4l2.
        rate: Frames per second as reported by the camera; 25 if it reports none.
        first: The frame that the camera delivered when it was tried, uint8 (H, W, 3).
    """

    name: str
    format: str
    rate: Fraction
    first: Levels = field(repr=False, compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """The (width, height) of a frame, in px."""
        return self.first.shape[1], self.first.shape[0]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A frame as the camera delivered it.

    Attributes:
        index: The number of frames that the camera delivered before this one, including those that nobody took.
        time: When the frame arrived, in seconds on the clock of `time.monotonic`.
        levels: The frame as sRGB levels 0 to 255, uint8 (H, W, 3).
    """

    index: int
    time: float
    levels: Levels


def find_camera(device: str | None, format: str | None) -> Device:
    """Find the camera that the settings name, and read one frame to check that it works.

    Args:
        device: The value of `camera.device`, FFmpeg's name of a device. None selects the first /dev/video*, or FFmpeg's
            test pattern if there is none or `format` is `lavfi`.
        format: The value of `camera.format`, FFmpeg's name of an input format. None selects the usual one of this
            platform.

    Returns:
        The device, closed again.

    Raises:
        InputError: If the camera cannot be opened, delivers no picture, or has colours that cannot be converted.
    """
    name, format = _choose_device(device, format)
    container = _opened(name, format)
    try:
        stream = container.streams.video[0]
        give_up = time.monotonic() + _TIMEOUT_S
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
    """An open camera, to be used as a context manager.

    A thread reads frames while the context is active. A consumer that is slower than the camera skips frames and always
    gets the newest one.

    Args:
        device: The camera to open, as returned by `find_camera`.

    Raises:
        InputError: If the camera cannot be opened.
    """

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
        self._thread.join(_TIMEOUT_S)

    def newest(self, after: int = -1) -> Snapshot:
        """Return the newest frame, and wait until there is one.

        Args:
            after: The index of a frame that the caller already has; only a later frame is returned. -1 accepts any
                frame.

        Raises:
            InputError: If the camera has ended, or delivers no such frame within 10 s.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._index > after, timeout=_TIMEOUT_S)
            if self._newest is None or self._index <= after:
                raise InputError(f"camera.device={self._device.name!r} gives no more frames")
            index, time_, frame = self._newest
        return Snapshot(index, time_, levels_of(frame, self._pixel_aspect))

    @property
    def _index(self) -> int:
        return -1 if self._newest is None else self._newest[0]

    def _read(self) -> None:
        """Keep the newest frame available until the camera ends or is closed. This is the thread's body."""
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
        """Yield the camera's frames; those of a virtual device not before their time stamps."""
        started = time.monotonic()
        for frame in _decoded(self._container, self._closing.is_set):
            if self._device.format == _VIRTUAL:
                self._closing.wait(started + (frame.time or 0.0) - time.monotonic())
            yield frame


def _choose_device(device: str | None, format: str | None) -> tuple[str, str]:
    """Return the name and the input format of the device to open."""
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
    """Yield decoded frames until the camera ends.

    If no frame is ready, the camera is asked again after a pause. Damaged data, with which a camera may begin, are
    skipped.

    Args:
        is_over: Called whenever the camera has no frame to give; iteration stops if it returns True.
    """
    while not is_over():
        try:
            yield from container.decode(video=0)
            return
        except (av.error.BlockingIOError, av.error.InvalidDataError):
            time.sleep(_PAUSE_S)
