"""Read the pictures of a sweep once: large for the page, and small for the contact sheet and plots."""

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

_LONGEST = 2048  # px, the longest side of a picture in the page
_LEAST = 1024  # px, the least that the longest side is limited to where a sweep has many pictures
_PAGE_PIXELS = 100e6  # all pictures of the page together, about 60 MB
_SMALL = 512  # px, the longest side of a thumbnail
_QUALITY = 92  # of JPEG; colours have full resolution because brush strokes are small


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Attributes:
        jpeg: the content of a JPEG file, for the page.
        size: width and height of that in px.
        small: the picture with a longest side of at most 512 px, for the contact sheet and plots.
    """

    jpeg: bytes
    size: tuple[int, int]
    small: Image.Image

    @property
    def shape(self) -> float:
        """The height divided by the width."""
        return self.size[1] / self.size[0]


@dataclass(frozen=True)
class Gallery:
    """All pictures of a sweep.

    Attributes:
        runs: the pictures of runs by number, without runs that have no readable picture.
        inputs: photographs and paintings by their address in the configuration; None if not on this machine.
    """

    runs: Mapping[int, Picture]
    inputs: Mapping[str, Picture | None]


def read_gallery(sweep: Sweep) -> Gallery:
    """Read the pictures of all runs and their inputs; missing and damaged pictures are left out."""
    count = max(1, len(sweep.points))
    longest = round(min(_LONGEST, max(_LEAST, math.sqrt(_PAGE_PIXELS / count))))
    runs = {point.number: picture for point in sweep.points if (picture := _of_run(point, longest))}
    largest = max((max(picture.size) for picture in runs.values()), default=0)
    inputs = {address: _input(address, max(_LEAST, largest)) for address in input_addresses(sweep)}
    return Gallery(runs, inputs)


def input_addresses(sweep: Sweep) -> dict[str, str]:
    """Return the addresses of all photographs and paintings, with `content` or `style` for each."""
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
    except (OSError, Image.DecompressionBombError):  # missing or damaged; the table still lists the run
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
