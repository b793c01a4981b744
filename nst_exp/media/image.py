"""Reading and writing of images.

Any common file format is read into float32 sRGB pixels in [0, 1], and images are written as 8-bit PNG.

Pillow does both. Reading needs features that `imageio` does not expose: EXIF orientation, colour profiles, CMYK, a size
limit that is checked before decoding, and a JPEG decoder that shrinks while it decodes. Writing needs text chunks, and
the same bytes for the same pixels. `imageio` only makes the images of the live page.

Keep imports of this module fast: inputs are checked before JAX is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, ImageCms, ImageFile, PngImagePlugin, UnidentifiedImageError
from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from nst_exp.errors import InputError
from nst_exp.files import home_expanded, write_atomically
from nst_exp.media.pages import CameraRawError, is_camera_raw, read_pages
from nst_exp.media.sizes import scaled_size

Pixels = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]

# Decoding takes 4 bytes per pixel, at worst 9 (measured), so 200 megapixels take less than 2 GB. The largest cameras on
# sale have 150 megapixels.
MAX_MEGAPIXELS = 200

# Maximum size, in bytes, of a PNG's unpacked profile and text. Printer profiles and edit histories take megabytes.
_MAX_TEXT = 500_000_000

# Formats that Pillow decodes by itself. Others would start programs (EPS) or have no recognisable first bytes (TGA).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_HEIF_REMEDY = "convert it to JPEG first, for example with: heif-convert PICTURE.heic PICTURE.jpg"
# The JPEG decoder or a box filter may shrink an image to this multiple of the target size, and Lanczos does the rest.
# From 3 on, the result is indistinguishable from Lanczos alone (Pillow's documentation of `reducing_gap`).
_GAP = 3
# An image that is one pixel wide has no texture, even if the network would accept it.
_MIN_SIDE = 2
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_COLOUR_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "LAB")
# EXIF orientation -> steps through rows and columns. From 5 on, rows and columns are swapped first.
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}

_RAW_REMEDY = "{} is a camera raw file, which is not read here: develop it to PNG or TIFF first"

_log = logging.getLogger(__name__)


def locate(address: str) -> Path:
    """Find the file that an address names.

    Args:
        address: A path, where `~` stands for the home folder, or `pkg://PACKAGE/inner/path.jpg` for a file that ships
            with an installed top-level package. The package is not imported.

    Returns:
        The path of an existing regular file.

    Raises:
        InputError: If there is no such file, if it is a directory, or if the package is not installed.
    """
    path = _in_package(address) if address.startswith("pkg://") else home_expanded(address)
    refusal = _refusal(path)
    if refusal:
        raise InputError(f"{address!r}: {refusal}")
    return path


def read_image(path: Path, *, size: int, aspect: str, smallest_side: int | None, name: str) -> Pixels:
    """Read an image as upright sRGB pixels, resized to the requested size.

    Transparency is composited over white. Colour profiles are converted to sRGB; a profile that is broken or does not
    fit is ignored with a warning in the log. If the file has several full-size frames or pages, the first one is read.
    16-bit grey keeps its depth, whereas 16-bit colour is read at 8 bits. An image that already has the requested size
    is not resampled.

    Args:
        path: The file to read.
        size: Length, in px, of the longer side (`aspect="keep"`) or of both sides (`aspect="stretch"`).
        aspect: One of `sizes.ASPECTS`.
        smallest_side: Minimum height and width, in px, both of the file and after resizing. None accepts any shape; a
            side that would then be shorter than 2 px becomes 2 px long.
        name: The config key that `path` comes from, for messages.

    Returns:
        Pixels in [0, 1], float32 (1, H, W, 3).

    Raises:
        InputError: If the file is missing, unreadable, truncated, too large or too small.

    Example:
        >>> path = locate("pkg://sklearn/datasets/images/flower.jpg")
        >>> image = read_image(path, size=256, aspect="keep", smallest_side=None, name="content")
        >>> image.shape
        (1, 171, 256, 3)
    """
    subject = f"{name}={str(path)!r}"
    with _opened(path, subject) as file, _pillow_settings():
        image = _identified(file, subject)
        width, height = target = _target_size(image.size, size, aspect)
        if smallest_side is None:
            target = max(width, _MIN_SIDE), max(height, _MIN_SIDE)
        else:
            _check_sides(image.size, target, size, smallest_side, subject)
        box = _decode(image, target, subject)
        orientation = _orientation(image, subject)
        deep = image.mode in _DEEP_MODES
        pixels = (_deep_grey if deep else _colour)(image, target, box, subject)
    return _upright(pixels, orientation)[np.newaxis]


def write_image(path: Path, image: npt.ArrayLike, *, text: Mapping[str, str] = {}) -> None:
    """Write an image as an 8-bit sRGB PNG.

    The file is written atomically. The same pixels and text always give the same bytes.

    Args:
        path: The file to write.
        image: Pixels, (1, H, W, 3) or (H, W, 3). Values are clipped to [0, 1].
        text: PNG text chunks. Keys have 1 to 79 characters of Latin-1.

    Raises:
        InputError: If the file cannot be written.
        ValueError: If `image` has NaN pixels or another shape.
    """
    write_levels(path, to_uint8(image), text=text)


def write_levels(path: Path, levels: npt.NDArray[np.uint8], *, text: Mapping[str, str] = {}) -> None:
    """Write 8-bit levels as a PNG, in the same way as `write_image`.

    Args:
        path: The file to write.
        levels: sRGB levels 0 to 255, uint8 (H, W, 3).
        text: PNG text chunks. Keys have 1 to 79 characters of Latin-1.

    Raises:
        InputError: If the file cannot be written.
    """
    write_atomically(path, _png(levels, text))


def to_uint8(image: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Convert pixels to 8-bit levels.

    Args:
        image: Pixels, (1, H, W, 3) or (H, W, 3). Values are clipped to [0, 1].

    Returns:
        Levels 0 to 255, rounded to the nearest, uint8 (H, W, 3).

    Raises:
        ValueError: If `image` has NaN pixels or another shape.
    """
    pixels = np.asarray(image, dtype=np.float32)
    if pixels.ndim == 4 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"image has shape {np.shape(image)}, must be (1, H, W, 3) or (H, W, 3)")
    if np.isnan(pixels).any():
        raise ValueError("image has NaN pixels")
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def from_uint8(levels: npt.NDArray[np.uint8]) -> Pixels:
    """Convert 8-bit levels, uint8 (H, W, 3), to pixels in [0, 1], float32 (1, H, W, 3)."""
    return (levels[np.newaxis] / np.float32(255)).astype(np.float32)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: If the file cannot be read.
    """
    subject = repr(str(path))
    with _opened(path, subject) as file, _as_input_error(subject):
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_heif(head: bytes) -> bool:
    """Return whether a file is a HEIC image, as phones take them (ISO/IEC 23008-12).

    Args:
        head: The first bytes of the file; 64 are enough.
    """
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[8:64]


def _in_package(address: str) -> Path:
    package, _, inner = address.removeprefix("pkg://").partition("/")
    inside = PurePosixPath(inner)
    if not package.isidentifier() or not inner or inside.is_absolute() or ".." in inside.parts:
        raise InputError(f"{address!r}: must be pkg://PACKAGE/inner/path")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{address!r}: package {package!r} is not installed")
    return Path(spec.submodule_search_locations[0], inside)


def _refusal(path: Path) -> str | None:
    """Return why `path` cannot be a file to read from; None if it is a regular file."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        return _reason(error)
    if stat.S_ISDIR(mode):
        return "it is a directory"
    return None if stat.S_ISREG(mode) else "it is not a regular file"


