"""Read a sweep: the settings, measures, costs and state of each run, finished or not."""

from __future__ import annotations

import contextlib
import difflib
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import yaml

from nst_exp.errors import InputError
from nst_exp.evaluation.catalogue import ALL_MEASURES
from nst_exp.files import read_json
from nst_exp.records.folder import RunFolder, Value, run_folders
from nst_exp.records.result import Result
from nst_exp.records.sweep import SWEEP_RECORD
from nst_exp.report.cases import Case, Rated, Reference, cases_of
from nst_exp.report.filter import Row, matching

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
_DEFAULT_STORE = "/outputs/mlflow.db"  # the store that `nst_exp.reproduce` reads by default
_PLACING = ("hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")

# The costs of a run: their keys in result.json, and their names in reports.
COSTS = {
    "total_loss": "final loss",
    "evaluations": "evaluations",
    "seconds": "seconds",
    "evaluations_per_second": "evaluations per second",
    "peak_memory_mb": "peak memory, MB",
}


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        number: the number of the run, which is also the name of its folder.
        folder: the folder of the run.
        status: `DONE`, `FAILED` or `UNFINISHED`.
        overrides: Hydra's overrides of this run.
        settings: all settings by name; texts that can be read as numbers are numbers.
        numbers: the measures and costs that are known, by name.
        losses: the final loss by its terms.
        error: the reason why the run failed; empty if it did not.
        reference: the inputs and settings that its measures depend on.
    """

    number: int
    folder: RunFolder
    status: str
    overrides: tuple[str, ...]
    settings: Mapping[str, Value]
    numbers: Mapping[str, float]
    losses: Mapping[str, float]
    error: str
    reference: Reference

    @property
    def picture(self) -> Path | None:
        """The finished picture, or the latest one of its progress; None before the first."""
        if self.status == DONE:
            return self.folder.path / self.folder.result.pastiche
        return next((path for _, path in reversed(list(self.folder.progress))), None)

    @property
    def video(self) -> Path | None:
        """The video; None if there is none."""
        result = self.folder.result_so_far
        return self.folder.path / result.video if result is not None and result.video else None

    @property
    def step(self) -> int | None:
        """The step of `picture` if the run is not done; None otherwise."""
        return None if self.status == DONE else next((step for step, _ in reversed(list(self.folder.progress))), None)

    @property
    def command(self) -> str:
        """The command that repeats the run by its settings."""
        return f"python -m nst_exp.run {shlex.join(self.overrides)}".strip()

    @property
    def reproduce(self) -> str | None:
        """The command that repeats the run from MLflow; None if the run is not tracked."""
        tracked = self.folder.tracked
        if tracked is None:
            return None
        uri = tracked.tracking_uri
        is_default = uri.endswith(_DEFAULT_STORE) or urlsplit(uri).password  # pages are passed on to other people
        store = "" if is_default else f" --tracking-uri {shlex.quote(uri)}"
        return f"python -m nst_exp.reproduce {tracked.run_id}{store}"


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, or a selection of them.

    Attributes:
        folder: the folder of the sweep.
        overrides: the overrides of the command that started the sweep; empty if unknown.
        points: the runs in order.
        ordered: whether the user asked for this order.
    """

    folder: Path
    overrides: tuple[str, ...]
    points: tuple[Point, ...]
    ordered: bool = False

    @property
    def command(self) -> str:
        """The command that started the sweep; empty if unknown."""
        return f"python -m nst_exp.run -m {shlex.join(self.overrides)}" if self.overrides else ""

    @property
    def counts(self) -> dict[str, int]:
        """The number of runs that are done, failed and unfinished, by status."""
        return {status: sum(point.status == status for point in self.points) for status in (DONE, FAILED, UNFINISHED)}

    @cached_property
    def numbers(self) -> list[str]:
        """The names of the measures and costs that at least one run has."""
        known = {name for point in self.points for name in point.numbers}
        return [name for name in (*ALL_MEASURES, *COSTS) if name in known]

    @property
    def goals(self) -> tuple[str, str]:
        """The names of the two measures that style transfer trades off: of content and of style."""
        content = "lpips" if "lpips" in self.numbers else "content_distance"
        return content, "style_distance"

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """The groups of runs whose scores can be compared; only runs of one case are ranked against each other."""
        return cases_of([(Rated(point.number, point.numbers), point.reference) for point in self.points], self.goals)

    @cached_property
    def case_of(self) -> Mapping[int, int]:
        """The index of each run's case in `cases`, by the number of the run."""
        return {run.number: index for index, case in enumerate(self.cases) for run in case.runs}

    @cached_property
    def bests(self) -> Mapping[str, Point]:
        """The run with the best score of each case that has scores, by the title of the case."""
        points = {point.number: point for point in self.points}
        return {case.title: points[case.best] for case in self.cases if case.best is not None}

    @cached_property
    def starred(self) -> frozenset[int]:
        """The numbers of the best runs of the cases in which there is a choice."""
        return frozenset(case.best for case in self.cases if case.is_contest and case.best is not None)

    @cached_property
    def front(self) -> frozenset[int]:
        """The numbers of the runs on the Pareto fronts of their cases."""
        return frozenset().union(*(case.front for case in self.cases))

    @cached_property
    def marked_front(self) -> frozenset[int]:
        """The same as `front`, without cases whose runs are all on the front: marks would tell nothing there."""
        return frozenset().union(*(case.marked_front for case in self.cases))

    @property
    def ranking_note(self) -> str:
        """A sentence or two on the meaning of the marks in this sweep; empty if there is nothing to explain."""
        best = ""
        if self.starred:
            cases = f" of each of the {len(self.cases)} cases (runs measured against the same)"
            best = f"best: the lowest score{cases if len(self.cases) > 1 else ''}; lower is better."
        return " ".join(filter(None, [best, *self.unmarked_notes]))

    @property
    def unmarked_notes(self) -> list[str]:
        """Sentences on why runs are not marked where a mark could be expected."""
        notes = []
        if self.bests and not self.starred:
            notes.append("A lower score is better; no case has two runs to choose from.")
        if self.front and not self.marked_front:
            notes.append("Every run is on the Pareto front, so none is marked.")
        if any(not case.is_ranked for case in self.cases):
            notes.append("Runs with evaluator=tiny are not ranked: its numbers mean nothing.")
        return notes


