"""Draw the contact sheet: one picture with those of all runs, laid out by the settings that the sweep varies."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, cos, log, pi, sin

from PIL import Image, ImageDraw, ImageOps

from nst_exp.evaluation.catalogue import ALL_MEASURES
from nst_exp.report.axes import Block, Layout, label
from nst_exp.report.cases import SCORE
from nst_exp.report.fonts import Letters
from nst_exp.report.pictures import Gallery, input_addresses
from nst_exp.report.points import DONE, FAILED, Point, Sweep, label_of, lower_is_better

PAPER, INK, SOFT = "#ffffff", "#1c1c1c", "#6a6a6a"
BEST, FRONT, BAD = "#c77700", "#00857a", "#b3261e"
_LINE, _EMPTY = "#d6d6d6", "#f2f2f2"
_LARGEST, _SMALLEST = 420, 150  # px, the limits of a picture's width
_SHEET = 4000  # px, which the width and height of the sheet should not exceed
_LEAST_SHEET = 1180  # px, the least width of the sheet, for the header and the legend
_GAP = 18  # px between pictures
_MARGIN = 48  # px around everything
_SHAPE = 1.4  # width of the sheet over its height, as far as blocks can be arranged so
_TALLEST = 1.6  # the largest height of a cell over its width
_MOST_WINNERS = 6  # lines for best runs in the header
_LEGEND_LINE, _LEGEND_MARK = 30, 26  # px, the height of a line and the width of a mark

Corner = tuple[int, int]
_Mark = Callable[[ImageDraw.ImageDraw, Corner, int], None]  # draws a mark of a radius around a centre


def draw_sheet(title: str, sweep: Sweep, layout: Layout, gallery: Gallery) -> Image.Image:
    """Draw the contact sheet of a sweep, finished or not.

    Args:
        title: the title at the top.
        sweep: the runs.
        layout: the place of each run.
        gallery: the pictures of the runs and their inputs.
    """
    sheet = _Sheet(sweep, layout, gallery, _style(layout, gallery))
    rows = [_beside(row) for row in _arranged([sheet.block(block) for block in layout.blocks])]
    width = max(_LEAST_SHEET, *(row.width for row in rows))
    return _below([_header(title, sweep, gallery, width), *rows, _legend(sweep, width)])


@dataclass(frozen=True)
class _Style:
    """The sizes of pictures and letters in px."""

    width: int
    height: int
    text: int
    small: int

    @property
    def row(self) -> int:
        """The distance from one row of pictures to the next."""
        return self.height + 3 * self.text + _GAP + 6

    @property
    def column(self) -> int:
        """The distance from one column of pictures to the next."""
        return self.width + _GAP


def _style(layout: Layout, gallery: Gallery) -> _Style:
    """Choose cells as large as the sheet allows, in the shape of the tallest picture."""
    columns = max(len(block.columns) for block in layout.blocks)
    rows = sum(len(block.rows) for block in layout.blocks)
    shapes = [picture.shape for picture in gallery.runs.values()]
    tallest = min(max(shapes, default=2 / 3), _TALLEST)
    across, down = _SHEET // max(1, columns) - _GAP, round((_SHEET / max(1, rows) - 80) / tallest)
    width = max(_SMALLEST, min(_LARGEST, across, max(down, 240)))
    text = max(12, min(19, width // 16))
    return _Style(width, round(width * tallest), text, max(11, text - 3))


@dataclass(frozen=True)
class _Sheet:
    """Draws blocks of pictures."""

    sweep: Sweep
    layout: Layout
    gallery: Gallery
    style: _Style

    def block(self, block: Block) -> Image.Image:
        """Draw a block: rows and columns with labels, or pictures that follow one another."""
        style, plain, bold = self.style, Letters(self.style.text), Letters(self.style.text, bold=True)
        gutter = head = 0
        if self.layout.is_grid:
            labels = [plain.getlength(self.layout.row_axis), *map(bold.getlength, block.rows)]
            gutter, head = round(max(labels)) + _GAP, round(3.1 * style.text)
        head += 2 * style.text if block.title else 0
        width = max(gutter + len(block.columns) * style.column - _GAP, 1)
        image = Image.new("RGB", (width + 10, head + 5 + max(1, len(block.rows)) * style.row), PAPER)
        draw = ImageDraw.Draw(image)
        bold.write(draw, (0, 0), bold.cut(block.title, width), INK)
        if self.layout.is_grid:
            self._labels(draw, block, gutter, head)
        for row, line in enumerate(block.cells):
            for column, point in enumerate(line):
                self._cell(image, (gutter + column * style.column, head + row * style.row), point)
        return image

    def _labels(self, draw: ImageDraw.ImageDraw, block: Block, gutter: int, head: int) -> None:
        style, plain, bold = self.style, Letters(self.style.text), Letters(self.style.text, bold=True)
        for index, text in enumerate(block.columns):
            left = gutter + index * style.column
            plain.write(draw, (left, head - 3 * style.text), plain.cut(self.layout.column_axis, style.width), SOFT)
            bold.write(draw, (left, head - round(1.7 * style.text)), bold.cut(text, style.width), INK)
        for index, text in enumerate(block.rows):
            top = head + index * style.row
            plain.write(draw, (0, top), self.layout.row_axis, SOFT)
            bold.write(draw, (0, top + round(1.3 * style.text)), text, INK)

    def _cell(self, image: Image.Image, corner: Corner, point: Point | None) -> None:
        """Draw a run's picture with its number, marks and measures, or the reason why there is no picture."""
        draw, (left, top), style = ImageDraw.Draw(image), corner, self.style
        box = (left, top, left + style.width - 1, top + style.height - 1)
        if point is None:
            draw.rectangle(box, outline=_LINE)
            self._words(draw, corner, "not run", SOFT)
            return
        picture = self.gallery.runs.get(point.number)
        if picture is None:
            draw.rectangle(box, fill=_EMPTY)
            words = "picture not found" if point.status == DONE else f"{point.status}\n{point.error}"
            self._words(draw, corner, words, BAD if point.status == FAILED else SOFT)
        else:
            small = _fitted(picture.small, (style.width, style.height))
            if point.status != DONE:
                small = Image.blend(small, Image.new("RGB", small.size, PAPER), 0.45)
            above = top + (style.height - small.height) // 2
            image.paste(small, (left, above))
            if point.number in self.sweep.starred:
                below = above + small.height - 1
                draw.rectangle((left, above, left + small.width - 1, below), outline=BEST, width=5)
        self._caption(draw, corner, point)

    def _caption(self, draw: ImageDraw.ImageDraw, corner: Corner, point: Point) -> None:
        style, font, bold = self.style, Letters(self.style.text), Letters(self.style.text, bold=True)
        left, top = corner[0], corner[1] + style.height + 5
        bold.write(draw, (left, top), str(point.number), INK)
        left += round(bold.getlength(str(point.number))) + 8
        radius = round(0.45 * style.text)
        for mark, wanted in (
            (_star, point.number in self.sweep.starred),
            (_diamond, point.number in self.sweep.marked_front),
        ):
            if wanted:
                mark(draw, (left + radius, top + round(0.62 * style.text)), radius)
                left += 2 * radius + 6
        first, second = self._lines(point)
        font.write(draw, (left, top), font.cut(first, corner[0] + style.width - left), INK)
        small = Letters(style.small)
        small.write(draw, (corner[0], top + round(1.45 * style.text)), small.cut(second, style.width), SOFT)

    def _lines(self, point: Point) -> tuple[str, str]:
        """Return the two lines below a picture; the first has the settings if labels do not show them."""
        shown = [name for name in (SCORE, *self.sweep.goals) if name in point.numbers]
        texts = [f"{label_of(name)} {point.numbers[name]:.3g}" for name in shown]
        if point.status != DONE:
            texts = [point.status if point.step is None else f"{point.status}, step {point.step}"]
        if self.layout.is_grid or not self.layout.axes:
            return "".join(texts[:1]), "  ".join(texts[1:])
        return "  ".join(self.layout.swept(point).values()), "  ".join(texts)

    def _words(self, draw: ImageDraw.ImageDraw, corner: Corner, text: str, colour: str) -> None:
        """Write a text in the middle of a cell, without lines for which it has no room."""
        style, font = self.style, Letters(self.style.small)
        letters = max(8, int((style.width - 2 * _GAP) / font.getlength("n")))
        lines = [line for part in text.splitlines() for line in textwrap.wrap(part, letters)]
        most = max(1, int((style.height - 2 * _GAP) / (1.35 * style.small)))
        height = 1.35 * style.small
        top = corner[1] + (style.height - height * len(lines[:most])) / 2
        for index, line in enumerate(lines[:most]):
            left = corner[0] + (style.width - font.getlength(line)) / 2
            font.write(draw, (left, top + index * height), line, colour)