def _reason(error: Exception) -> str:
    """Describe an error in a few words on one line, without the path that Python appends."""
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture of a known kind ({', '.join(FORMATS)})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


@contextlib.contextmanager
def _opened(path: Path, subject: str) -> Iterator[io.BufferedReader]:
    refusal = _refusal(path)
    if refusal:
        raise InputError(f"{subject} cannot be read: {refusal}")
    try:
        file = path.open("rb")
    except OSError as error:  # no permission
        raise InputError(f"{subject} cannot be read: {_reason(error)}") from error
    with file:
        yield file


@contextlib.contextmanager
def _pillow_settings() -> Iterator[None]:
    """Apply the process-wide settings of Pillow that this module needs, and restore the old ones on exit.

    The module has its own size limits, because Pillow refuses profiles and text of more than 1 MB. Truncated files are
    never accepted, although some libraries enable that for the whole process. Pillow's warnings, for instance about
    corrupt EXIF data, do not reach the user: everything that matters is raised or logged.
    """
    settings: dict[tuple[ModuleType, str], object] = {
        (PillowImage, "MAX_IMAGE_PIXELS"): None,
        (ImageFile, "LOAD_TRUNCATED_IMAGES"): False,
        (PngImagePlugin, "MAX_TEXT_CHUNK"): _MAX_TEXT,
        (PngImagePlugin, "MAX_TEXT_MEMORY"): _MAX_TEXT,
    }
    before = {(module, name): getattr(module, name) for module, name in settings}
    try:
        _set(settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _set(before)


def _set(settings: Mapping[tuple[ModuleType, str], object]) -> None:
    for (module, name), value in settings.items():
        setattr(module, name, value)


@contextlib.contextmanager
def _as_input_error(subject: str) -> Iterator[None]:
    """Turn any exception into an InputError that names the file.

    On broken bytes, Pillow raises a dozen kinds of exceptions, among them struct.error and KeyError. Wrap nothing but
    reading and Pillow's decoding in this, since every exception is blamed on the file.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{subject} cannot be read: {_reason(error)}") from error


def _identified(file: io.BufferedReader, subject: str) -> ImageFile.ImageFile:
    """Open the image in `file` and check that it is complete and within the size limit, without decoding its pixels."""
    with _as_input_error(subject):
        if not os.fstat(file.fileno()).st_size:
            raise EOFError("it is empty")
        if is_heif(file.peek(512)):
            raise InputError(f"{subject} is a HEIC picture, which is not read here: {_HEIF_REMEDY}")
        if is_camera_raw(file.peek(512)):
            raise InputError(_RAW_REMEDY.format(subject))
        image = _opened_picture(file, subject)
        megapixels = math.prod(image.size) / 1e6
        if megapixels > MAX_MEGAPIXELS:
            size = f"{image.width}x{image.height} px"
            raise InputError(f"{subject} is {size}: {megapixels:.0f} megapixels, at most {MAX_MEGAPIXELS}")
        if image.format == "JPEG":
            _check_jpeg_end(file)
        if image.format == "PNG":
            image.verify()  # checks all checksums; decoding would skip those of the pixels
            image = PillowImage.open(file, formats=("PNG",))
    return image


def _opened_picture(file: io.BufferedReader, subject: str) -> ImageFile.ImageFile:
    """Open the main image of a file, and log if there are more images."""
    try:
        pages = read_pages(file)
    except CameraRawError as error:
        raise InputError(_RAW_REMEDY.format(subject)) from error
    file.seek(0)
    image = PillowImage.open(file, formats=FORMATS)
    if pages is None:
        return image
    if pages.full > 1:
        _log.info("%s has %d pages: the first is taken", subject, pages.full)
    return pages.main(image)


def _check_jpeg_end(file: io.BufferedReader) -> None:
    """Refuse a JPEG without an end marker, such as an unfinished download whose missing part reads as zeros.

    Pillow detects most truncated files but would decode those zeros. Pillow has left `file` at the start of the scan,
    after any thumbnail that has an end marker of its own.
    """
    scan = file.tell()
    if b"\xff\xd9" not in file.read():
        raise EOFError("image file is truncated")
    file.seek(scan)


def _target_size(stored: tuple[int, int], size: int, aspect: str) -> tuple[int, int]:
    """Return the (width, height), in px, after resizing; a side may be rounded to 0."""
    width, height = scaled_size(stored, size, aspect)
    return round(width), round(height)


def _check_sides(stored: tuple[int, int], target: tuple[int, int], size: int, smallest_side: int, subject: str) -> None:
    least = max(smallest_side, _MIN_SIDE)
    picture = f"{subject} is {stored[0]}x{stored[1]} px"
    if min(target) < least:
        short = f"at size={size} its short side would be {min(target)} px"
        raise InputError(f"{picture}: {short}, at least {least} px needed")
    if min(stored) < least:
        raise InputError(f"{picture}: its short side is {min(stored)} px, at least {least} px needed")


def _decode(image: ImageFile.ImageFile, target: tuple[int, int], subject: str) -> Box:
    """Decode the pixels in place and return the box that holds them, (left, top, right, bottom) in px.

    A JPEG much larger than `target` is shrunk by 2, 4 or 8 while it is decoded. Its last column or row may then be
    partly padding, which is not in the box.
    """
    with _as_input_error(subject):
        shrunk = image.draft(None, (_GAP * target[0], _GAP * target[1]))
        image.load()
    return shrunk[1] if shrunk else (0, 0, *image.size)


def _orientation(image: PillowImage.Image, subject: str) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 if there is none or the EXIF data are corrupt."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # of any kind, as in decoding; but the image can do without EXIF
        _log.warning("%s: its EXIF data are ignored: %s", subject, _reason(error))
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Rotate and mirror pixels, (H, W, 3), as the EXIF orientation demands."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows, columns = _FLIPS.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _resized(image: PillowImage.Image, target: tuple[int, int], box: Box) -> PillowImage.Image:
    """Resize an image without fringes: Pillow multiplies colours by alpha before it averages."""
    if image.size == target:
        return image
    return image.resize(target, PillowImage.Resampling.LANCZOS, box=box, reducing_gap=_GAP)


def _deep_grey(image: PillowImage.Image, target: tuple[int, int], box: Box, subject: str) -> Pixels:
    """Convert a grey image of 16 bits or floats to (H, W, 3); at 8 bits if it has a colour profile."""
    if image.mode == "I" and image.format != "PPM":
        raise InputError(f"{subject} has signed or 32-bit integer pixels: convert it to 8 or 16 bits")
    if image.mode == "F":
        _check_float_range(image, subject)
    white = np.float32(1 if image.mode == "F" else 65535)
    grey = np.asarray(_resized(image.convert("F"), target, box)) / white
    grey = grey.clip(0, 1)  # Lanczos overshoots at edges
    profile = image.info.get("icc_profile")
    if profile:
        levels = PillowImage.fromarray(np.rint(grey * 255).astype(np.uint8))
        return _from_levels(_in_srgb(levels, profile, subject))
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def _check_float_range(image: PillowImage.Image, subject: str) -> None:
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()  # both are NaN if any pixel is, and then fail the comparison
    if not (low >= 0 and high <= 1):
        raise InputError(f"{subject} has float pixels from {low:g} to {high:g}, must be in [0, 1]")


def _colour(image: PillowImage.Image, target: tuple[int, int], box: Box, subject: str) -> Pixels:
    """Convert an image of at most 8 bits per channel to (H, W, 3).

    The image is resized first, so that colour conversion and compositing need little memory.
    """
    profile = image.info.get("icc_profile")
    image = _resized(_direct(image), target, box)
    if image.mode not in ("LA", "RGBA"):
        return _from_levels(_in_srgb(image, profile, subject))
    opaque = _in_srgb(image.convert(image.mode[:-1]), profile, subject)
    white = PillowImage.new("RGB", image.size, "white")
    return _from_levels(PillowImage.composite(opaque, white, image.getchannel("A")))


def _direct(image: PillowImage.Image) -> PillowImage.Image:
    """Convert to one of `_COLOUR_MODES`, whose values can be averaged, unlike palette indices and bits."""
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    return image if image.mode in _COLOUR_MODES else image.convert("RGB")


def _in_srgb(image: PillowImage.Image, profile: bytes | None, subject: str) -> PillowImage.Image:
    """Convert an image of mode L, RGB, CMYK or LAB to sRGB; without a profile, L and RGB are taken to be sRGB."""
    if image.mode == "LAB":
        return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile:
        try:
            return _converted(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (OSError, ImageCms.PyCMSError) as error:
            _log.warning("%s: its colour profile is ignored: %s", subject, _reason(error))
    return image.convert("RGB")


def _converted(image: PillowImage.Image, profile: ImageCms.ImageCmsProfile) -> PillowImage.Image:
    if image.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
        image = image.convert("RGB")  # a grey picture may carry the profile of its colour original
    converted = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # None is for inPlace=True
    return converted


def _from_levels(image: PillowImage.Image) -> Pixels:
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _png(levels: npt.NDArray[np.uint8], text: Mapping[str, str]) -> bytes:
    chunks = PngInfo()
    for key, value in sorted(text.items()):
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    PillowImage.fromarray(levels).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()
