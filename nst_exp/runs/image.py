"""Runs of pictures: solved side by side, then each measured and written down."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nst_exp.errors import InputError
from nst_exp.evaluation.evaluator import Pair, measure
from nst_exp.media.image import sha256_of, to_uint8, write_image
from nst_exp.memory import forget_peak, peak_mb
from nst_exp.records.folder import PICTURE, RunFolder, Table, loss_column
from nst_exp.records.tracking import TrackedRun
from nst_exp.runs.preparation import Inputs, Static, cache_folder, memory_explained
from nst_exp.runs.progress import phase, progress
from nst_exp.transfer.stylize import Lane, Progress, Schedule, Solution, initial_image, stylize
from nst_exp.types import AnyImage

Within = Callable[[int], contextlib.AbstractContextManager[Any]]


@dataclasses.dataclass(frozen=True)
class Canvas:
    """What a picture is made from, and where to."""

    inputs: Inputs
    folder: RunFolder
    run: TrackedRun

    @property
    def lane(self) -> Lane:
        """The picture's place in a batch."""
        inputs = self.inputs
        return Lane(inputs.weights, inputs.content_image, inputs.style_image, seed=inputs.plan.config.seed)


@dataclasses.dataclass(frozen=True)
class Painted:
    """What solving brought a picture, and cost it.

    Attributes:
        trace: a row for each step.
        seconds: the picture's share of the time that its batch took.
        peak_memory_mb: of the whole batch.
        lanes: pictures in the batch.
    """

    solution: Solution
    trace: Table
    seconds: float
    peak_memory_mb: float
    lanes: int


def paint(canvases: Sequence[Canvas], within: Within = contextlib.nullcontext) -> list[Painted | InputError]:
    """Solve pictures of one `Static` side by side; what happens on the way is written down picture by picture.

    Args:
        within: entered, with a picture's index, around what is written for that one alone.

    Returns:
        For each picture what solving brought, or why there is nothing.

    Raises:
        OutOfMemoryError: if the device is out of memory.
        InputError: if no picture's files can be written.
    """
    inputs, count = canvases[0].inputs, len(canvases)
    static = Static.of(inputs)
    diaries = [_Diary(canvas, static.schedule) for canvas in canvases]
    for index, diary in enumerate(diaries):
        with within(index):
            diary.begin()
    _stop_if_all_failed(diaries)
    evaluations = np.zeros(count, int)
    forget_peak()
    started = time.monotonic()
    with progress(static.schedule.steps, lanes=count) as shown, memory_explained(inputs.plan.config):

        def on_chunk(chunk: Progress) -> None:
            with within(chunk.lane):
                diaries[chunk.lane].add(chunk)
            _stop_if_all_failed(diaries)
            evaluations[chunk.lane] = chunk.trace.evaluations[-1]
            loss = float(chunk.trace.totals[-1])
            shown.update(steps_done=chunk.steps_done, loss=loss, evaluations=int(evaluations.sum()))

        lanes = [canvas.lane for canvas in canvases]
        solutions = stylize(static.objective, static.method, inputs.params, lanes, static.schedule, on_chunk)
    seconds, peak = (time.monotonic() - started) / count, peak_mb()
    return [
        diary.failure
        or (solution if isinstance(solution, InputError) else Painted(solution, diary.trace, seconds, peak, count))
        for diary, solution in zip(diaries, solutions, strict=True)
    ]


def _stop_if_all_failed(diaries: Sequence[_Diary]) -> None:
    failures = [diary.failure for diary in diaries if diary.failure is not None]
    if len(failures) == len(diaries):
        raise failures[0]


def finish_picture(canvas: Canvas, painted: Painted | InputError) -> dict[str, Any]:
    """Measure and write everything down.

    Returns:
        What result.json holds.

    Raises:
        InputError: if there is no solution, or a file cannot be written.
    """
    if isinstance(painted, InputError):
        raise painted
    inputs, folder, solution = canvas.inputs, canvas.folder, painted.solution
    folder.write_trace(painted.trace)
    write_image(folder.path / PICTURE, np.asarray(solution.pastiche))
    result = {
        "identity": folder.record.identity,
        "pastiche": PICTURE,
        "total_loss": solution.total_loss,
        "losses": solution.losses,
        "measures": _measures(inputs, solution),
        "steps": solution.steps,
        "evaluations": solution.evaluations,
        "restarts": solution.restarts,
        "seconds": painted.seconds,
        "evaluations_per_second": solution.evaluations / painted.seconds,
        "peak_memory_mb": painted.peak_memory_mb,
        "lanes": painted.lanes,
        "sha256": {**inputs.plan.hashes, "pastiche": sha256_of(folder.path / PICTURE)},
    }
    folder.finish(result)
    return result


def _measures(inputs: Inputs, solution: Solution) -> dict[str, float]:
    """What the judge says of the picture as it is written: clipped and rounded to 8 bits."""
    phase("measuring")
    plan, written = inputs.plan, jnp.asarray(to_uint8(solution.pastiche)[None], jnp.float32) / 255
    hashes = (plan.hashes["content"], plan.hashes["style"])
    pair = Pair(plan.files["content"], plan.files["style"], hashes, plan.config.aspect)
    return measure(plan.config.judge, pair, inputs.content_image, written, cache_folder(plan.config))


class _Diary:
    """What is written while a picture is solved: its trace, and pictures on the way.

    Attributes:
        failure: why something could not be written. The other pictures of the batch are solved all the same.
    """

    def __init__(self, canvas: Canvas, schedule: Schedule) -> None:
        self._canvas = canvas
        self._schedule = schedule
        self._tables: list[Table] = []
        self.failure: InputError | None = None
        self._snapshots = _snapshot_steps(schedule.steps, canvas.inputs.plan.config.tracking.snapshots)

    def begin(self) -> None:
        """Write down where the picture sets out from; MLflow's image grid opens with it."""
        with self._failing_alone():
            self._keep(initial_image(self._schedule, self._canvas.lane), 0)

    def add(self, chunk: Progress) -> None:
        """Write down what a chunk brought."""
        self._tables.append(_table(chunk))
        with self._failing_alone():
            self._canvas.run.log_trace(self._tables[-1])
            while self._snapshots and chunk.steps_done >= self._snapshots[0]:
                self._keep(chunk.best_image, self._snapshots.pop(0))

    @contextlib.contextmanager
    def _failing_alone(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            self.failure = self.failure or error

    @property
    def trace(self) -> Table:
        """A row for each step so far."""
        return {name: np.concatenate([table[name] for table in self._tables]) for name in self._tables[0]}

    def _keep(self, image: AnyImage, step: int) -> None:
        write_image(self._canvas.folder.progress_file(step), image)
        self._canvas.run.log_picture(to_uint8(image), step)


def _table(chunk: Progress) -> Table:
    """The losses of every step of a chunk."""
    trace, count = chunk.trace, len(chunk.trace.totals)
    table = {"step": chunk.steps_done - count + 1 + np.arange(count), "loss/total": trace.totals}
    table |= {loss_column(name): row for name, row in trace.losses.items()}
    table |= {"solver/evaluations": trace.evaluations, "solver/scale": np.full(count, chunk.scale)}
    return {name: np.asarray(column) for name, column in table.items()}


def _snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """`snapshots` steps spread evenly over a run, its end left out."""
    return [steps * (index + 1) // (snapshots + 1) for index in range(snapshots)]
