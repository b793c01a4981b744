"""Cases: groups of runs whose scores can be compared, because they are measured against the same things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from nst_exp.evaluation.catalogue import ALL_MEASURES, pareto_front
from nst_exp.records.folder import Value

SCORE = "score"
_INPUTS = ("content", "style")
_REFERENCES = ("source", "aspect", "evaluator", "video.start", "video.end", "video.every", "version.results")
_RANDOM_EVALUATOR = "tiny"


@dataclass(frozen=True)
class Reference:
    """What the measures of a run compare it with.

    Attributes:
        identity: equal for two runs if their measures can be compared.
        names: how each part of the identity is shown to people.
        is_random: whether the evaluator has random weights, so that its numbers mean nothing.
    """

    identity: tuple[Value, ...]
    names: tuple[str, ...]
    is_random: bool

    @property
    def is_known(self) -> bool:
        """Whether the run says which photograph and painting it reads."""
        return any(part is not None for part in self.identity[: len(_INPUTS)])

    @classmethod
    def of(cls, settings: Mapping[str, Value], tags: Mapping[str, str]) -> Reference:
        """The reference of a run with these settings and tags.

        Photograph and painting are told apart by their contents where the run recorded a hash. The seed counts
        if a run starts from noise: settings are then compared under the same noise.
        """
        inputs = {name: tags.get(f"sha256.{name}") or settings.get(name) for name in _INPUTS}
        others = {name: settings.get(name, tags.get(name)) for name in _REFERENCES}
        others["seed"] = settings.get("seed") if settings.get("init") == "noise" else None
        names = [PurePath(str(settings.get(name))).stem for name in _INPUTS]
        names += [f"{name}={value}" for name, value in others.items()]
        return cls((*inputs.values(), *others.values()), tuple(names), settings.get("evaluator") == _RANDOM_EVALUATOR)


@dataclass(frozen=True)
class Rated:
    """A run as its case sees it: its number and its measures."""

    number: int
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """The runs that share a reference. Only these are ranked against each other.

    Attributes:
        title: what tells this case from the others of the sweep; empty if there is only one case.
        runs: its runs, measured or not.
        goals: the two measures that style transfer trades.
        is_ranked: whether its measures mean something.
    """

    title: str
    runs: tuple[Rated, ...]
    goals: tuple[str, str]
    is_ranked: bool

    @cached_property
    def best(self) -> int | None:
        """The number of the run with the best score; None if no run has a score that means something."""
        scored = [run for run in self.runs if SCORE in run.numbers] if self.is_ranked else []
        sign = 1 if ALL_MEASURES[SCORE].direction == "lower" else -1
        found = min(scored, key=lambda run: sign * run.numbers[SCORE], default=None)
        return found.number if found else None

    @cached_property
    def is_contest(self) -> bool:
        """Whether two runs or more have a score, so that being the best says something."""
        return sum(SCORE in run.numbers for run in self.runs) > 1

    @cached_property
    def front(self) -> frozenset[int]:
        """The numbers of the runs that no other run of the case beats in both goals."""
        content, style = self.goals
        on_front = pareto_front(
            [run.numbers[content] for run in self._rated], [run.numbers[style] for run in self._rated]
        )
        return frozenset(run.number for run, on in zip(self._rated, on_front, strict=True) if on)

    @cached_property
    def marked_front(self) -> frozenset[int]:
        """As `front`, but empty if every run is on it: a mark on every run tells nothing."""
        return self.front if len(self.front) < len(self._rated) else frozenset()

    @cached_property
    def _rated(self) -> list[Rated]:
        return [run for run in self.runs if self.is_ranked and set(self.goals) <= run.numbers.keys()]


def cases_of(runs: Sequence[tuple[Rated, Reference]], goals: tuple[str, str]) -> tuple[Case, ...]:
    """The cases of a sweep, in the order in which their first runs come.

    A case whose evaluator is random is ranked only if all cases are: in a dry run there is nothing else to show. A run
    that was refused before it began says nothing of its inputs, has nothing to compare, and goes with the first case.
    """
    known = next((reference for _, reference in runs if reference.is_known), None)
    runs = [(run, reference if run.numbers or reference.is_known else known or reference) for run, reference in runs]
    members: dict[tuple[Value, ...], list[Rated]] = {}
    references: dict[tuple[Value, ...], Reference] = {}
    for run, reference in runs:
        members.setdefault(reference.identity, []).append(run)
        references.setdefault(reference.identity, reference)
    all_random = all(reference.is_random for reference in references.values())
    titles = _titles(list(references.values()))
    return tuple(
        Case(title, tuple(members[identity]), goals, all_random or not reference.is_random)
        for title, (identity, reference) in zip(titles, references.items(), strict=True)
    )


def _titles(references: Sequence[Reference]) -> list[str]:
    """The parts that differ from case to case; equal titles, as of a file that was changed, are counted."""
    if len(references) < 2:
        return [""] * len(references)
    differing = [len(set(parts)) > 1 for parts in zip(*(one.identity for one in references), strict=True)]
    titles: list[str] = []
    for reference in references:
        parts = [name for name, differs in zip(reference.names, differing, strict=True) if differs]
        inputs = sum(differing[: len(_INPUTS)])
        title = ", ".join(filter(None, [" × ".join(parts[:inputs]), *parts[inputs:]]))  # noqa: RUF001
        again = sum(other == title or other.startswith(f"{title} (") for other in titles)
        titles.append(f"{title} ({again + 1})" if again else title)
    return titles
