"""A sweep as a table: a row for each run, finished or not, with what was set, what was measured and what it took."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import yaml

from nst_exp.errors import InputError
from nst_exp.files import read_json
from nst_exp.ranking import ALL_MEASURES, pareto_front
from nst_exp.results import PICTURE, RunFolder, run_folders

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
SWEEP = "sweep.json"
SCORE = "score"
_DEFAULT_STORE = "/outputs/mlflow.db"  # where nst_exp.reproduce looks by itself

# what a run took, by its key in result.json, and how that is called
COSTS = {
    "total_loss": "final loss",
    "evaluations": "evaluations",
    "seconds": "seconds",
    "evaluations_per_second": "evaluations per second",
    "peak_memory_mb": "peak memory, MB",
}

Value = float | int | str | None


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        number: its folder's name.
        folder: where its files are.
        status: `DONE`, `FAILED` or `UNFINISHED`.
        overrides: Hydra's, of this run.
        settings: every setting by its name, what can be read as a number being one.
        numbers: its measures and costs, as far as they are known.
        losses: the loss by its terms.
        error: why it failed, else empty.
    """

    number: int
    folder: RunFolder
    status: str
    overrides: tuple[str, ...]
    settings: Mapping[str, Value]
    numbers: Mapping[str, float]
    losses: Mapping[str, float]
    error: str

    @property
    def picture(self) -> Path | None:
        """Its picture, or the latest on the way; None before there is any."""
        if self.status == DONE:
            return self.folder.path / self.folder.result.get("pastiche", PICTURE)
        return next((path for _, path in reversed(list(self.folder.progress))), None)

    @property
    def clip(self) -> Path | None:
        """Its clip; None if it has none."""
        name = self.folder.result.get("clip")
        return self.folder.path / name if name else None

    @property
    def step(self) -> int | None:
        """The step of `picture` if that is one on the way."""
        return None if self.status == DONE else next((step for step, _ in reversed(list(self.folder.progress))), None)

    @property
    def command(self) -> str:
        """What repeats it by its settings."""
        return f"python -m nst_exp.run {shlex.join(self.overrides)}".strip()

    @property
    def reproduce(self) -> str | None:
        """What repeats it from MLflow; None if it is not tracked."""
        tracked = self.folder.tracked
        if tracked is None:
            return None
        uri = tracked.tracking_uri
        is_default = uri.endswith(_DEFAULT_STORE) or urlsplit(uri).password  # a page is shown around
        store = "" if is_default else f" --tracking-uri {shlex.quote(uri)}"
        return f"python -m nst_exp.reproduce {tracked.run_id}{store}"


@dataclass(frozen=True)
class Sweep:
    """The runs in a sweep's folder, all or some, in an order.

    Attributes:
        folder: where they are.
        overrides: of the command that began it; empty if that is not known.
        points: the runs.
        ordered: whether somebody asked for this order.
    """

    folder: Path
    overrides: tuple[str, ...]
    points: tuple[Point, ...]
    ordered: bool = False

    @property
    def command(self) -> str:
        """The command that began it; empty if that is not known."""
        return f"python -m nst_exp.run -m {shlex.join(self.overrides)}" if self.overrides else ""

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are done, failed and unfinished."""
        return {status: sum(point.status == status for point in self.points) for status in (DONE, FAILED, UNFINISHED)}

    @property
    def numbers(self) -> list[str]:
        """The measures and costs that any run has."""
        known = {name for point in self.points for name in point.numbers}
        return [name for name in (*ALL_MEASURES, *COSTS) if name in known]

    @property
    def best(self) -> Point | None:
        """The run with the best score; None if none has one."""
        scored = [point for point in self.points if SCORE in point.numbers]
        sign = 1 if lower_is_better(SCORE) else -1
        return min(scored, key=lambda point: sign * point.numbers[SCORE], default=None)

    @property
    def goals(self) -> tuple[str, str]:
        """The two measures that style transfer trades: of what is kept, and of what is reached."""
        content = "lpips" if "lpips" in self.numbers else "content_distance"
        return content, "style_distance"

    @property
    def front(self) -> frozenset[int]:
        """The numbers of the runs that no other run beats in both goals."""
        content, style = self.goals
        rated = [point for point in self.points if {content, style} <= point.numbers.keys()]
        if not rated:
            return frozenset()
        on_front = pareto_front([point.numbers[content] for point in rated], [point.numbers[style] for point in rated])
        return frozenset(point.number for point, on in zip(rated, on_front, strict=True) if on)


def label_of(name: str) -> str:
    """A measure or cost in a word or two."""
    return ALL_MEASURES[name].label if name in ALL_MEASURES else COSTS[name]


def lower_is_better(name: str) -> bool:
    """Whether a measure or cost is better when it is lower."""
    if name in ALL_MEASURES:
        return ALL_MEASURES[name].direction == "lower"
    return name != "evaluations_per_second"


def read_sweep(folder: Path) -> Sweep:
    """The sweep in `folder`, as far as it has come.

    Raises:
        InputError: if there is no such folder.
    """
    try:
        folders = run_folders(folder)
    except OSError as error:
        raise InputError(f"{str(folder)!r} holds no sweep: {error.strerror}") from error
    points = tuple(_point(run) for run in folders if _began(run))
    overrides = read_json(folder / SWEEP).get("overrides") or ()
    return Sweep(folder, tuple(overrides), points)


def select(sweep: Sweep, condition: str = "", sort: Sequence[str] = ()) -> Sweep:
    """The runs that meet `condition`, ordered by the keys `sort`.

    Args:
        sweep: all runs.
        condition: in the syntax of pandas' `DataFrame.query`, of settings, measures and costs; empty for all.
        sort: names of settings, measures or costs, with a `-` in front for descending order; the first counts most.

    Raises:
        InputError: if the condition cannot be read or a key is unknown.
    """
    points = list(sweep.points)
    if condition:
        points = [point for point, kept in zip(points, _meets(sweep, condition), strict=True) if kept]
    for key in reversed(sort):
        points = _sorted(points, key, sweep)
    return replace(sweep, points=tuple(points), ordered=bool(sort))


def table(sweep: Sweep) -> pd.DataFrame:
    """A row for each run: number, status, every setting, every measure and cost, `on_front`, error and folder."""
    settings = list(dict.fromkeys(name for point in sweep.points for name in point.settings))
    front = sweep.front
    rows = [
        {
            "run": point.number,
            "status": point.status,
            **{name: point.settings.get(name) for name in settings if name not in point.numbers},
            **{name: point.numbers.get(name, math.nan) for name in sweep.numbers},
            "on_front": point.number in front,
            "error": point.error,
            "folder": str(point.folder.path),
        }
        for point in sweep.points
    ]
    columns = ["run", "status", *settings, *sweep.numbers, "on_front", "error", "folder"]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))


def override_of(text: str) -> tuple[str, Value]:
    """Key and value of one of Hydra's overrides."""
    key, _, value = text.lstrip("+").partition("=")
    return key, value_of(value)


