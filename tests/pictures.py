"""Writes unusual picture files: `make(name, folder)` writes one and returns its path.

`READABLE` and `REFUSED` list the names. Unless their name says otherwise, readable pictures have 96x64 px and
the four `QUADRANTS`, which are large and flat so that they can be compared after lossy compression and rotation.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

WIDTH, HEIGHT = 96, 64
# top left, top right, bottom left, bottom right
QUADRANTS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128))
GREYS = (0, 85, 170, 255)


def make(name: str, folder: Path) -> Path:
    """Write the picture `name` into `folder`."""
    return (READABLE | REFUSED)[name](folder)


def quadrants(colours: tuple[Any, ...], dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    """An array (HEIGHT, WIDTH) or (HEIGHT, WIDTH, C) with one of four colours in each quarter."""
    corners = np.array(colours, dtype).reshape((2, 2, *np.shape(colours[0])))
    return corners.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1)


def colour_picture() -> Image.Image:
    return Image.fromarray(quadrants(QUADRANTS))


def grey_picture() -> Image.Image:
    return Image.fromarray(quadrants(GREYS))


def png_bytes(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG of a kind that Pillow cannot write; each of the raw `rows` begins with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    body = b"".join(_png_chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def swapped_profile() -> bytes:
    """An RGB profile whose red primary is sRGB's green, and whose green primary is sRGB's red."""
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    tags = {b"rXYZ": _xyz(*green), b"gXYZ": _xyz(*red), b"bXYZ": _xyz(*blue)}
    tags |= {kind: _gamma(2.2) for kind in (b"rTRC", b"gTRC", b"bTRC")}
    return _icc(b"RGB ", tags)


def linear_grey_profile() -> bytes:
    """A grey profile whose values are proportional to light."""
    return _icc(b"GRAY", {b"kTRC": _gamma(1.0)})


def _icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC version 2 display profile (ICC.1:2001-04, section 6)."""
    tags = {b"wtpt": _xyz(0.9642, 1.0, 0.8249), **tags}
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for kind, content in tags.items():
        table += struct.pack(">4sII", kind, start + len(data), len(content))
        data += content
    size = start + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"", 0x02100000, b"mntr", space, b"XYZ ")
    header = header.ljust(36, b"\0") + b"acsp" + bytes(28) + _xyz(0.9642, 1.0, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + data


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _saved(filename: str, picture: Callable[[], Image.Image], **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / filename
        picture().save(path, **options)
        return path

    return write


def _written(filename: str, content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / filename
        path.write_bytes(content())
        return path

    return write


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _noise() -> Image.Image:
    """A picture that is hard to compress, so that half of the file is half of the picture."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def _zero_tail() -> bytes:
    content = _encoded(_noise(), "JPEG")
    return _half(content).ljust(len(content), b"\0")


def _bad_checksum() -> bytes:
    content = bytearray(_encoded(_noise(), "PNG", compress_level=0))
    content[len(content) // 2] ^= 1
    return bytes(content)


def _with_alpha(mode: str) -> Image.Image:
    """A picture that is opaque at the top and transparent at the bottom."""
    picture = grey_picture() if mode == "LA" else colour_picture()
    picture.putalpha(Image.fromarray(quadrants((255, 255, 0, 0))))
    return picture


def _palette() -> Image.Image:
    picture = Image.new("P", (WIDTH, HEIGHT))
    picture.putdata([int(index) for index in quadrants((0, 1, 2, 3)).ravel()])
    picture.putpalette([level for colour in QUADRANTS for level in colour])
    return picture


def _grey16() -> Image.Image:
    return Image.fromarray(quadrants((0, 1000, 33333, 65535), np.uint16))


def _rgb16(alpha: bool) -> bytes:
    levels = quadrants(QUADRANTS).astype(">u2") * 257
    if alpha:
        levels = np.concatenate([levels, quadrants((65535, 65535, 0, 0), np.dtype(">u2"))[..., None]], axis=2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return png_bytes(WIDTH, HEIGHT, 16, 6 if alpha else 2, rows)


def _lab() -> Image.Image:
    srgb, cielab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(colour_picture(), srgb, cielab, outputMode="LAB")
    assert lab is not None
    return lab


def _bits() -> Image.Image:
    return Image.fromarray(quadrants((0, 255, 255, 0))).convert("1")


def _float(values: tuple[float, ...]) -> Callable[[], Image.Image]:
    return lambda: Image.fromarray(quadrants(values, np.float32))


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def _stored_as(orientation: int) -> Callable[[], Image.Image]:
    """The picture as a camera stores it if `orientation` turns it upright again."""
    turn = Image.Transpose
    undo = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    return lambda: colour_picture().transpose(undo[orientation]) if orientation > 1 else colour_picture()


def _frames(filename: str) -> Callable[[Path], Path]:
    others = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("black", "white")]
    return _saved(filename, colour_picture, save_all=True, append_images=others)


def _flat(width: int, height: int) -> Callable[[], Image.Image]:
    return lambda: Image.new("RGB", (width, height), (200, 100, 50))


def _oversized(width: int, height: int) -> Callable[[], bytes]:
    """A file whose header states a far larger picture than its data holds."""
    return lambda: png_bytes(width, height, 8, 2, bytes(1000))


def _missing(folder: Path) -> Path:
    return folder / "missing.jpg"


def _directory(folder: Path) -> Path:
    path = folder / "folder.jpg"
    path.mkdir(exist_ok=True)
    return path


READABLE: dict[str, Callable[[Path], Path]] = {
    "jpeg": _saved("jpeg.jpg", colour_picture, quality=95),
    "jpeg_progressive": _saved("progressive.jpg", colour_picture, quality=95, progressive=True),
    "jpeg_named_png": _saved("really_a.png", colour_picture, format="JPEG", quality=95),
    "png": _saved("png.png", colour_picture),
    "webp": _saved("webp.webp", colour_picture, lossless=True),
    "bmp": _saved("bmp.bmp", colour_picture),
    "ppm": _saved("ppm.ppm", colour_picture),
    "tiff": _saved("tiff.tif", colour_picture, compression="tiff_lzw"),
    "tiff_ycbcr": _saved("ycbcr.tif", lambda: colour_picture().convert("YCbCr")),
    "tiff_rotated": _saved("rotated.tif", _stored_as(6), exif=exif(6)),
    "tiff_pages": _frames("pages.tif"),
    "lab": _saved("lab.tif", _lab),
    "grey": _saved("grey.png", grey_picture),
    "grey_jpeg": _saved("grey.jpg", grey_picture, quality=95),
    "grey_alpha": _saved("grey_alpha.png", lambda: _with_alpha("LA")),
    "rgba": _saved("rgba.png", lambda: _with_alpha("RGBA")),
    "colour_key": _saved("colour_key.png", colour_picture, transparency=(0, 0, 255)),
    "palette": _saved("palette.png", _palette),
    "palette_transparent": _saved("palette_transparent.png", _palette, transparency=2),
    "palette_alphas": _saved("palette_alphas.png", _palette, transparency=bytes((255, 255, 0, 0))),
    "gif": _saved("gif.gif", _palette),
    "gif_animated": _frames("animated.gif"),
    "one_bit": _saved("one_bit.png", _bits),
    "grey16": _saved("grey16.png", _grey16),
    "grey16_tiff": _saved("grey16.tif", _grey16),
    "grey16_ppm": _saved("grey16.pgm", _grey16),
    "rgb16": _written("rgb16.png", lambda: _rgb16(alpha=False)),
    "rgba16": _written("rgba16.png", lambda: _rgb16(alpha=True)),
    "float": _saved("float.tif", _float((0.0, 0.25, 0.5, 1.0))),
    "cmyk": _saved("cmyk.jpg", lambda: colour_picture().convert("CMYK"), quality=95),
    **{
        f"exif{number}": _saved(f"exif{number}.jpg", _stored_as(number), quality=95, exif=exif(number))
        for number in range(1, 9)
    },
    "exif_corrupt": _saved("exif_corrupt.jpg", colour_picture, quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
    "icc_swapped": _saved("icc_swapped.png", colour_picture, icc_profile=swapped_profile()),
    "icc_linear_grey": _saved("icc_linear.png", grey_picture, icc_profile=linear_grey_profile()),
    "icc_grey_in_rgb": _saved("icc_grey_in_rgb.png", grey_picture, icc_profile=swapped_profile()),
    "icc_broken": _saved("icc_broken.png", colour_picture, icc_profile=b"no profile at all"),
    "icc_misfit": _saved("icc_misfit.png", colour_picture, icc_profile=linear_grey_profile()),
    "sixty_megapixels_jpeg": _saved("60mp.jpg", _flat(10000, 6000)),
    "sixty_megapixels_png": _saved("60mp.png", _flat(10000, 6000), compress_level=1),
}
REFUSED: dict[str, Callable[[Path], Path]] = {
    "missing": _missing,
    "directory": _directory,
    "empty": _written("empty.jpg", lambda: b""),
    "text": _written("text.jpg", lambda: b"These are words, not pixels.\n" * 40),
    "truncated_jpeg": _written("truncated.jpg", lambda: _half(_encoded(_noise(), "JPEG"))),
    "truncated_progressive": _written(
        "truncated_progressive.jpg", lambda: _half(_encoded(_noise(), "JPEG", progressive=True))
    ),
    "truncated_png": _written("truncated.png", lambda: _half(_encoded(_noise(), "PNG"))),
    "png_without_end": _written("no_end.png", lambda: _encoded(_noise(), "PNG")[:-12]),
    "zero_tail_jpeg": _written("zero_tail.jpg", _zero_tail),
    "bad_checksum_png": _written("bad_checksum.png", _bad_checksum),
    "float_range": _saved("float_range.tif", _float((0.0, 1.0, 2.0, 255.0))),
    "float_nan": _saved("float_nan.tif", _float((0.0, 1.0, 0.5, float("nan")))),
    "integers32": _saved("integers32.tif", lambda: Image.fromarray(quadrants((0, 1, 2, 70000), np.int32))),
    "one_pixel": _saved("one_pixel.png", _flat(1, 1)),
    "strip": _saved("strip.png", _flat(5, 5000)),
    "bomb": _written("bomb.png", _oversized(100_000, 100_000)),
    "over_limit": _written("over_limit.png", _oversized(15_000, 15_000)),
}
