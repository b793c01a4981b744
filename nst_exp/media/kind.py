"""Detection of images and videos by the content of a file."""

from __future__ import annotations

import io
import mimetypes
import warnings
from pathlib import Path

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from nst_exp.media.image import FORMATS, is_heif
from nst_exp.media.pages import is_camera_raw

_ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF")
# FFmpeg's input formats that are not videos: texts, rendered as a terminal would, and icons. FFmpeg's names of formats
# of single images end in "_pipe".
_NO_VIDEOS = frozenset(("tty", "bin", "xbin", "adf", "idf", "txd", "ico", "image2"))
# The first bytes of documents and archives, which FFmpeg would search for images and sound.
_DOCUMENTS = (
    b"%PDF",
    b"%!PS",
    b"PK\x03\x04",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\xd0\xcf\x11\xe0",
)
_TAR = slice(257, 262)  # the bytes that are "ustar" in a tar archive


def kind_of(path: Path) -> str:
    """Return whether a file is an `image` or a `video`, judged by its content.

    An animation is a video. A file that is neither is classified by its name, and otherwise as an image, so that the
    error message of the reader fits.
    """
    frames = animation_frames(path)
    if frames is not None:
        return "video" if frames > 1 else "image"
    if _is_media(path):
        return "video"
    guess = mimetypes.guess_type(path.name)[0] or ""
    return "video" if guess.startswith(("video/", "audio/")) else "image"


def animation_frames(path: Path) -> int | None:
    """Count the frames of an image or animation that Pillow can read.

    Returns:
        The number of frames, 1 for a still image; None if Pillow cannot read the file, or if it is a Motion JPEG video.
    """
    try:
        with warnings.catch_warnings(action="ignore"), PillowImage.open(path, formats=FORMATS) as image:
            if image.format == "JPEG" and _is_raw_video(path):
                return None
            return int(getattr(image, "n_frames", 1)) if image.format in _ANIMATIONS else 1
    except PillowImage.DecompressionBombError:
        return 1
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None


def open_animation(path: Path) -> PillowImage.Image:
    """Open an animation such that pixels which none of its frames covers are transparent.

    A WebP file may declare that it has no transparency although its frames leave some pixels uncovered, which decoders
    then paint black. A WebP file is held in memory as a whole, as its decoder does anyway, but never more than one
    decoded frame.
    """
    with path.open("rb") as file:
        if file.read(16)[8:] != b"WEBPVP8X":
            return PillowImage.open(path)
        file.seek(0)
        data = bytearray(file.read())
    data[20] |= 0x10  # the flag "alpha", see https://developers.google.com/speed/webp/docs/riff_container
    return PillowImage.open(io.BytesIO(data))


def _is_raw_video(path: Path) -> bool:
    """Return whether a file that begins like a JPEG holds a video of JPEGs and is not named like an image."""
    guess = mimetypes.guess_type(path.name)[0] or ""
    return not guess.startswith("image/") and _input_format(path) == "mjpeg"


def _is_media(path: Path) -> bool:
    """Return whether FFmpeg finds video or sound in a file that is neither an image nor a document."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return False
    if head.startswith(_DOCUMENTS) or head[_TAR] == b"ustar" or is_heif(head) or is_camera_raw(head):
        return False
    name = _input_format(path)
    if name == "mjpeg":  # FFmpeg also finds JPEGs inside other files
        return head.startswith(b"\xff\xd8")
    return name is not None and name not in _NO_VIDEOS and not name.endswith("_pipe")


def _input_format(path: Path) -> str | None:
    """Return FFmpeg's name of the file's format; None if it is unknown, or has neither video nor sound."""
    import av  # imported here because images do not need it

    try:
        with av.open(str(path)) as container:
            return container.format.name if container.streams.video or container.streams.audio else None
    except (av.error.FFmpegError, OSError, ValueError):
        return None