def value_of(text: Any) -> Value:
    """A number if it can be read as one, else the text."""
    if text is None or (isinstance(text, int | float) and not isinstance(text, bool)):
        return text
    plain = str(text).strip().strip("'\"")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            number = kind(plain)
            return number if math.isfinite(number) else plain
    return plain


def _began(run: RunFolder) -> bool:
    """Whether anything is known of a run; Hydra makes its folder a moment earlier."""
    return bool(_overrides(run)) or run.finished


def _overrides(run: RunFolder) -> tuple[str, ...]:
    with contextlib.suppress(InputError, yaml.YAMLError):
        return run.overrides
    return ()


def _point(run: RunFolder) -> Point:
    result, failure = run.result, run.failure
    overrides = _overrides(run)
    numbers = dict(result.get("measures") or {}) | {name: result[name] for name in COSTS if name in result}
    return Point(
        number=int(run.path.name),
        folder=run,
        status=DONE if run.finished else FAILED if failure else UNFINISHED,
        overrides=overrides,
        settings=_settings(run) | dict(map(override_of, overrides)),
        numbers={name: float(value) for name, value in numbers.items() if _is_finite(value)},
        losses={name: float(value) for name, value in (result.get("losses") or {}).items() if _is_finite(value)},
        error=str(failure.get("error", "")),
    )


def _settings(run: RunFolder) -> dict[str, Value]:
    """Every setting under its readable name; from the configuration if the run has no record."""
    with contextlib.suppress(InputError):
        return {name: value_of(value) for name, value in run.record.params.items()}
    with contextlib.suppress(yaml.YAMLError):
        return dict(_flat(run.config))
    return {}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value_of(", ".join(map(str, value)) if isinstance(value, list) else value)


def _meets(sweep: Sweep, condition: str) -> list[bool]:
    try:
        kept = table(sweep).eval(condition)
    except Exception as error:  # whatever Python's and pandas' parsers make of a user's text
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--filter={condition!r}: {reason}; it can use {_choices(sweep)}") from error
    if not isinstance(kept, pd.Series) or kept.dtype != bool:
        raise InputError(f"--filter={condition!r}: must be a condition, such as 'style_weight > 0.1'")
    return [bool(one) for one in kept]


def _sorted(points: Sequence[Point], key: str, sweep: Sweep) -> list[Point]:
    """By one key, equal ones left in their order; runs without a value come last either way."""
    frame, name = table(sweep), key.removeprefix("-")
    if name not in frame:
        raise InputError(f"--sort={key}: no such key; choose {_choices(sweep)}")
    values = dict(zip(frame["run"], frame[name], strict=True))
    known = [point for point in points if not _missing(values[point.number])]
    known.sort(key=lambda point: _rank(values[point.number]), reverse=key.startswith("-"))
    return known + [point for point in points if _missing(values[point.number])]


def _choices(sweep: Sweep) -> str:
    """What can be asked for, the keys of the command first."""
    given = dict.fromkeys(override_of(override)[0] for point in sweep.points for override in point.overrides)
    return ", ".join(["run", "status", *given, *sweep.numbers, "or any other setting"])


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _rank(value: Any) -> tuple[bool, Any]:
    """Numbers before texts."""
    return isinstance(value, str), value


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
