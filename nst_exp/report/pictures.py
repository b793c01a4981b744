"""The pictures of a sweep: each file is read once, for the page at full size and small for sheets and plots."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nst_exp.errors import InputError
from nst_exp.media.image import locate, read_image, to_uint8
from nst_exp.media.kind import kind_of
from nst_exp.report.points import Point, Sweep

_LONGEST = 2048  # px of a picture in the page
_LEAST = 1024  # px, to which a long sweep's pictures may have to shrink
_PAGE_PIXELS = 100e6  # of all pictures in the page: some 60 MB
_SMALL = 512  # px of a thumbnail
_QUALITY = 92  # of JPEG, with colours at full resolution: brush strokes are small


@dataclass(frozen=True)
class Picture:
    """A picture as JPEG, its size, and a small one of at most `_SMALL` px."""

    jpeg: bytes
    size: tuple[int, int]
    small: Image.Image

    @property
    def shape(self) -> float:
        """Height over width."""
        return self.size[1] / self.size[0]


@dataclass(frozen=True)
class Gallery:
    """All pictures of a sweep.

    Attributes:
        runs: by the run's number; a run without a readable picture has none.
        inputs: photographs and paintings by their address in the configuration, None if not on this machine.
    """

    runs: Mapping[int, Picture]
    inputs: Mapping[str, Picture | None]


def read_gallery(sweep: Sweep) -> Gallery:
    """Read every picture there is; what cannot be read is left out."""
    count = max(1, len(sweep.points))
    longest = round(min(_LONGEST, max(_LEAST, math.sqrt(_PAGE_PIXELS / count))))
    runs = {point.number: picture for point in sweep.points if (picture := _of_run(point, longest))}
    largest = max((max(picture.size) for picture in runs.values()), default=0)
    inputs = {address: _input(address, max(_LEAST, largest)) for address in input_addresses(sweep)}
    return Gallery(runs, inputs)


def input_addresses(sweep: Sweep) -> dict[str, str]:
    """The photographs and paintings of all runs, by address: `content` or `style`."""
    return {
        str(point.settings[name]): name
        for name in ("content", "style")
        for point in sweep.points
        if point.settings.get(name) is not None
    }


def _of_run(point: Point, longest: int) -> Picture | None:
    if point.picture is None:
        return None
    try:
        with Image.open(point.picture) as file:
            return _picture(file.convert("RGB"), longest)
    except (OSError, Image.DecompressionBombError):  # gone or damaged: the table still tells of the run
        return None


def _input(address: str, longest: int) -> Picture | None:
    try:
        path = locate(address)
        if kind_of(path) == "video":
            return _picture(_first_frame(path), longest)
        with Image.open(path) as file:
            size = min(longest, max(file.size))
        pixels = read_image(path, size=size, aspect="keep", smallest_side=1, name="picture")
    except (InputError, OSError):
        return None
    return _picture(Image.fromarray(to_uint8(pixels)), longest)


def _first_frame(path: Path) -> Image.Image:
    from nst_exp.media.video import Cut, probe, read_frames

    frames = read_frames(probe(path, "content"), Cut(end=1), on_corrupt="skip", name="content")
    return Image.fromarray(next(frames).levels)


def _picture(image: Image.Image, longest: int) -> Picture:
    full = _shrunk(image, longest)
    content = io.BytesIO()
    full.save(content, "JPEG", quality=_QUALITY, subsampling=0)
    return Picture(content.getvalue(), full.size, _shrunk(full, _SMALL))


def _shrunk(image: Image.Image, longest: int) -> Image.Image:
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
