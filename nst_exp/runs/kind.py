"""The interface that images, videos and cameras share: `RunKind`."""

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

Within = Callable[[int], AbstractContextManager[object]]  # entered around work for the run with this index alone


@dataclass(frozen=True)
class ActiveRun:
    """A run that has begun: what it is made from, and where it writes to."""

    inputs: Inputs
    folder: RunFolder
    tracked: TrackedRun


@runtime_checkable
class RunKind(Protocol):
    """How one kind of run is solved and finished; its module in this package has one as `KIND`.

    A run is solved together with others, in a batch, and finished alone. What solving returned for a run comes to
    `finish` as an `Outcome`, so that one that failed does not stop the others.
    """

    def batch_key(self, inputs: Inputs) -> Hashable:
        """Runs with equal keys can be solved in one batch."""

    def solve(self, runs: Sequence[ActiveRun], within: Within) -> list[Outcome[Any]]:
        """Solve runs of one `batch_key` together.

        Args:
            within: entered around what is logged or written for one run alone.

        Raises:
            InputError: if all of them failed, such as when the device is out of memory.
        """

    def finish(self, run: ActiveRun, outcome: Outcome[Any]) -> Result:
        """Write the picture or video, measure it, and write the result.

        Args:
            outcome: of `solve` for this run.

        Raises:
            InputError: if the run failed, or a file cannot be written.
        """


def run_kind(name: str) -> RunKind:
    """The kind for a `Source.kind`, imported when it is needed: pictures need none of what reads video."""
    kind: RunKind = importlib.import_module(f"nst_exp.runs.{name}").KIND
    return kind
