"""What kind of source a file is."""

from __future__ import annotations

import io
import mimetypes
import warnings
from pathlib import Path

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

_ANIMATIONS = ("GIF", "WEBP", "PNG")


def kind_of(path: Path) -> str:
    """`image` or `video`, an animation being a video; unknown files are images, for which there are clear refusals."""
    frames = animation_frames(path)
    if frames is not None:
        return "video" if frames > 1 else "image"
    guess = mimetypes.guess_type(path.name)[0] or ""
    if guess.startswith(("video/", "audio/")):  # be it a broken one
        return "video"
    if guess.startswith("image/"):
        return "image"
    return "video" if _is_video(path) else "image"


def animation_frames(path: Path) -> int | None:
    """How many frames a file of Pillow's has, 1 if it is no animation; None if Pillow does not know it."""
    try:
        with warnings.catch_warnings(), PillowImage.open(path) as image:
            warnings.simplefilter("ignore")
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


def _is_video(path: Path) -> bool:
    import av  # here, for pictures need none of it

    try:
        with av.open(str(path)) as container:
            # FFmpeg takes text for a film of a terminal
            return bool(container.streams.video) and container.format.name != "tty"
    except (av.error.FFmpegError, OSError, ValueError):
        return False