def label_of(name: str) -> str:
    """Return the short name of a measure or cost."""
    return ALL_MEASURES[name].label if name in ALL_MEASURES else COSTS[name]


def lower_is_better(name: str) -> bool:
    """Tell whether lower values of a measure or cost are better."""
    if name in ALL_MEASURES:
        return ALL_MEASURES[name].direction == "lower"
    return name != "evaluations_per_second"


def read_sweep(folder: Path) -> Sweep:
    """Read the sweep in `folder` with all runs that have begun, finished or not.

    Raises:
        InputError: if `folder` cannot be read.
    """
    try:
        folders = run_folders(folder)
    except OSError as error:
        raise InputError(f"{str(folder)!r} holds no sweep: {error.strerror}") from error
    points = tuple(_point(run) for run in folders if _began(run))
    overrides = read_json(folder / SWEEP_RECORD).get("overrides") or ()
    placing = _placing(points[0].folder) if points and overrides else ()
    return Sweep(folder, (*overrides, *placing), points)


def select(sweep: Sweep, condition: str = "", sort: Sequence[str] = ()) -> Sweep:
    """Select the runs that meet a condition, and sort them.

    Args:
        sweep: the runs to select from.
        condition: a filter in the language of `nst_exp.report.filter`; empty for all runs.
        sort: names of settings, measures or costs, the most important first; a leading `-` means descending order.

    Returns:
        The sweep with these runs only. Runs without a value to sort by come last.

    Raises:
        InputError: if the condition cannot be understood or a key is unknown.
    """
    points = list(sweep.points)
    if condition:
        try:
            met = matching(condition, rows_of(sweep))
        except InputError as error:
            raise InputError(f"--filter={condition!r}: {error}; it can use {_choices(sweep)}") from error
        points = [point for point, kept in zip(points, met, strict=True) if kept]
    for key in reversed(sort):
        points = _sorted(points, key, sweep)
    return replace(sweep, points=tuple(points), ordered=bool(sort))


def table(sweep: Sweep) -> pd.DataFrame:
    """Return a table with a row for each run.

    The columns are `run`, `status`, `case` (if there are several), all settings, measures and costs, `best`,
    `on_front`, `error` and `folder`.
    """
    settings = list(dict.fromkeys(name for point in sweep.points for name in point.settings))
    rows = [
        {
            "run": point.number,
            "status": point.status,
            **({"case": sweep.cases[sweep.case_of[point.number]].title} if len(sweep.cases) > 1 else {}),
            **{name: point.settings.get(name) for name in settings if name not in point.numbers},
            **{name: point.numbers.get(name, math.nan) for name in sweep.numbers},
            "best": point.number in sweep.starred,
            "on_front": point.number in sweep.front,
            "error": point.error,
            "folder": str(point.folder.path),
        }
        for point in sweep.points
    ]
    columns = [
        "run",
        "status",
        *["case"] * (len(sweep.cases) > 1),
        *settings,
        *sweep.numbers,
        "best",
        "on_front",
        "error",
        "folder",
    ]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))