def _header(title: str, sweep: Sweep, gallery: Gallery, width: int) -> Image.Image:
    """Draw the header: title, command and best runs on the left, photographs and paintings on the right."""
    inputs = [
        (f"{name}: {label(address, is_picture=True)}", gallery.inputs.get(address))
        for address, name in input_addresses(sweep).items()
    ]
    shown = [(name, _fitted(picture.small, (360, 200))) for name, picture in inputs if picture][:4]
    used = sum(small.width + _GAP for _, small in shown)
    image = Image.new("RGB", (width, 230 + 26 * len(_winners(sweep))), PAPER)
    draw = ImageDraw.Draw(image)
    room = width - used - _MARGIN
    large, mono, text = Letters(34, bold=True), Letters(16, mono=True), Letters(19)
    large.write(draw, (0, 0), large.cut(title, room), INK)
    letters = max(20, int(room / mono.getlength("m")))
    wrapping = textwrap.TextWrapper(letters, break_on_hyphens=False, max_lines=4, placeholder=" …")
    lines = wrapping.wrap(sweep.command)
    for index, line in enumerate(lines):
        mono.write(draw, (0, 56 + 24 * index), mono.cut(line, room), SOFT)
    top = 68 + 24 * len(lines)
    counts = "   ".join(f"{count} {status}" for status, count in sweep.counts.items() if count)
    text.write(draw, (0, top), counts or "no run has begun yet", INK)
    bold = Letters(19, bold=True)
    for index, words in enumerate(_winners(sweep)):
        if sweep.starred:
            _star(draw, (10, top + 44 + 26 * index), 10)
        bold.write(draw, (28, top + 32 + 26 * index), bold.cut(words, room - 28), BEST)
    left = width - used + _GAP
    for name, small in shown:
        image.paste(small, (left, 0))
        caption = Letters(16)
        caption.write(draw, (left, 206), caption.cut(name, small.width + _GAP - 10), SOFT)
        left += small.width + _GAP
    return image


