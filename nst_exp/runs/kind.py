"""`RunKind`, the interface of the three kinds of runs: images, videos and cameras."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from nst_exp.outcome import Outcome
from nst_exp.records.folder import RunFolder
from nst_exp.records.result import Result
from nst_exp.records.tracking import TrackedRun
from nst_exp.runs.inputs import Inputs

Within = Callable[[int], AbstractContextManager[object]]  # makes a context for work on the run with this index alone


@dataclass(frozen=True)
class ActiveRun:
    """A run that has begun.

    Attributes:
        inputs: the inputs that were read.
        folder: the folder that the run writes to.
        tracked: the MLflow run; if the run is not tracked, it ignores everything.
    """

    inputs: Inputs
    folder: RunFolder
    tracked: TrackedRun


@runtime_checkable
class RunKind(Protocol):
    """The interface of a kind of runs. The module of each kind in this package has an instance named `KIND`.

    Runs are solved together, in a batch, and finished one by one. `solve` returns an `Outcome` for each run, which
    `finish` takes, so that a run that fails does not stop the others.
    """

    def batch_key(self, inputs: Inputs) -> Hashable:
        """Return a key that is equal for runs that can be solved in one batch."""

    def solve(self, runs: Sequence[ActiveRun], within: Within) -> list[Outcome[Any]]:
        """Solve runs with equal batch keys together.

        Args:
            runs: at least one.
            within: returns a context, given the index of a run. It is entered whenever something is logged or written
                for that run alone.

        Returns:
            The outcome of each run, in the order of `runs`.

        Raises:
            InputError: if all runs failed, such as when the device is out of memory.
        """

    def finish(self, run: ActiveRun, outcome: Outcome[Any]) -> Result:
        """Write the picture or video of a run, measure it, and write its result.

        Args:
            run: one of the runs that were solved.
            outcome: what `solve` returned for this run.

        Raises:
            InputError: if the run failed, or a file cannot be written.
        """


def run_kind(name: str) -> RunKind:
    """Return the kind of runs for a `Source.kind`.

    Its module is imported only now, because runs of pictures need none of the modules that read videos.
    """
    kind: RunKind = importlib.import_module(f"nst_exp.runs.{name}").KIND
    return kind
