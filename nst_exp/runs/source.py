"""Where a run's content comes from: a picture, a video or a camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp

from nst_exp.config import RunConfig
from nst_exp.errors import InputError
from nst_exp.media.codecs import CODECS
from nst_exp.media.image import from_uint8
from nst_exp.media.kind import kind_of
from nst_exp.media.sizes import fitted_size
from nst_exp.types import Image

if TYPE_CHECKING:  # pictures need none of what reads video
    from nst_exp.media.camera import Device
    from nst_exp.media.frame_conversion import Levels
    from nst_exp.media.video import Cut, VideoFile


@runtime_checkable
class Source(Protocol):
    """The content of a run, found and checked, but not read yet.

    Attributes:
        kind: `image`, `video` or `camera`: the name in records, and of the module of its `RunKind`.
        repeatable: whether reading it again gives the same content.
    """

    kind: ClassVar[str]
    repeatable: ClassVar[bool]

    def content_image(self, config: RunConfig, least: int, read_picture: Callable[[Path], Image]) -> Image:
        """The photograph, or the first frame, at the run's size.

        Args:
            least: the shortest side that is allowed, in px.
            read_picture: reads a picture file at the run's size.

        Raises:
            InputError: if there is no frame, or it is too small for the network or the codec.
        """


@dataclass(frozen=True)
class ImageSource:
    """A picture file."""

    kind: ClassVar[str] = "image"
    repeatable: ClassVar[bool] = True

    path: Path

    def content_image(self, config: RunConfig, least: int, read_picture: Callable[[Path], Image]) -> Image:
        """The photograph, see `Source`."""
        return read_picture(self.path)


@dataclass(frozen=True)
class VideoSource:
    """A video file."""

    kind: ClassVar[str] = "video"
    repeatable: ClassVar[bool] = True

    file: VideoFile

    def frame_size(self, config: RunConfig) -> tuple[int, int]:
        """(width, height) in px of the painted frames; even where the codec needs that."""
        return _fitted(self.file.size, config, encoded="video" in config.video.write)

    def content_image(self, config: RunConfig, least: int, read_picture: Callable[[Path], Image]) -> Image:
        """The first frame, see `Source`."""
        from nst_exp.media.frame_conversion import resize
        from nst_exp.media.video import read_frames

        size, sides = self.frame_size(config), 2 if "side_by_side" in config.video.write else 1
        _check_frame_size(f"content={str(self.file.path)!r}", config, size, sides, least)
        on_corrupt = config.video.on_corrupt
        first = next(read_frames(self.file, cut_of(config), on_corrupt=on_corrupt, name="content"), None)
        if first is None:
            raise InputError(f"video.start={config.video.start}: content={str(self.file.path)!r} has no frame there")
        return jnp.asarray(from_uint8(resize(first.levels, size)))


@dataclass(frozen=True)
class CameraSource:
    """A camera, which has been tried and works."""

    kind: ClassVar[str] = "camera"
    repeatable: ClassVar[bool] = False

    device: Device

    def frame_size(self, config: RunConfig) -> tuple[int, int]:
        """(width, height) in px of the painted frames; even where the codec needs that."""
        return _fitted(self.device.size, config, encoded=True)

    def content_image(self, config: RunConfig, least: int, read_picture: Callable[[Path], Image]) -> Image:
        """The camera's first frame, see `Source`."""
        size = self.frame_size(config)
        _check_frame_size(f"camera.device={self.device.name!r}", config, size, 1, least)
        return jnp.asarray(from_uint8(self.resized(self.device.first, config)))

    def resized(self, levels: Levels, config: RunConfig) -> Levels:
        """A frame of the camera at the run's size."""
        from nst_exp.media.frame_conversion import resize

        return resize(levels, self.frame_size(config))


def open_source(config: RunConfig, content: Path | None) -> Source:
    """Find and check the source that `config` names.

    Args:
        content: the file; None with `source=camera`.

    Raises:
        InputError: if the video cannot be read, or there is no such camera.
    """
    if content is None:
        from nst_exp.media.camera import find_camera

        return CameraSource(find_camera(config.camera.device, config.camera.format))
    kind = kind_of(content) if config.source == "auto" else config.source
    if kind == ImageSource.kind:
        return ImageSource(content)
    from nst_exp.media.video import probe

    return VideoSource(probe(content, "content"))


def cut_of(config: RunConfig) -> Cut:
    """Which frames of a video are taken."""
    from nst_exp.media.video import Cut

    return Cut(config.video.start, config.video.end, config.video.every)


def _fitted(stored: tuple[int, int], config: RunConfig, *, encoded: bool) -> tuple[int, int]:
    return fitted_size(stored, config.size, config.aspect, even=encoded and CODECS[config.video.codec].even)


def _check_frame_size(named: str, config: RunConfig, size: tuple[int, int], sides: int, least: int) -> None:
    """Refuse frames that are too small, or that the codec cannot write with `sides` of them in a row."""
    from nst_exp.media.video_writer import check_writable

    codec, frames = config.video.codec, f"{size[0]}x{size[1]} px"
    if min(size) < least:
        raise InputError(
            f"{named}: at size={config.size} its frames would be {frames}, at least {least} px needed on the short side"
        )
    if min(size) < CODECS[codec].least:
        raise InputError(f"video.codec={codec}: frames of {frames}, at least {CODECS[codec].least} px needed")
    check_writable(codec, (sides * size[0], size[1]))
