"""Sound files of which Pillow opens the wrong picture or none.

The kinds of fault: the first picture of a file is taken for its main one, although it is a thumbnail, a mask or the
preview of a camera raw file; a file is refused because of a limit of the library that does not concern the picture.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from command import run_in_process
from PIL import Image, PngImagePlugin

from nst_exp.commands.process import _limit_pictures
from nst_exp.errors import InputError
from nst_exp.media.image import read_image
from nst_exp.media.kind import kind_of

FULL, REDUCED, MASK = 0, 1, 4
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
Picture = tuple[int, tuple[int, int, int], dict[int, int]]  # side in px, colour, other tags


def tiff(pages: Sequence[Picture], children: Sequence[Picture] = (), order: str = "<") -> bytes:
    """A TIFF file of plain RGB pictures; `children` belong to the first page (SubIFD)."""
    content = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 0))

    def add(picture: Picture, offsets: list[int]) -> tuple[int, int]:
        side, colour, further = picture
        pixels = len(content)
        content.extend(bytes(colour) * side**2)
        lists = {258: (3, [8, 8, 8]), 330: (4, offsets)}
        tags = {256: side, 257: side, 259: 1, 262: 2, 273: pixels, 277: 3, 278: side, 279: 3 * side**2} | further
        entries = {tag: (4, [value]) for tag, value in tags.items()} | {k: v for k, v in lists.items() if v[1]}
        packed = b""
        for tag, (kind, values) in sorted(entries.items()):
            data = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
            if len(data) > 4:
                place = len(content)
                content.extend(data)
                data = struct.pack(order + "I", place)
            packed += struct.pack(order + "HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
        content.extend(bytes(len(content) % 2))
        start = len(content)
        content.extend(struct.pack(order + "H", len(entries)) + packed + bytes(4))
        return start, len(content) - 4

    offsets = [add(child, [])[0] for child in children]
    link = 4
    for index, page in enumerate(pages):
        start, following = add(page, [] if index else offsets)
        struct.pack_into(order + "I", content, link, start)
        link = following
    return bytes(content)


def read(path: Path) -> tuple[int, int, int]:
    image = read_image(path, size=64, aspect="keep", smallest_side=1, name="content")
    red, green, blue = np.rint(image[0, 32, 32] * 255)
    return int(red), int(green), int(blue)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("pages", "children"),
    [
        ([(64, GREEN, {}), (64, RED, {})], []),
        ([(16, RED, {254: REDUCED}), (64, GREEN, {254: FULL})], []),
        ([(16, RED, {255: 2}), (64, GREEN, {255: 1})], []),
        ([(64, RED, {254: MASK}), (64, GREEN, {})], []),
        ([(16, RED, {254: REDUCED})], [(64, GREEN, {}), (32, BLUE, {})]),
        ([(16, RED, {254: REDUCED})], [(32, BLUE, {254: REDUCED}), (64, GREEN, {254: FULL})]),
        ([(64, GREEN, {})], [(32, RED, {254: REDUCED}), (16, BLUE, {254: REDUCED})]),
        ([(16, RED, {254: REDUCED}), (64, GREEN, {254: REDUCED})], []),
        ([(64, GREEN, {330: 10**6})], []),
    ],
    ids=["pages", "thumbnail", "old_thumbnail", "mask", "child", "children", "pyramid", "thumbnails", "lost_child"],
)
def test_the_main_picture_of_a_tiff_is_read(
    pages: list[Picture], children: list[Picture], order: str, tmp_path: Path
) -> None:
    path = tmp_path / "picture.tif"
    path.write_bytes(tiff(pages, children, order))
    assert read(path) == GREEN


def test_further_pages_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "document.tif"
    path.write_bytes(tiff([(64, GREEN, {}), (64, RED, {}), (16, RED, {254: REDUCED})]))
    with caplog.at_level(logging.INFO):
        assert read(path) == GREEN
    assert "has 2 pages: the first is taken" in caplog.text


RAW = {
    "child.NEF": tiff([(16, RED, {254: REDUCED})], [(64, GREEN, {262: 32803})]),
    "first.PEF": tiff([(64, GREEN, {262: 32803})]),
    "linear.dng": tiff([(16, RED, {254: REDUCED})], [(64, GREEN, {262: 34892})]),
    "page.ARW": tiff([(64, RED, {}), (64, GREEN, {262: 32803})], order=">"),
    "preview.dng": tiff([(64, RED, {50706: 0x0104})]),
    "x.CR2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(500),
    "x.ORF": b"IIRO" + bytes(500),
    "x.RW2": b"IIU\0" + bytes(500),
    "x.RAF": b"FUJIFILMCCD-RAW 0201" + bytes(500),
    "x.CR3": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(500),
}


@pytest.mark.parametrize("name", RAW)
def test_camera_raw_files_are_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(RAW[name])
    assert kind_of(path) == "image"
    with pytest.raises(InputError, match=r"is a camera raw file.*: develop it to PNG or TIFF first"):
        read(path)


def _noise() -> bytes:
    return np.random.default_rng(0).bytes(3_000_000)


@pytest.mark.parametrize("what", ["profile", "zTXt", "iTXt", "many"])
def test_long_profiles_and_texts_do_not_matter(what: str, tmp_path: Path) -> None:
    path, text = tmp_path / "picture.png", PngImagePlugin.PngInfo()
    if what == "many":
        for _ in range(70):
            text.add_text("Comment", "x" * 1_000_000, zip=True)
    elif what != "profile":
        add = text.add_text if what == "zTXt" else text.add_itxt
        add("History", "x" * 3_000_000, zip=True)
    profile = _noise() if what == "profile" else None
    Image.new("RGB", (64, 64), GREEN).save(path, pnginfo=text, icc_profile=profile)
    assert read(path) == GREEN


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_large_pictures_pass_without_a_warning(tmp_path: Path) -> None:
    """Pillow warns above 89 megapixels; warnings are errors in tests, so the limit that commands set must hold."""
    Image.new("1", (9_500, 9_500), 1).save(tmp_path / "large.png")
    with warnings.catch_warnings(), mock.patch.object(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS):
        _limit_pictures()
        assert kind_of(tmp_path / "large.png") == "image"
        assert read(tmp_path / "large.png") == (255, 255, 255)


def test_absurd_pictures_are_refused_in_one_line(tmp_path: Path) -> None:
    """The command refuses 2500 megapixels after reading only the header."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")
    (tmp_path / "absurd.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    refused = run_in_process("content=absurd.png", folder=tmp_path)
    assert refused.code == 1
    assert "2500 megapixels, at most 200" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
