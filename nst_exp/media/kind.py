"""What kind of source a file is."""

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
# Inputs of FFmpeg's for what is no video: texts, shown as a terminal would, and icons. Single pictures end in "_pipe".
_NO_VIDEOS = frozenset(("tty", "bin", "xbin", "adf", "idf", "txd", "ico", "image2"))
# How documents and archives begin. FFmpeg would search them for pictures and sound.
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
_TAR = slice(257, 262)  # bytes that say "ustar" in a tar archive


def kind_of(path: Path) -> str:
    """`image` or `video`, by the file's content; an animation is a video.

    What is neither is what its name says, or an image: either way it will be refused in words that fit.
    """
    frames = animation_frames(path)
    if frames is not None:
        return "video" if frames > 1 else "image"
    if _is_media(path):
        return "video"
    guess = mimetypes.guess_type(path.name)[0] or ""
    return "video" if guess.startswith(("video/", "audio/")) else "image"


def animation_frames(path: Path) -> int | None:
    """How many frames a picture or animation that Pillow reads has; None if the file is none."""
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
    """An animation, opened so that pixels which none of its frames covers are transparent.

    A WebP file may say that it has no transparency although its frames leave such pixels, which decoders then paint
    black. Of WebP the whole file is held, as its decoder does anyway; never more than one decoded frame is.
    """
    with path.open("rb") as file:
        if file.read(16)[8:] != b"WEBPVP8X":
            return PillowImage.open(path)
        file.seek(0)
        data = bytearray(file.read())
    data[20] |= 0x10  # "alpha", https://developers.google.com/speed/webp/docs/riff_container
    return PillowImage.open(io.BytesIO(data))


def _is_raw_video(path: Path) -> bool:
    """Whether a file that begins as a JPEG holds many of them and is not named like a picture (Motion JPEG)."""
    guess = mimetypes.guess_type(path.name)[0] or ""
    return not guess.startswith("image/") and _input_format(path) == "mjpeg"


def _is_media(path: Path) -> bool:
    """Whether FFmpeg finds video or sound in a file that is neither a picture nor a document."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return False
    if head.startswith(_DOCUMENTS) or head[_TAR] == b"ustar" or is_heif(head) or is_camera_raw(head):
        return False
    name = _input_format(path)
    if name == "mjpeg":  # which FFmpeg also finds inside other files
        return head.startswith(b"\xff\xd8")
    return name is not None and name not in _NO_VIDEOS and not name.endswith("_pipe")


def _input_format(path: Path) -> str | None:
    """FFmpeg's name of the file's format; None if it knows none, or finds neither video nor sound in it."""
    import av  # here, for pictures need none of it

    try:
        with av.open(str(path)) as container:
            return container.format.name if container.streams.video or container.streams.audio else None
    except (av.error.FFmpegError, OSError, ValueError):
        return None
