"""Runs of pictures, which are solved in a batch and then written and measured one by one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Hashable, Sequence

import jax.numpy as jnp
import numpy as np

from nst_exp.evaluation.evaluator import Pair, measure
from nst_exp.files import cache_folder
from nst_exp.media.image import sha256_of, to_uint8, write_image
from nst_exp.memory import peak_mb, reset_peak
from nst_exp.outcome import Failure, Outcome
from nst_exp.records.folder import PICTURE, Table, loss_column
from nst_exp.records.result import Result
from nst_exp.runs.inputs import Inputs, SolverSetup, entry_of, out_of_memory_as_input_error
from nst_exp.runs.kind import ActiveRun, Within
from nst_exp.runs.progress import phase, progress
from nst_exp.transfer.stylize import Progress, Schedule, Solution, initial_image, stylize
from nst_exp.types import AnyImage


@dataclasses.dataclass(frozen=True)
class SolvedImage:
    """A picture that has been solved but not written yet, and the costs of solving it.

    Attributes:
        solution: the result of the solver.
        trace: the losses of each step, with a row for each step.
        seconds: the picture's equal share of the time that its batch took.
        peak_memory_mb: the peak memory of the whole batch, in 10^6 bytes.
        batch_size: the number of pictures in the batch.
    """

    solution: Solution
    trace: Table
    seconds: float
    peak_memory_mb: float
    batch_size: int


class ImageRuns:
    """The `RunKind` of pictures."""

    def batch_key(self, inputs: Inputs) -> Hashable:
        """See `RunKind`."""
        return SolverSetup.of(inputs)

    def solve(self, runs: Sequence[ActiveRun], within: Within) -> list[Outcome[SolvedImage]]:
        """See `RunKind`. The losses and intermediate pictures of each run are logged meanwhile."""
        inputs, count = runs[0].inputs, len(runs)
        setup = SolverSetup.of(inputs)
        journals = [_Journal(run, setup.schedule) for run in runs]
        for index, journal in enumerate(journals):
            with within(index):
                journal.begin()
        _stop_if_all_failed(journals)
        evaluations = np.zeros(count, int)
        reset_peak()
        started = time.monotonic()
        with progress(setup.schedule.steps, batch_size=count) as bar, out_of_memory_as_input_error(inputs.plan.config):

            def on_chunk(chunk: Progress) -> None:
                with within(chunk.entry):
                    journals[chunk.entry].add(chunk)
                _stop_if_all_failed(journals)
                evaluations[chunk.entry] = chunk.trace.evaluations[-1]
                loss = float(chunk.trace.totals[-1])
                bar.update(steps_done=chunk.steps_done, loss=loss, evaluations=int(evaluations.sum()))

            entries = [entry_of(run.inputs, run.inputs.content_image) for run in runs]
            outcomes = stylize(setup.objective, setup.method, inputs.params, entries, setup.schedule, on_chunk)
        seconds, peak = (time.monotonic() - started) / count, peak_mb()
        return [
            journal.outcome(outcome, seconds, peak, count) for journal, outcome in zip(journals, outcomes, strict=True)
        ]

    def finish(self, run: ActiveRun, outcome: Outcome[SolvedImage]) -> Result:
        """See `RunKind`."""
        solved, inputs, folder = outcome.get(), run.inputs, run.folder
        solution = solved.solution
        folder.write_trace(solved.trace)
        write_image(folder.path / PICTURE, np.asarray(solution.pastiche))
        result = Result(
            identity=folder.record.identity,
            pastiche=PICTURE,
            total_loss=solution.total_loss,
            losses=solution.losses,
            measures=_measures(inputs, solution),
            steps=solution.steps,
            evaluations=solution.evaluations,
            restarts=solution.restarts,
            seconds=solved.seconds,
            evaluations_per_second=solution.evaluations / solved.seconds,
            peak_memory_mb=solved.peak_memory_mb,
            batch_size=solved.batch_size,
            sha256={**inputs.plan.hashes, "pastiche": sha256_of(folder.path / PICTURE)},
        )
        folder.finish(result)
        return result


KIND = ImageRuns()


def _stop_if_all_failed(journals: Sequence[_Journal]) -> None:
    errors = [journal.failure.error for journal in journals if journal.failure.error is not None]
    if len(errors) == len(journals):
        raise errors[0]


def _measures(inputs: Inputs, solution: Solution) -> dict[str, float]:
    """Measure the picture as it is written to its file, clipped and rounded to 8 bits."""
    phase("measuring")
    plan, written = inputs.plan, jnp.asarray(to_uint8(solution.pastiche)[None], jnp.float32) / 255
    hashes = (plan.hashes["content"], plan.hashes["style"])
    pair = Pair(plan.files["content"], plan.files["style"], hashes, plan.config.aspect)
    return measure(plan.config.evaluator, pair, inputs.content_image, written, cache_folder(plan.config.cache_dir))


class _Journal:
    """Writes and logs the trace and the intermediate pictures of a run while it is solved.

    Attributes:
        failure: holds the first error of writing or logging. It does not stop the other pictures of the batch.
    """

    def __init__(self, run: ActiveRun, schedule: Schedule) -> None:
        self._run = run
        self._schedule = schedule
        self._tables: list[Table] = []
        self.failure = Failure()
        self._snapshots = _snapshot_steps(schedule.steps, run.inputs.plan.config.tracking.snapshots)

    def begin(self) -> None:
        """Write the initial picture, which is the first one of MLflow's image grid."""
        with self.failure.kept():
            inputs = self._run.inputs
            self._keep(initial_image(self._schedule, entry_of(inputs, inputs.content_image)), 0)

    def add(self, chunk: Progress) -> None:
        """Log the losses of a chunk, and write its picture if a snapshot is due."""
        self._tables.append(_table(chunk))
        with self.failure.kept():
            self._run.tracked.log_trace(self._tables[-1])
            while self._snapshots and chunk.steps_done >= self._snapshots[0]:
                self._keep(chunk.image, self._snapshots.pop(0))

    def outcome(self, solved: Outcome[Solution], seconds: float, peak: float, batch_size: int) -> Outcome[SolvedImage]:
        """Return the outcome of the run after its batch has been solved.

        Args:
            solved: the outcome of the solver.
            seconds: as in `SolvedImage`.
            peak: as `SolvedImage.peak_memory_mb`.
            batch_size: as in `SolvedImage`.
        """
        error = self.failure.error or solved.error
        if error is not None:
            return Outcome(error=error)
        return Outcome(SolvedImage(solved.get(), self._trace(), seconds, peak, batch_size))

    def _trace(self) -> Table:
        return {name: np.concatenate([table[name] for table in self._tables]) for name in self._tables[0]}

    def _keep(self, image: AnyImage, step: int) -> None:
        write_image(self._run.folder.progress_file(step), image)
        self._run.tracked.log_picture(to_uint8(image), step)


def _table(chunk: Progress) -> Table:
    """Return the losses of every step of a chunk as columns of the trace."""
    trace, count = chunk.trace, len(chunk.trace.totals)
    table = {"step": chunk.steps_done - count + 1 + np.arange(count), "loss/total": trace.totals}
    table |= {loss_column(name): row for name, row in trace.losses.items()}
    table |= {"solver/evaluations": trace.evaluations, "solver/scale": np.full(count, chunk.scale)}
    return {name: np.asarray(column) for name, column in table.items()}


def _snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """Return `snapshots` step numbers that are spread evenly over a run, without its last step."""
    return [steps * (index + 1) // (snapshots + 1) for index in range(snapshots)]
