"""The sources of a run's content: picture files, video files and cameras."""

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

if TYPE_CHECKING:  # runs of pictures do not import the modules that read videos
    from nst_exp.media.camera import Device
    from nst_exp.media.frame_conversion import Levels
    from nst_exp.media.video import Cut, VideoFile


@runtime_checkable
class Source(Protocol):
    """The content of a run, which has been found and checked but not read yet.

    Attributes:
        kind: `image`, `video` or `camera`. This is the name in records and the name of the module of its `RunKind`.
        repeatable: whether reading the source again gives the same content.
    """

    kind: ClassVar[str]
    repeatable: ClassVar[bool]

    def content_image(self, config: RunConfig, least: int, read_picture: Callable[[Path], Image]) -> Image:
        """Read the photograph or the first frame, at the size of the run.

        Args:
            config: the settings of the run.
            least: the shortest side that is allowed, in px.
            read_picture: reads a picture file at the size of the run.

        Raises:
            InputError: if there is no frame, or it is too small for the network or the codec.
        """


@dataclass(frozen=True)
class ImageSource:
    """A picture file.

    Attributes:
        path: the file.
    """

    kind: ClassVar[str] = "image"
    repeatable: ClassVar[bool] = True

    path: Path

    def content_image(self, config: RunConfig, least: int, read_picture: Callable[[Path], Image]) -> Image:
        """Read the photograph; see `Source`."""
        return read_picture(self.path)


@dataclass(frozen=True)
class VideoSource:
    """A video file.

    Attributes:
        file: the file, with what is known about its streams.
    """

    kind: ClassVar[str] = "video"
    repeatable: ClassVar[bool] = True

    file: VideoFile

    def frame_size(self, config: RunConfig) -> tuple[int, int]:
        """Return (width, height) of the painted frames in px.

        They are even if a video is written by a codec that needs even sizes.
        """
        return _fitted(self.file.size, config, encoded="video" in config.video.write)

    def content_image(self, config: RunConfig, least: int, read_picture: Callable[[Path], Image]) -> Image:
        """Read the first frame; see `Source`."""
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
    """A camera that has been tried and works.

    Attributes:
        device: the camera, with the first frame that it gave.
    """

    kind: ClassVar[str] = "camera"
    repeatable: ClassVar[bool] = False

    device: Device

    def frame_size(self, config: RunConfig) -> tuple[int, int]:
        """Return (width, height) of the painted frames in px, which are even if the codec needs even sizes."""
        return _fitted(self.device.size, config, encoded=True)

    def content_image(self, config: RunConfig, least: int, read_picture: Callable[[Path], Image]) -> Image:
        """Return the frame that the camera gave when it was tried; see `Source`."""
        size = self.frame_size(config)
        _check_frame_size(f"camera.device={self.device.name!r}", config, size, 1, least)
        return jnp.asarray(from_uint8(self.resized(self.device.first, config)))

    def resized(self, levels: Levels, config: RunConfig) -> Levels:
        """Resize a frame of the camera to the size of the run."""
        from nst_exp.media.frame_conversion import resize

        return resize(levels, self.frame_size(config))


def open_source(config: RunConfig, content: Path | None) -> Source:
    """Find and check the source that the settings name.

    Args:
        config: the settings of the run.
        content: the file of `content`; None with `source=camera`.

    Raises:
        InputError: if the video cannot be read, or the camera cannot be opened.
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
    """Return which frames of a video the settings select."""
    from nst_exp.media.video import Cut

    return Cut(config.video.start, config.video.end, config.video.every)


def _fitted(stored: tuple[int, int], config: RunConfig, *, encoded: bool) -> tuple[int, int]:
    return fitted_size(stored, config.size, config.aspect, even=encoded and CODECS[config.video.codec].even)


def _check_frame_size(named: str, config: RunConfig, size: tuple[int, int], sides: int, least: int) -> None:
    """Refuse frames that are too small, or of which the codec cannot write `sides` side by side."""
    from nst_exp.media.video_writer import check_writable

    codec, frames = config.video.codec, f"{size[0]}x{size[1]} px"
    if min(size) < least:
        raise InputError(
            f"{named}: at size={config.size} its frames would be {frames}, at least {least} px needed on the short side"
        )
    if min(size) < CODECS[codec].least:
        raise InputError(f"video.codec={codec}: frames of {frames}, at least {CODECS[codec].least} px needed")
    check_writable(codec, (sides * size[0], size[1]))
