"""A sweep to look at: its pictures side by side on one sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_GAP = 12  # px around pictures
_LINE = 20  # px
_LEAST_WIDTH = 400  # px of a picture, so that its caption fits
_FONT = ImageFont.load_default(15)
_INK, _GREY, _PAPER = "black", "dimgrey", "white"


@dataclass(frozen=True)
class Cell:
    """A picture with a line above, such as its settings, and one below, such as its measures."""

    picture: Path
    above: str
    below: str = ""


def contact_sheet(title: str, inputs: Sequence[Cell], cells: Sequence[Cell], columns: int) -> Image.Image:
    """Inputs on the first row, `cells` below in rows of `columns`.

    Args:
        title: stands on top, wrapped to the sheet's width.
        inputs: photograph and painting, say; drawn at the height of the cells.
        cells: at least one; the first's size is the box that all are fitted into, small ones enlarged.
    """
    with Image.open(cells[0].picture) as first:
        enlarged = max(1.0, _LEAST_WIDTH / first.width)
        box = (round(first.width * enlarged), round(first.height * enlarged))
    width, height = box[0] + _GAP, box[1] + 2 * _LINE + _GAP
    lines = textwrap.wrap(title, max(20, columns * width // 8))
    top = _GAP + _LINE * len(lines) + _GAP
    rows = 1 + -(-len(cells) // columns)
    sheet = Image.new("RGB", (max(columns, len(inputs)) * width + _GAP, top + rows * height), _PAPER)
    ImageDraw.Draw(sheet).multiline_text((_GAP, _GAP), "\n".join(lines), _INK, _FONT)
    for index, cell in enumerate(inputs):
        _paste(sheet, cell, (_GAP + index * width, top), box)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        _paste(sheet, cell, (_GAP + column * width, top + (row + 1) * height), box)
    return sheet


def _paste(sheet: Image.Image, cell: Cell, corner: tuple[int, int], box: tuple[int, int]) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.text((left, top), _fitted(cell.above, box[0]), _INK, _FONT)
    with Image.open(cell.picture) as picture:
        scale = min(side / own for side, own in zip(box, picture.size, strict=True))
        size = (round(picture.width * scale), round(picture.height * scale))
        fitted = picture.convert("RGB")
    sheet.paste(fitted if fitted.size == size else fitted.resize(size, Image.Resampling.LANCZOS), (left, top + _LINE))
    draw.text((left, top + _LINE + box[1]), _fitted(cell.below, box[0]), _GREY, _FONT)


def _fitted(text: str, width: int) -> str:
    """`text`, cut with an ellipsis to what fits into `width` px."""
    while len(text) > 1 and _FONT.getlength(text) > width:
        text = text[:-2].rstrip() + "…"
    return text