def override_of(text: str) -> tuple[str, Value]:
    """Split one of Hydra's overrides into its key and its value."""
    key, _, value = text.lstrip("+").partition("=")
    return key, value_of(value)


def value_of(text: Any) -> Value:
    """Return a number if the text can be read as a finite one, else the text without blanks and quotes around it."""
    if text is None or (isinstance(text, int | float) and not isinstance(text, bool)):
        return text
    plain = str(text).strip().strip("'\"")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            number = kind(plain)
            return number if math.isfinite(number) else plain
    return plain


def _placing(run: RunFolder) -> tuple[str, ...]:
    """Return the overrides of the sweep's command that choose Hydra's sweeper and launcher, from Hydra's record."""
    try:
        hydra = yaml.safe_load((run.path / ".hydra" / "hydra.yaml").read_text())["hydra"]
        given = map(str, hydra["overrides"]["hydra"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ()
    return tuple(one for one in given if one.lstrip("+~").startswith(_PLACING))


def _began(run: RunFolder) -> bool:
    """Tell whether a run has begun; Hydra creates its folder a moment earlier."""
    return bool(_overrides(run)) or run.finished


def _overrides(run: RunFolder) -> tuple[str, ...]:
    with contextlib.suppress(InputError, yaml.YAMLError):
        return run.overrides
    return ()


def _point(run: RunFolder) -> Point:
    result, failure = run.result_so_far, run.failure
    overrides = _overrides(run)
    numbers = {} if result is None else {**result.measures, **_shown_costs(result)}
    losses = {} if result is None else result.losses
    settings, tags = _settings(run)
    settings |= dict(map(override_of, overrides))
    return Point(
        number=int(run.path.name),
        folder=run,
        status=DONE if run.finished else FAILED if failure else UNFINISHED,
        overrides=overrides,
        settings=settings,
        numbers={name: float(value) for name, value in numbers.items() if _is_finite(value)},
        losses={name: float(value) for name, value in losses.items() if _is_finite(value)},
        error=str(failure.get("error", "")),
        reference=Reference.of(settings, tags),
    )


def _shown_costs(result: Result) -> dict[str, float]:
    return {name: cost for name, cost in result.costs.items() if name in COSTS}


def _settings(run: RunFolder) -> tuple[dict[str, Value], Mapping[str, str]]:
    """Return all settings by their readable names, and the tags; a run without a record has only a configuration."""
    with contextlib.suppress(InputError):
        record = run.record
        return {name: value_of(value) for name, value in record.params.items()}, record.tags
    with contextlib.suppress(yaml.YAMLError):
        return dict(_flat(run.config)), {}
    return {}, {}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value_of(", ".join(map(str, value)) if isinstance(value, list) else value)


def rows_of(sweep: Sweep) -> list[Row]:
    """Return each run for filters: its values in `table`, and the text in which words are searched for."""
    frame = table(sweep)
    values: list[dict[str, Value | bool]] = [
        {str(name): None if _missing(value) else value for name, value in line.items()}
        for line in frame.to_dict("records")
    ]
    return [Row(line, _text(point, line)) for point, line in zip(sweep.points, values, strict=True)]


def _text(point: Point, values: Mapping[str, Value | bool]) -> str:
    """Return the number, the command and all values of a run that are texts."""
    texts = (value for name, value in values.items() if isinstance(value, str) and name != "folder")
    return " ".join([str(point.number), point.command, *texts])


def _sorted(points: Sequence[Point], key: str, sweep: Sweep) -> list[Point]:
    """Sort by one key; equal runs keep their order, and runs without a value come last in both directions."""
    frame, name = table(sweep), key.removeprefix("-")
    if name not in frame:
        near = difflib.get_close_matches(name, list(frame), 1, cutoff=0.7)
        hint = f"did you mean {near[0]}? Or " if near else ""
        raise InputError(f"--sort={key}: no such key; {hint}choose {_choices(sweep)}")
    values = dict(zip(frame["run"], frame[name], strict=True))
    known = [point for point in points if not _missing(values[point.number])]
    known.sort(key=lambda point: _rank(values[point.number]), reverse=key.startswith("-"))
    return known + [point for point in points if _missing(values[point.number])]


def _choices(sweep: Sweep) -> str:
    """Return the keys for filters and sorting as a list to read, those of the command first."""
    given = dict.fromkeys(override_of(override)[0] for point in sweep.points for override in point.overrides)
    return ", ".join(["run", "status", *given, *sweep.numbers, "or any other setting"])


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _rank(value: Any) -> tuple[bool, Any]:
    """Return a key for sorting that puts numbers before texts."""
    return isinstance(value, str), value


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
