"""Draw text in any script on plots and sheets, with the fonts of this machine.

The first choice is DejaVu, which comes with matplotlib; other letters are taken from any font that has them. Letters
that no font has are replaced by an ASCII equivalent if Unicode defines one, and by their code otherwise, so that names
stay readable and distinct.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

_BASE = "DejaVu Sans"
_PLACEHOLDERS = "lastresort"  # a font that draws a box for every letter


@dataclass(frozen=True)
class Letters:
    """A font of one size for Pillow that falls back to other fonts letter by letter.

    Attributes:
        size: the size in px.
        bold: whether to use the bold face of DejaVu; other fonts are used in their regular face.
        mono: whether to use DejaVu's face in which all letters are equally wide.
    """

    size: int
    bold: bool = False
    mono: bool = False

    def getlength(self, text: str) -> float:
        """Return the width of a line in px."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def write(self, draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: str) -> None:
        """Draw a line whose upper left corner is `corner`."""
        left, baseline = corner[0], corner[1] + _pillow_font(self._file, self.size).getmetrics()[0]
        for font, part in self._parts(text):
            draw.text((left, baseline), part, colour, font, "ls")
            left += font.getlength(part)

    def cut(self, text: str, width: float) -> str:
        """Return `text`, shortened with an ellipsis if it is wider than `width` px."""
        while len(text) > 1 and self.getlength(text) > width:
            text = text[:-2].rstrip() + "…"
        return text

    @property
    def _file(self) -> str:
        name = f"DejaVuSans{'Mono' if self.mono else ''}{'-Bold' if self.bold else ''}.ttf"
        return str(Path(matplotlib.get_data_path(), "fonts", "ttf", name))

    def _parts(self, text: str) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
        """Split a text into parts, each with a font that has its letters."""
        shown = (replaced for letter in text for replaced in _drawable(letter))
        for file, letters in groupby(shown, key=self._file_with):
            yield _pillow_font(file, self.size), "".join(letters)

    def _file_with(self, letter: str) -> str:
        if ord(letter) in _charmap(self._file):
            return self._file
        entry = _font_with(letter)
        return entry.fname if entry else self._file


def drawable(text: str) -> str:
    """Prepare a text for matplotlib.

    Letters that no font has are replaced. Dollar signs are escaped so that they start no formula, and a leading
    underscore is preceded by a space because legends leave out labels that begin with one.
    """
    shown = "".join(letter if letter == "\n" else _drawable(letter) for letter in text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def families(texts: Iterable[str]) -> list[str]:
    """Return the names of fonts that together have all letters of `texts`, DejaVu first.

    Args:
        texts: the texts of a plot, before `drawable`.

    Returns:
        A value for matplotlib's setting `font.family`.
    """
    letters = sorted(set().union(*(drawable(text) for text in texts)))
    others = (entry.name for letter in letters if letter != "\n" and (entry := _font_with(letter)))
    return list(dict.fromkeys([_BASE, *others]))


@cache
def _drawable(letter: str) -> str:
    """Return the letter, or a replacement if no font has it or it is invisible."""
    if letter.isprintable() and _font_with(letter):
        return letter
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    if plain.isprintable() and plain:
        return plain
    return " " if letter.isspace() else letter.encode("unicode_escape").decode()


@cache
def _font_with(letter: str) -> FontEntry | None:
    """Return the first font that has the letter; None if there is none."""
    return next((entry for entry in _entries() if ord(letter) in _charmap(entry.fname)), None)


@cache
def _entries() -> list[FontEntry]:
    """Return the fonts of this machine: DejaVu first, then upright fonts of regular weight."""

    def rank(entry: FontEntry) -> tuple[bool, bool, bool, str]:
        is_plain = entry.style == "normal" and str(entry.weight) in ("400", "normal", "regular")
        return entry.name != _BASE, not is_plain, "Sans" not in entry.name, entry.fname

    usable = [entry for entry in fontManager.ttflist if _PLACEHOLDERS not in entry.name.lower().replace(" ", "")]
    return sorted(usable, key=rank)


@cache
def _charmap(file: str) -> frozenset[int]:
    """Return the code points that a font can draw at any size; none if its file is missing or damaged."""
    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _pillow_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
