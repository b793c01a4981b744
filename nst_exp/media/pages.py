"""The main picture of a TIFF file with several; camera raw files, which have none, are recognised."""

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

# How camera raw files begin that are no TIFF files, or are TIFF files but for these bytes.
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
    """Whether a file that begins with `head` is a camera raw file; those that are TIFF files need `read_pages`."""
    return any(head[start:].startswith(magic) for start, magic in _RAW_HEADS)


class CameraRawError(Exception):
    """The file holds what a camera's sensor has measured, and at most a preview as a picture."""


@dataclass(frozen=True)
class _Page:
    """A picture of a TIFF file: a page, or a child (SubIFD) of one.

    Attributes:
        place: the page's index, or the child's offset in bytes.
    """

    tags: Mapping[int, Any]
    place: int

    @property
    def full(self) -> bool:
        """Whether it is a picture at full size, neither a thumbnail nor a mask."""
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
    """What the directories of a TIFF file say, read without its pixels; None if it is no TIFF file.

    Directories that cannot be read are left out, for a picture may do without them.

    Raises:
        CameraRawError: if the file is a camera raw file.
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
    """The pages of a TIFF file, and their children."""

    _pages: Sequence[_Page]
    _children: Sequence[_Page]

    @property
    def full(self) -> int:
        """The number of pages at full size."""
        return sum(page.full for page in self._pages)

    def main(self, image: ImageFile.ImageFile) -> ImageFile.ImageFile:
        """The main picture of the file that is opened as `image`, not decoded yet.

        That is the first page at full size; if all pages are thumbnails, their largest child at full size, as in
        TIFF/EP files; and if there is none, the largest page.
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
    """The child at `offset`, read from a copy of the file whose header points to it."""
    file = image.fp
    assert file is not None
    file.seek(0)
    content = bytearray(file.read())
    first = slice(8, 16) if content[:4] in _BIG_HEADS else slice(4, 8)
    content[first] = offset.to_bytes(first.stop - first.start, "little" if content[:2] == b"II" else "big")
    return PillowImage.open(io.BytesIO(content), formats=("TIFF",))
