"""Cases: groups of runs whose scores can be compared, because they are measured against the same references."""

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
    """The inputs and settings that the measures of a run depend on, apart from its picture.

    Attributes:
        identity: a key that is equal for two runs if their measures can be compared.
        names: a readable text for each part of the identity.
        is_random: whether the evaluator has random weights, so that its numbers mean nothing.
    """

    identity: tuple[Value, ...]
    names: tuple[str, ...]
    is_random: bool

    @property
    def is_known(self) -> bool:
        """Whether the run names its photograph or its painting."""
        return any(part is not None for part in self.identity[: len(_INPUTS)])

    @classmethod
    def of(cls, settings: Mapping[str, Value], tags: Mapping[str, str]) -> Reference:
        """Return the reference of a run.

        Photographs and paintings are told apart by their contents where the run recorded a hash. The seed is part of
        the reference of a run that starts from noise, so that settings are compared under the same noise.

        Args:
            settings: the settings of the run.
            tags: the tags of its record, such as `sha256.content`.
        """
        inputs = {name: tags.get(f"sha256.{name}") or settings.get(name) for name in _INPUTS}
        others = {name: settings.get(name, tags.get(name)) for name in _REFERENCES}
        others["seed"] = settings.get("seed") if settings.get("init") == "noise" else None
        names = [PurePath(str(settings.get(name))).stem for name in _INPUTS]
        names += [f"{name}={value}" for name, value in others.items()]
        return cls((*inputs.values(), *others.values()), tuple(names), settings.get("evaluator") == _RANDOM_EVALUATOR)


@dataclass(frozen=True)
class Rated:
    """A run with its measures.

    Attributes:
        number: the number of the run.
        numbers: its measures and costs by name.
    """

    number: int
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """The runs that share a reference. Only runs of one case are ranked against each other.

    Attributes:
        title: the inputs and settings by which this case differs from the others; empty if there is only one case.
        runs: the runs of the case, with or without measures.
        goals: the names of the two measures that style transfer trades off: of content and of style.
        is_ranked: whether runs are ranked by their measures, which mean nothing if the evaluator is random.
    """

    title: str
    runs: tuple[Rated, ...]
    goals: tuple[str, str]
    is_ranked: bool

    @cached_property
    def best(self) -> int | None:
        """The number of the run with the best score; None if the case is not ranked or has no score."""
        scored = [run for run in self.runs if SCORE in run.numbers] if self.is_ranked else []
        sign = 1 if ALL_MEASURES[SCORE].direction == "lower" else -1
        found = min(scored, key=lambda run: sign * run.numbers[SCORE], default=None)
        return found.number if found else None

    @cached_property
    def is_contest(self) -> bool:
        """Whether at least two runs have a score, so that there is a choice."""
        return sum(SCORE in run.numbers for run in self.runs) > 1

    @cached_property
    def front(self) -> frozenset[int]:
        """The numbers of the runs on the case's Pareto front, as `pareto_front` defines it."""
        content, style = self.goals
        on_front = pareto_front(
            [run.numbers[content] for run in self._rated], [run.numbers[style] for run in self._rated]
        )
        return frozenset(run.number for run, on in zip(self._rated, on_front, strict=True) if on)

    @cached_property
    def marked_front(self) -> frozenset[int]:
        """The same as `front`, but empty if every run is on it, because marks on all runs would tell nothing."""
        return self.front if len(self.front) < len(self._rated) else frozenset()

    @cached_property
    def _rated(self) -> list[Rated]:
        return [run for run in self.runs if self.is_ranked and set(self.goals) <= run.numbers.keys()]


def cases_of(runs: Sequence[tuple[Rated, Reference]], goals: tuple[str, str]) -> tuple[Case, ...]:
    """Group runs into cases.

    Cases with a random evaluator are ranked only if all cases have one: a dry run has nothing else to show. A run that
    failed before it recorded its inputs has no measures, and is added to the first case with known inputs.

    Args:
        runs: each run with its reference.
        goals: the names of the two measures that style transfer trades off: of content and of style.

    Returns:
        The cases, in the order of their first runs.
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
    """Return a title for each case, of the parts in which cases differ.

    Titles that would be equal, for example because a file changed between runs, are numbered.
    """
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
