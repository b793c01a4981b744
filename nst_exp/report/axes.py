"""Find the settings that a sweep varies, and lay out its runs in rows and columns accordingly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import PurePath

from nst_exp.records.folder import Value
from nst_exp.report.cases import SCORE
from nst_exp.report.points import Point, Sweep, lower_is_better, override_of

_LONGEST = 36  # letters; longer labels are cut
_PICTURES = ("content", "style")  # settings that are addresses of pictures


@dataclass(frozen=True)
class Axis:
    """A setting with more than one value.

    Attributes:
        name: the name of the setting.
        values: its values: numbers in ascending order, texts in the order of the runs.
    """

    name: str
    values: tuple[Value, ...]

    def label(self, value: Value) -> str:
        """Return a short text for a value, long enough to differ from the texts of the other values."""
        return self._labels[value]

    @cached_property
    def _labels(self) -> dict[Value, str]:
        is_picture = self.name in _PICTURES
        for digits in (4, 8, 17):
            labels = {value: label(value, digits=digits, is_picture=is_picture) for value in self.values}
            if len(set(labels.values())) == len(labels):
                return labels
        return {value: str(value) for value in self.values}


@dataclass(frozen=True)
class Block:
    """Runs in rows and columns; the labels are empty where the runs simply follow one another.

    Attributes:
        title: the values of the outer axes that this block is for; empty if there is one block.
        rows: the labels of the rows.
        columns: the labels of the columns.
        cells: the runs by row and column; None where there is no run.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Point | None, ...], ...]


@dataclass(frozen=True)
class Layout:
    """The place of each run.

    Attributes:
        axes: all settings that vary.
        blocks: one block, or one for each combination of values of the axes before the last two.
        is_grid: whether rows and columns stand for values of axes.
    """

    axes: tuple[Axis, ...]
    blocks: tuple[Block, ...]
    is_grid: bool

    @property
    def points(self) -> list[Point]:
        """All runs in reading order."""
        return [cell for block in self.blocks for line in block.cells for cell in line if cell]

    @property
    def row_axis(self) -> str:
        """The name of the axis whose values are the rows; empty if there is no grid."""
        return self.axes[-2].name if self.is_grid else ""

    @property
    def column_axis(self) -> str:
        """The name of the axis whose values are the columns; empty if there is no grid."""
        return self.axes[-1].name if self.is_grid else ""

    def swept(self, point: Point) -> dict[str, str]:
        """Return the label of the run's value on each axis, by the name of the axis."""
        return {axis.name: axis.label(point.settings.get(axis.name)) for axis in self.axes}


def label(value: Value, *, digits: int = 6, is_picture: bool = False) -> str:
    """Return a short text for a value.

    Args:
        value: the value of a setting.
        digits: the number of significant digits of a float.
        is_picture: whether the value is the address of a picture, which is shortened to the name of its file.
    """
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    text = str(value)
    if is_picture:
        text = PurePath(text).stem
    text = text.removeprefix("[").removesuffix("]").replace(",", ", ").replace(",  ", ", ")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def swept_axes(points: Sequence[Point]) -> tuple[Axis, ...]:
    """Return the settings on the command line that differ from run to run, in the order of the command.

    A run whose command does not name a setting has the value of its configuration.
    """
    keys = dict.fromkeys(override_of(override)[0] for point in points for override in point.overrides)
    axes = (Axis(key, _values(key, points)) for key in keys)
    return tuple(axis for axis in axes if len(axis.values) > 1)


def lay_out(sweep: Sweep) -> Layout:
    """Lay out runs as a grid if they fill more than half of one, and one after the other otherwise.

    In a grid, the values of the last axis are the columns and those of the axis before it the rows; each combination
    of values of further axes has a block of its own. A sweep that is still running fills more than half of the grid
    of the values that it has reached, whereas a search fills next to nothing.
    """
    axes = swept_axes(sweep.points)
    cells = {tuple(point.settings.get(axis.name) for axis in axes): point for point in sweep.points}
    is_full = len(cells) == len(sweep.points) and 2 * len(cells) > math.prod(len(axis.values) for axis in axes)
    if len(axes) < 2 or sweep.ordered or not is_full:
        return Layout(axes, (_flow(sweep, axes),), is_grid=False)
    *outer, down, across = axes
    blocks = []
    for values in product(*(axis.values for axis in outer)):
        grid = tuple(tuple(cells.get((*values, row, column)) for column in across.values) for row in down.values)
        if any(cell for line in grid for cell in line):
            title = ", ".join(f"{axis.name} = {axis.label(value)}" for axis, value in zip(outer, values, strict=True))
            blocks.append(Block(title, _labels(down), _labels(across), grid))
    return Layout(axes, tuple(blocks), is_grid=True)


def _labels(axis: Axis) -> tuple[str, ...]:
    return tuple(map(axis.label, axis.values))


def _values(key: str, points: Sequence[Point]) -> tuple[Value, ...]:
    values = list(dict.fromkeys(point.settings.get(key) for point in points))
    if any(isinstance(value, str) or value is None for value in values):
        return tuple(values)
    return tuple(sorted(values, key=lambda value: float(value or 0)))


def _flow(sweep: Sweep, axes: Sequence[Axis]) -> Block:
    """Lay out runs one after the other: in their given order, along the only axis, or by case with the best first."""
    points = list(sweep.points)
    if sweep.ordered:
        pass
    elif len(axes) == 1:
        places = {value: place for place, value in enumerate(axes[0].values)}
        points.sort(key=lambda point: places[point.settings.get(axes[0].name)])
    else:
        sign = 1 if lower_is_better(SCORE) else -1
        points.sort(key=lambda point: (sweep.case_of[point.number], sign * point.numbers.get(SCORE, sign * math.inf)))
    wide = _columns(len(points))
    lines = [tuple(points[start : start + wide]) for start in range(0, len(points), wide)]
    return Block("", ("",) * len(lines), ("",) * wide, tuple(lines))


def _columns(count: int) -> int:
    """Return the pictures in a row of a flow: up to four pictures have one row, more are about as wide as high."""
    return max(1, count) if count <= 4 else min(10, max(3, math.ceil(math.sqrt(1.2 * count))))
