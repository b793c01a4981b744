"""The size that a picture or frame is brought to. This module imports no library of media."""

from __future__ import annotations

from nst_exp.errors import InputError

ASPECTS = ("keep", "stretch")


def scaled_size(stored: tuple[int, int], size: int, aspect: str) -> tuple[float, float]:
    """The exact (width, height) in px of a picture at `size`, before rounding.

    Args:
        stored: (width, height) in px.
        size: px, of the longer side, or of both sides with `aspect="stretch"`.
        aspect: one of `ASPECTS`.

    Raises:
        InputError: if `aspect` is none of them.
    """
    if aspect not in ASPECTS:
        raise InputError(f"aspect={aspect!r}: choose among {', '.join(ASPECTS)}")
    if aspect == "stretch":
        return size, size
    width, height = stored
    return width * size / max(stored), height * size / max(stored)


def fitted_size(stored: tuple[int, int], size: int, aspect: str, *, even: bool) -> tuple[int, int]:
    """The (width, height) in px of a frame at `size`; both sides are even numbers if `even`. See `scaled_size`."""
    step = 2 if even else 1
    width, height = (max(step, step * round(side / step)) for side in scaled_size(stored, size, aspect))
    return width, height
