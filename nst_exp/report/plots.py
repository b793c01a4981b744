"""Plots of a sweep: content against style for all runs, and the convergence of their losses."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from nst_exp.records.folder import Value
from nst_exp.report.axes import Axis, Layout
from nst_exp.report.fonts import drawable, families
from nst_exp.report.pictures import Gallery
from nst_exp.report.points import Point, Sweep, label_of
from nst_exp.report.sheet import BEST, FRONT, INK, PAPER, SOFT

Column = npt.NDArray[Any]

_SIZE = (7.2, 5.2)  # inches
_DPI = 150
_MOST_COLOURS = 10
_DISC, _SMALL_DISC = 17, 13  # diameters of a numbered disc in points; the latter for more than `_MANY` runs
_MANY = 50  # runs
_ROUNDS = 300  # at most, in which overlapping discs are pushed apart
_MOST_SPREAD = 300  # runs; the discs of more would cover the plot wherever they are
_LABEL = 0.025  # the height of a run's number as a share of the plot's
_STRIP = 6  # pictures below the Pareto plot
_GRID = "#d9d9d9"
# Hues of similar lightness, so that all are visible on white and on black.
_HUES = LinearSegmentedColormap.from_list("hues", ["#3a7bd5", "#129a8b", "#85981c", "#d68100", "#d4476a"])
# The colours of cases, as distinct from each other and from `BEST` as white numbers and a dark page allow.
_CASES = ("#3a7bd5", "#d4476a", "#1f9d43", "#9a3fe0", "#247672", "#968e99", "#697003", "#86957f", "#c573c6", "#6e6494")
# The variables of page.css that replace these colours in a page, so that plots follow its theme.
_VARIABLES = {INK: "ink", SOFT: "soft", _GRID: "line", PAPER: "card", BEST: "best", FRONT: "front"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text remains text and is shown in the font of the page
    "svg.hashsalt": "nst_exp",  # the ids, and so the bytes, depend on the plot only
    "font.size": 10,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "legend.frameon": False,
}


def pareto_plot(sweep: Sweep) -> Figure:
    """Plot the runs by their measures of content and style, with their numbers and the Pareto front of each case.

    In SVG, the disc of a run has the id `point-NUMBER`.
    """
    with matplotlib.rc_context(_STYLE | _fonts(case.title for case in sweep.cases)):
        figure = Figure(_SIZE, layout="constrained")
        _draw_pareto(figure.subplots(), sweep)
    return figure


def pareto_sheet(sweep: Sweep, layout: Layout, gallery: Gallery) -> Figure:
    """Draw the Pareto plot with up to six pictures from the front below it.

    The pictures are ordered from the one closest to the photograph to the one closest to the painting. Without any,
    this is the plot alone.
    """
    shown = _along([point for line in _fronts(sweep) for point in line], _STRIP)
    shown = [point for point in shown if point.number in gallery.runs]
    if not shown:
        return pareto_plot(sweep)
    with matplotlib.rc_context(_STYLE | _fonts([*_swept(layout), *(case.title for case in sweep.cases)])):
        strip = 9 / _STRIP * max(gallery.runs[point.number].shape for point in shown) + 0.5  # inches
        figure = Figure((9, 6 + strip), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(6, strip))
        above, below = parts
        _draw_pareto(above.subplots(), sweep)
        for axes, point in zip(below.subplots(1, _STRIP), shown + [None] * (_STRIP - len(shown)), strict=True):
            axes.set_axis_off()
            axes.set_anchor("N")
            if point is not None:
                axes.imshow(gallery.runs[point.number].small)
                lines = [drawable(line) for line in textwrap.wrap(", ".join(layout.swept(point).values()), 22)[:2]]
                axes.set_title("\n".join([str(point.number), *lines]), fontsize=8, color=FRONT)
    return figure


def convergence_plot(sweep: Sweep, layout: Layout) -> Figure:
    """Plot the total loss of each run over the evaluations of loss and gradient, coloured by the first axis.

    In SVG, the curve of a run has the id `curve-NUMBER`.
    """
    with matplotlib.rc_context(_STYLE | _fonts(_swept(layout))):
        figure = Figure(_SIZE, layout="constrained")
        axes = figure.subplots()
        curves = list(_curves(sweep))
        axis = layout.axes[0] if layout.axes and len(layout.axes[0].values) <= _MOST_COLOURS else None
        for curve in curves:
            colour = _colour(axis, curve.point.settings.get(axis.name)) if axis else FRONT
            gid = f"curve-{curve.point.number}"
            axes.plot(curve.evaluations, curve.losses, color=colour, lw=1.4, alpha=0.85, gid=gid)
        _finish_convergence(axes, axis, curves)
    return figure


def has_curves(sweep: Sweep) -> bool:
    """Tell whether any run has a curve to plot; runs of videos have none."""
    return next(_curves(sweep), None) is not None


def _swept(layout: Layout) -> Iterator[str]:
    """Yield the names and values of the axes as plots show them."""
    for axis in layout.axes:
        yield axis.name
        yield from map(axis.label, axis.values)


def _fonts(texts: Iterable[str]) -> dict[Any, Any]:
    """Return the setting of matplotlib with which all letters of `texts` can be drawn."""
    return {"font.family": families(texts)}


def svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element for a page.

    The colours of ink, paper, lines and marks are replaced by the page's variables, so that they follow its light or
    dark theme.

    Args:
        figure: a plot of this module.
        name: a prefix of all ids, which makes them differ from those of other figures in the page.
    """
    with matplotlib.rc_context(_STYLE):
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(f": {colour}", f": var(--{variable})")
    for before in ('id="', "url(#", 'href="#'):
        text = text.replace(before, f"{before}{name}-")
    return text


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file with a white background."""
    with matplotlib.rc_context(_STYLE):
        figure.set_dpi(_DPI)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw_pareto(axes: Axes, sweep: Sweep) -> None:
    content, style = sweep.goals
    rated = [point for point in sweep.points if {content, style} <= point.numbers.keys()]
    for line in _fronts(sweep):
        axes.plot(
            *_goals(line, sweep),
            color=_case_colour(sweep, line[0]),
            lw=1.2,
            alpha=0.7,
            drawstyle="steps-post",
            zorder=1,
        )
    axes.plot(*_goals(rated, sweep), "o", ms=3, color=SOFT, zorder=1.5)
    axes.set_xlabel(f"{label_of(content)}: 0 is the photograph")
    axes.set_ylabel(f"{label_of(style)}: 0 is the painting")
    axes.grid(color=_GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.08)
    if 1 < len(sweep.cases) <= _MOST_COLOURS:
        for index, case in enumerate(sweep.cases):
            axes.plot([], [], "o", color=_CASES[index], ms=7, label=drawable(case.title))
        axes.legend(title="compare within one case", fontsize=8, title_fontsize=8, labelcolor=INK)
    if not rated:
        _say(axes, "no run has been measured yet")
        return
    rated.sort(key=lambda point: point.number in sweep.front)
    size = _SMALL_DISC if len(rated) > _MANY else _DISC
    for place, (point, shift) in enumerate(zip(rated, _shifts(axes, sweep, rated, size + 1.5), strict=True)):
        _draw_point(axes, sweep, point, 2 + place, shift, size)


def _draw_point(axes: Axes, sweep: Sweep, point: Point, zorder: float, shift: tuple[float, float], size: float) -> None:
    """Draw a run as a disc with its number: filled on the front of its case, in another colour if it is the best.

    The disc is drawn `shift` points from the run's place, and connected to it by a line if that is far.
    """
    is_best, on_front = point.number in sweep.starred, point.number in sweep.front
    case_colour = _case_colour(sweep, point)
    colour = BEST if is_best else case_colour if on_front else PAPER
    edge = case_colour if on_front or len(sweep.cases) > 1 else BEST if is_best else SOFT
    (x,), (y,) = _goals([point], sweep)
    if np.hypot(*shift) > size / 2:
        line: dict[str, Any] = {"arrowstyle": "-", "color": SOFT, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x, y), shift, textcoords="offset points", arrowprops=line, zorder=1.5, in_layout=False)
    place = axes.transData + ScaledTranslation(shift[0] / 72, shift[1] / 72, _figure(axes).dpi_scale_trans)
    disc = Line2D([x], [y], marker="o", ms=size, mfc=colour, mec=edge, mew=1.5, gid=f"point-{point.number}")
    disc.set(transform=place, zorder=zorder, clip_on=False, in_layout=False)
    axes.add_artist(disc)
    ink = PAPER if on_front or is_best else INK
    text: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "fontsize": 8 if size == _DISC else 6,
        "color": ink,
        "in_layout": False,
    }
    axes.annotate(str(point.number), (x, y), shift, textcoords="offset points", zorder=zorder + 0.5, **text)


def _shifts(axes: Axes, sweep: Sweep, points: Sequence[Point], distance: float) -> list[tuple[float, float]]:
    """Return the shift (x, y) of each disc from its place in points, so that no disc hides another's number."""
    if len(points) > _MOST_SPREAD:
        return [(0.0, 0.0)] * len(points)
    figure = _figure(axes)
    figure.draw_without_rendering()  # fixes the place and the limits of the axes
    per_inch = 72 / figure.dpi
    places = axes.transData.transform(np.transpose(_goals(points, sweep))) * per_inch
    low, high = axes.bbox.get_points() * per_inch
    spread = _spread(places, distance, low + distance / 2, high - distance / 2)
    return [(float(x), float(y)) for x, y in spread - places]


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _spread(places: Column, distance: float, low: Column, high: Column) -> Column:
    """Move `places`, (N, 2), until they are `distance` apart, as far as there is room between `low` and `high`."""
    angles = np.arange(len(places)) * np.pi * (3 - np.sqrt(5))
    ways = 1e-3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # directions that separate equal places
    spread = places
    for _ in range(_ROUNDS):
        between = (spread + ways)[:, None] - (spread + ways)
        apart = np.hypot(between[..., 0], between[..., 1]) + 2 * distance * np.eye(len(places))
        lacking = np.maximum(distance - apart, 0)
        if not lacking.any():
            break
        pushed = 0.5 * np.sum((lacking / apart)[..., None] * between, axis=1)
        spread = np.clip(spread + pushed, np.minimum(low, places), np.maximum(high, places))
    return spread


