"""The sizes that images and frames are scaled to.

The module imports no media library, so that settings can be checked quickly.
"""

from __future__ import annotations

from nst_exp.errors import InputError

ASPECTS = ("keep", "stretch")


def scaled_size(stored: tuple[int, int], size: int, aspect: str) -> tuple[float, float]:
    """Return the exact (width, height) of an image scaled to `size`, in px, before rounding.

    Args:
        stored: The (width, height) as stored, in px.
        size: Length, in px, of the longer side (`aspect="keep"`) or of both sides (`aspect="stretch"`).
        aspect: One of `ASPECTS`.

    Raises:
        InputError: If `aspect` is not one of `ASPECTS`.
    """
    if aspect not in ASPECTS:
        raise InputError(f"aspect={aspect!r}: choose among {', '.join(ASPECTS)}")
    if aspect == "stretch":
        return size, size
    width, height = stored
    return width * size / max(stored), height * size / max(stored)


def fitted_size(stored: tuple[int, int], size: int, aspect: str, *, even: bool) -> tuple[int, int]:
    """Return the (width, height) of a frame scaled to `size`, in whole px.

    Args:
        stored: As in `scaled_size`.
        size: As in `scaled_size`.
        aspect: As in `scaled_size`.
        even: Whether both sides are rounded to even numbers, as some codecs need.

    Raises:
        InputError: If `aspect` is not one of `ASPECTS`.
    """
    step = 2 if even else 1
    width, height = (max(step, step * round(side / step)) for side in scaled_size(stored, size, aspect))
    return width, height