def _winners(sweep: Sweep) -> list[str]:
    """Return a line for the best run of each case with a choice, as many as there is room for."""
    found = [(title, point) for title, point in sweep.bests.items() if point.number in sweep.starred]
    lines = [
        f"best by score{f' of {title}' if title else ''}: run {point.number} with {point.numbers[SCORE]:.3g}"
        for title, point in found[:_MOST_WINNERS]
    ]
    more = len(found) - len(lines)
    return lines + ([f"and {more} more, one for each case"] if more else [])


def _legend(sweep: Sweep, width: int) -> Image.Image:
    """Draw the explanation of marks and measures."""
    content, style = sweep.goals
    is_one_case = len(sweep.cases) <= 1
    marks: list[tuple[_Mark | None, str]] = []
    if sweep.starred:
        marks.append((_star, f"best by score{'' if is_one_case else ' of its case'}"))
    if sweep.marked_front:
        both = f"better in both {label_of(content)} and {label_of(style)}"
        marks.append((_diamond, f"Pareto front: no other run{'' if is_one_case else ' of the case'} is {both}"))
    marks += [(None, note) for note in sweep.unmarked_notes]
    image = Image.new("RGB", (width, _LEGEND_LINE * (len(marks) + 4)), PAPER)
    draw = ImageDraw.Draw(image)
    bottom = _write_flowing(draw, 0, width, Letters(16), INK, marks)
    texts = []
    for name in (SCORE, *sweep.goals):
        better = "lower" if lower_is_better(name) else "higher"
        meaning = ALL_MEASURES[name].range.partition(";")[0]
        texts.append((None, f"{label_of(name)} ({name}): {meaning}, {better} is better"))
    bottom = _write_flowing(draw, bottom, width, Letters(14), SOFT, texts)
    return image.crop((0, 0, width, bottom))


def _write_flowing(
    draw: ImageDraw.ImageDraw,
    top: int,
    width: int,
    font: Letters,
    colour: str,
    parts: Sequence[tuple[_Mark | None, str]],
) -> int:
    """Write parts side by side, wrapped at `width` px; returns the top of the next line."""
    left = 0
    for mark, text in parts:
        needed = _LEGEND_MARK * (mark is not None) + round(font.getlength(text))
        if left and left + needed > width:
            left, top = 0, top + _LEGEND_LINE
        if mark is not None:
            mark(draw, (left + 9, top + 11), 9)
        font.write(draw, (left + needed - round(font.getlength(text)), top), text, colour)
        left += needed + 40
    return top + _LEGEND_LINE * bool(parts)


def _arranged(blocks: Sequence[Image.Image]) -> list[Sequence[Image.Image]]:
    """Arrange blocks in rows so that the sheet is somewhat wider than high and has few empty places."""
    width, height = max(block.width for block in blocks), max(block.height for block in blocks)

    def cost(across: int) -> float:
        down = ceil(len(blocks) / across)
        return abs(log(across * width / (down * height) / _SHAPE)) + across * down / len(blocks)

    across = min(range(1, len(blocks) + 1), key=cost)
    return [blocks[start : start + across] for start in range(0, len(blocks), across)]


def _beside(images: Sequence[Image.Image]) -> Image.Image:
    width = sum(image.width + _MARGIN for image in images) - _MARGIN
    row = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + _MARGIN
    return row


def _below(images: Sequence[Image.Image]) -> Image.Image:
    width, height = max(image.width for image in images), sum(image.height + _MARGIN for image in images)
    column = Image.new("RGB", (width + 2 * _MARGIN, height + _MARGIN), PAPER)
    top = _MARGIN
    for image in images:
        column.paste(image, (_MARGIN, top))
        top += image.height + _MARGIN
    return column


def _fitted(image: Image.Image, box: tuple[int, int]) -> Image.Image:
    """Scale `image` to the largest size that fits into `box`."""
    return ImageOps.contain(image, box, Image.Resampling.LANCZOS)


def _star(draw: ImageDraw.ImageDraw, centre: Corner, radius: int) -> None:
    reach = [radius, 0.42 * radius] * 5
    corners = [(r * sin(index * pi / 5), -r * cos(index * pi / 5)) for index, r in enumerate(reach)]
    draw.polygon([(centre[0] + x, centre[1] + y) for x, y in corners], BEST)


def _diamond(draw: ImageDraw.ImageDraw, centre: Corner, radius: int) -> None:
    x, y = centre
    draw.polygon([(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)], FRONT)