def _case_colour(sweep: Sweep, point: Point) -> str:
    """Return the colour of the run's case; with one case or too many to tell apart, all have that of the front."""
    return _CASES[sweep.case_of[point.number]] if 1 < len(sweep.cases) <= _MOST_COLOURS else FRONT


def _fronts(sweep: Sweep) -> list[list[Point]]:
    """Return the runs on the front of each case, ordered from the photograph to the painting."""
    content, style = sweep.goals
    lines: list[list[Point]] = [[] for _ in sweep.cases]
    for point in sweep.points:
        if point.number in sweep.front:
            lines[sweep.case_of[point.number]].append(point)
    return [sorted(line, key=lambda point: (point.numbers[content], -point.numbers[style])) for line in lines if line]


def _along(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most `most` of the points, evenly spaced and with both ends."""
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def _goals(points: Sequence[Point], sweep: Sweep) -> tuple[list[float], list[float]]:
    content, style = sweep.goals
    return [point.numbers[content] for point in points], [point.numbers[style] for point in points]


@dataclass(frozen=True)
class _Curve:
    """The total losses of a run, without values that a logarithmic axis cannot show."""

    point: Point
    evaluations: Column
    losses: Column


def _curves(sweep: Sweep) -> Iterator[_Curve]:
    for point in sweep.points:
        trace = point.folder.trace
        if {"loss/total", "solver/evaluations"} <= trace.keys():
            evaluations, losses = trace["solver/evaluations"], trace["loss/total"]
            shown = np.isfinite(losses) & (losses > 0) & (evaluations > 0)
            if shown.any():
                yield _Curve(point, evaluations[shown], losses[shown])


def _colour(axis: Axis, value: Value) -> Any:
    """Return the colour of a value, from blue for the first of an axis to red for the last."""
    return _HUES(axis.values.index(value) / (len(axis.values) - 1))


def _finish_convergence(axes: Axes, axis: Axis | None, curves: Sequence[_Curve]) -> None:
    axes.set_xlabel("evaluations of loss and gradient")
    axes.set_ylabel("total loss")
    axes.grid(color=_GRID, lw=0.6)
    axes.set_axisbelow(True)
    if not curves:
        _say(axes, "no run has a curve yet")
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    for one in (axes.xaxis, axes.yaxis):
        one.set_major_locator(LogLocator(subs=(1, 2, 5)))
        one.set_major_formatter(FormatStrFormatter("%g"))
        one.set_minor_locator(NullLocator())
    _number_ends(axes, curves)
    if axis is not None:
        for value in axis.values:
            axes.plot([], [], color=_colour(axis, value), lw=2, label=drawable(axis.label(value)))
        axes.legend(title=drawable(axis.name), fontsize=9, title_fontsize=9, labelcolor=INK)


def _number_ends(axes: Axes, curves: Sequence[_Curve]) -> None:
    """Write the numbers of runs at the ends of their curves, as long as they do not overlap."""
    low, high = np.log(axes.get_ylim())
    last = -np.inf
    for curve in sorted(curves, key=lambda curve: float(curve.losses[-1])):
        height = (np.log(curve.losses[-1]) - low) / (high - low)
        if height - last > _LABEL:
            end = (curve.evaluations[-1], curve.losses[-1])
            style: dict[str, Any] = {"fontsize": 7, "color": SOFT, "va": "center"}
            axes.annotate(str(curve.point.number), end, (3, 0), textcoords="offset points", **style)
            last = height


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=SOFT)
