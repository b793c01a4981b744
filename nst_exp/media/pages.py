"""Selection of the main image of a TIFF file with several pages, and detection of camera raw files.

A camera raw file holds sensor data instead of a finished image, and is therefore refused.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image as PillowImage
from PIL import ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# Tags of TIFF 6.0, TIFF/EP (ISO 12234-2) and DNG 1.7.
_WIDTH, _HEIGHT, _KIND, _OLD_KIND, _PHOTOMETRIC, _CHILDREN, _DNG_VERSION = 256, 257, 254, 255, 262, 330, 50706
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED = 2  # of SubfileType
_SENSOR = (32803, 34892)  # colour filter array, linear raw
_TRANSPARENCY = 4
_BIG_HEADS = (b"II+\0", b"MM\0+")
_TIFF_HEADS = (b"II*\0", b"MM\0*", *_BIG_HEADS)

# Offset and bytes that identify camera raw files which are not TIFF files, or are TIFF files except for these bytes.
_RAW_HEADS = (
    (0, b"IIRO"),  # ORF
    (0, b"IIRS"),
    (0, b"MMOR"),
    (0, b"IIU\0"),  # RW2
    (0, b"FUJIFILMCCD-RAW"),  # RAF
    (0, b"FOVb"),  # X3F
    (0, b"\0MRM"),  # MRW
    (4, b"ftypcrx "),  # CR3
    (6, b"HEAPCCDR"),  # CRW
    (8, b"CR\x02"),  # CR2
)


def is_camera_raw(head: bytes) -> bool:
    """Return whether a file is a camera raw file.

    Raw files that are also TIFF files are not detected here but by `read_pages`.

    Args:
        head: The first bytes of the file; 16 are enough.
    """
    return any(head[start:].startswith(magic) for start, magic in _RAW_HEADS)


class CameraRawError(Exception):
    """Raised if a file holds sensor data of a camera and, as an image, at most a preview."""


@dataclass(frozen=True)
class _Page:
    """An image of a TIFF file: a page, or a child (SubIFD) of a page.

    Attributes:
        tags: The values of the image's TIFF tags.
        place: The page's index, or the child's offset in bytes.
    """

    tags: Mapping[int, Any]
    place: int

    @property
    def full(self) -> bool:
        """Whether this is an image at full size, neither a thumbnail nor a mask."""
        other = int(self.tags.get(_KIND, 0)) & (_REDUCED | _MASK)
        return not (other or self.tags.get(_OLD_KIND) == _OLD_REDUCED or self._photometric == _TRANSPARENCY)

    @property
    def raw(self) -> bool:
        return self._photometric in _SENSOR or _DNG_VERSION in self.tags

    @property
    def pixels(self) -> int:
        return math.prod(int(self.tags.get(tag, 0)) for tag in (_WIDTH, _HEIGHT))

    @property
    def _photometric(self) -> int | None:
        return self.tags.get(_PHOTOMETRIC)


def read_pages(file: BinaryIO) -> Pages | None:
    """Read the directories of a TIFF file, without its pixels.

    Directories that cannot be read are skipped, because the image may not need them.

    Returns:
        The pages; None if the file is not a TIFF file.

    Raises:
        CameraRawError: If the file is a camera raw file.
    """
    file.seek(0)
    header = file.read(16)
    if header[:4] not in _TIFF_HEADS:
        return None
    header = header if header[:4] in _BIG_HEADS else header[:8]
    pages: list[_Page] = []
    children: list[_Page] = []
    seen: set[int] = set()
    offset = ImageFileDirectory_v2(header).next
    while offset and offset not in seen:
        seen.add(offset)
        directory = _directory_at(file, header, offset)
        if directory is None:
            break
        pages.append(_Page(dict(directory), len(pages)))
        below = directory.get(_CHILDREN, ())
        for place in below if isinstance(below, tuple) else (below,):
            child = _directory_at(file, header, place)
            if child:
                children.append(_Page(dict(child), place))
        offset = directory.next
    if any(page.raw for page in (*pages, *children)):
        raise CameraRawError
    return Pages(pages, children)


@dataclass(frozen=True)
class Pages:
    """The pages of a TIFF file and their children."""

    _pages: Sequence[_Page]
    _children: Sequence[_Page]

    @property
    def full(self) -> int:
        """The number of pages at full size."""
        return sum(page.full for page in self._pages)

    def main(self, image: ImageFile.ImageFile) -> ImageFile.ImageFile:
        """Select the main image of the file.

        It is the first page at full size. If all pages are thumbnails, it is their largest child at full size, as in
        TIFF/EP files. If there is no such child, it is the largest page.

        Args:
            image: The file, opened by Pillow.

        Returns:
            The main image, not decoded yet.
        """
        full = [page for page in self._pages if page.full]
        child = max((page for page in self._children if page.full), key=lambda page: page.pixels, default=None)
        if not full and child is not None:
            return _child(image, child.place)
        image.seek(full[0].place if full else max(self._pages, key=lambda page: page.pixels).place)
        return image


def _directory_at(file: BinaryIO, header: bytes, offset: int) -> ImageFileDirectory_v2 | None:
    try:
        directory = ImageFileDirectory_v2(header)
        file.seek(offset)
        directory.load(file)
        dict(directory)  # decodes the values
    except Exception:  # Pillow raises a dozen kinds of exceptions on broken bytes
        return None
    return directory


def _child(image: ImageFile.ImageFile, offset: int) -> ImageFile.ImageFile:
    """Open the child at `offset`, from a copy of the file whose header points to it."""
    file = image.fp
    assert file is not None
    file.seek(0)
    content = bytearray(file.read())
    first = slice(8, 16) if content[:4] in _BIG_HEADS else slice(4, 8)
    content[first] = offset.to_bytes(first.stop - first.start, "little" if content[:2] == b"II" else "big")
    return PillowImage.open(io.BytesIO(content), formats=("TIFF",))
