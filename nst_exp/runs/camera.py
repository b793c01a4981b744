"""Runs of a camera.

The newest frame is painted within a time budget, shown on a preview page and written to a video, again and again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from nst_exp.errors import InputError
from nst_exp.evaluation.evaluator import Pair, measure
from nst_exp.files import cache_folder
from nst_exp.media.camera import Camera, Snapshot
from nst_exp.media.codecs import CODECS
from nst_exp.media.frame_conversion import resize
from nst_exp.media.image import from_uint8, sha256_of, to_uint8, write_levels
from nst_exp.media.video_writer import write_video
from nst_exp.memory import peak_mb, reset_peak
from nst_exp.motion.flow_cache import Flows
from nst_exp.motion.propagation import PreviousFrame
from nst_exp.outcome import Outcome
from nst_exp.records.folder import PICTURE, VIDEO, loss_column
from nst_exp.records.result import Result
from nst_exp.records.tracking import TrackedRun
from nst_exp.runs.frame_policy import frame_policy
from nst_exp.runs.inputs import Inputs, SolverSetup, entry_of, out_of_memory_as_input_error
from nst_exp.runs.kind import ActiveRun, Within
from nst_exp.runs.preview import Preview, jpeg
from nst_exp.runs.progress import progress
from nst_exp.runs.source import CameraSource
from nst_exp.signals import heeded
from nst_exp.transfer.stylize import BatchEntry, Progress, Solution, StyleMemory, stylize

Levels = npt.NDArray[np.uint8]

_TICK = Fraction(1, 1000)  # s, the unit of the time stamps of the video
_SMOOTHING = 0.3  # the weight of the newest frame in the moving averages of `Pace`
_RECENT = 10  # the number of latest frames whose rate the page shows

_log = logging.getLogger(__name__)


class CameraRuns:
    """The `RunKind` of cameras."""

    def batch_key(self, inputs: Inputs) -> Hashable:
        """See `RunKind`. A run of a camera never shares a batch, so every key is different."""
        return object()

    def solve(self, runs: Sequence[ActiveRun], within: Within) -> list[Outcome[_Live]]:
        """Paint the frames of the camera until `camera.seconds` have passed or Ctrl-C is pressed; see `RunKind`."""
        (run,) = runs
        with within(0):
            return [Outcome(_paint_until_end(run))]

    def finish(self, run: ActiveRun, outcome: Outcome[_Live]) -> Result:
        """See `RunKind`."""
        result = _result(run, outcome.get())
        run.folder.finish(result)
        return result


KIND = CameraRuns()


def _paint_until_end(run: ActiveRun) -> _Live:
    """Open the camera and the preview page, and paint until the run ends.

    Raises:
        InputError: if the camera or the port of the page cannot be opened, or a file cannot be written.
    """
    reset_peak()
    config, source = run.inputs.plan.config, run.inputs.plan.source
    assert isinstance(source, CameraSource)
    codec = CODECS[config.video.codec]
    path = run.folder.path / f"{VIDEO}{codec.suffix}"
    with Preview(config.camera.port) as preview, Camera(source.device) as camera, out_of_memory_as_input_error(config):
        _log.info("preview: %s", preview.url)
        live = _Live(run.inputs, source, camera, preview, run.tracked, path)
        live.warm_up()
        with _stop_on_signal() as ended:
            write_video(path, live.frames(ended), codec, time_base=_TICK, rate=source.device.rate)
    return live


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that the first signal sets, so that the video is completed; a second one interrupts as usual."""
    ended = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield ended
        return
    before = {number: signal.getsignal(number) for number in heeded()}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(*_: object) -> None:
        ended.set()
        restore()

    for number in before:
        signal.signal(number, end)
    try:
        yield ended
    finally:
        restore()


# --- one frame -------------------------------------------------------------------------------------------------


@dataclass
class Pace:
    """Chooses the number of steps of a frame from the time that earlier frames took.

    Attributes:
        budget_ms: the time that a frame may take altogether, in ms.
        most: the largest number of steps, however much time there is.
        step_ms: the expected time of a step, in ms. The evaluation at the start of a frame counts as a step.
        other_ms: the expected time of everything else that is done for a frame, in ms.
    """

    budget_ms: float
    most: int
    step_ms: float = math.inf
    other_ms: float = 0.0

    @property
    def steps(self) -> int:
        """The number of steps of the next frame, from 1 to `most`."""
        affordable = math.floor((self.budget_ms - self.other_ms) / self.step_ms) - 1
        return max(1, min(self.most, affordable))

    def learn(self, steps: int, solver_ms: float, frame_ms: float) -> None:
        """Update the expected times.

        Args:
            steps: the number of steps of the last frame.
            solver_ms: the time that these steps took, in ms.
            frame_ms: the time that the frame took altogether, in ms.
        """
        step_ms, other_ms = solver_ms / (steps + 1), frame_ms - solver_ms
        share = 1.0 if math.isinf(self.step_ms) else _SMOOTHING
        self.step_ms = step_ms if share == 1.0 else self.step_ms + share * (step_ms - self.step_ms)
        self.other_ms += share * (other_ms - self.other_ms)


@dataclass(frozen=True, eq=False)
class _PaintedFrame:
    """A painted frame of a camera.

    Attributes:
        original: the frame at the size of the camera.
        content: the frame at the size of the run.
        pastiche: the painted frame.
        solution: the result of the solver.
        solver_ms: the time that the solver took, in ms.
    """

    original: Levels
    content: Levels
    pastiche: Levels
    solution: Solution
    solver_ms: float


class _Painter:
    """Paints one frame after another with the frame policy that `video.mode` names.

    Attributes:
        most: the largest number of steps of a frame, however much time there is.
    """

    def __init__(self, inputs: Inputs, source: CameraSource) -> None:
        video = inputs.plan.config.video
        self._inputs, self._source = inputs, source
        self._memory = StyleMemory()
        self._previous: list[PreviousFrame] = []
        flows = Flows(video.estimator, folder=None, limit_mb=0)
        # at the few frames per second of a live camera, frames further back have moved too far to be propagated
        self._policy = frame_policy(video, flows, distances=[1])
        self._first = SolverSetup.of(inputs)
        schedule = self._first.schedule
        alone = replace(self._first, schedule=replace(schedule, sizes=schedule.sizes[-1:]))
        self._setup = SolverSetup.following(inputs) if self._policy.follows else alone
        self.most = self._setup.schedule.steps

    def begin(self, snapshot: Snapshot, on_chunk: Callable[[Progress], None]) -> None:
        """Paint a first frame like a picture, without a time budget, if later frames start from it."""
        if not self._policy.follows:
            return
        content = self.resized(snapshot)
        solution = self._solved(self._entry(content), self._first, on_chunk)
        self._previous = [PreviousFrame(snapshot.index, content, to_uint8(solution.pastiche))]

    def paint(self, snapshot: Snapshot, steps: int) -> _PaintedFrame:
        """Paint a frame in at most `steps` steps."""
        content = self.resized(snapshot)
        entry = self._policy.start(self._entry(content), snapshot.index, content, self._previous, own=None)
        started = time.monotonic()
        solution = self._solved(entry, replace(self._setup, schedule=replace(self._setup.schedule, steps=steps)))
        pastiche = to_uint8(solution.pastiche)
        solver_ms = 1000 * (time.monotonic() - started)
        if self._policy.follows:
            self._previous = [PreviousFrame(snapshot.index, content, pastiche)]
        return _PaintedFrame(snapshot.levels, content, pastiche, solution, solver_ms)

    def resized(self, snapshot: Snapshot) -> Levels:
        """Resize a frame to the size of the run."""
        return self._source.resized(snapshot.levels, self._inputs.plan.config)

    def _entry(self, content: Levels) -> BatchEntry:
        image = jnp.asarray(from_uint8(content))
        return entry_of(self._inputs, image)

    def _solved(
        self, entry: BatchEntry, setup: SolverSetup, on_chunk: Callable[[Progress], None] = lambda chunk: None
    ) -> Solution:
        params = self._inputs.params
        (outcome,) = stylize(setup.objective, setup.method, params, [entry], setup.schedule, on_chunk, self._memory)
        return outcome.get()


# --- frame after frame -----------------------------------------------------------------------------------------


class _Live:
    """A run while its camera is open.

    Attributes:
        rows: the numbers of each painted frame, for the trace. `step` counts all frames of the camera, painted or not,
            from the first painted one.
        seconds: how long the run was live.
        dropped: the number of frames that the camera gave meanwhile but that were not painted.
        last: the frame that was painted last.
        path: the file of the video.
    """

    def __init__(
        self,
        inputs: Inputs,
        source: CameraSource,
        camera: Camera,
        preview: Preview,
        tracked: TrackedRun,
        path: Path,
    ) -> None:
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self.dropped = 0
        self.last: _PaintedFrame | None = None
        self._seconds_wanted = inputs.plan.config.camera.seconds or math.inf
        self._painter = _Painter(inputs, source)
        self._pace = Pace(inputs.plan.config.camera.budget_ms, self._painter.most)
        self._camera, self._preview, self._tracked, self.path = camera, preview, tracked, path
        self._shown: deque[float] = deque(maxlen=_RECENT)  # the times at which the latest frames were shown

    def warm_up(self) -> None:
        """Paint a first frame without a time budget, and compile the computation of the following frames."""
        first = self._camera.newest()
        content = self._painter.resized(first)
        size = content.shape[1], content.shape[0]

        def show(pastiche: Levels, steps: int) -> None:
            self._preview.show(jpeg(_pair(content, pastiche)), {"state": f"painting the first frame: step {steps}"})

        show(content, 0)
        self._painter.begin(first, lambda chunk: show(resize(to_uint8(chunk.image), size), chunk.steps_done))
        self._painter.paint(self._camera.newest(), steps=1)

    def frames(self, ended: threading.Event) -> Iterator[tuple[int, Levels]]:
        """Paint and show the newest frame again and again, and yield its time stamp in units of `_TICK` and pastiche.

        Args:
            ended: set from outside to end the run after the current frame.
        """
        started, stamp, evaluations = time.monotonic(), -1, 0
        first: Snapshot | None = None
        with progress(None, "frame") as bar:
            for snapshot, dropped in self._snapshots(ended):
                taken, first = time.monotonic(), first or snapshot
                self.last = painted = self._painter.paint(snapshot, self._pace.steps)
                self._show(snapshot, snapshot.index - first.index, painted, dropped)
                evaluations += painted.solution.evaluations
                bar.update(steps_done=len(self.rows), loss=painted.solution.total_loss, evaluations=evaluations)
                stamp = max(stamp + 1, round((snapshot.time - first.time) / _TICK))
                yield stamp, painted.pastiche  # continues here when the frame has been written to the video
                self.seconds = time.monotonic() - started
                self._pace.learn(painted.solution.steps, painted.solver_ms, 1000 * (time.monotonic() - taken))

    def _snapshots(self, ended: threading.Event) -> Iterator[tuple[Snapshot, int]]:
        """Yield the newest frame and how many frames were dropped before it, until the run ends; at least once."""
        snapshot, dropped = self._camera.newest(), 0
        until = time.monotonic() + self._seconds_wanted
        while True:
            yield snapshot, dropped
            if ended.is_set() or time.monotonic() >= until:
                return
            before = snapshot.index
            try:
                snapshot = self._camera.newest(after=before)
            except InputError as error:
                _log.warning("%s: the video ends here", error)
                return
            dropped = snapshot.index - before - 1

    def _show(self, snapshot: Snapshot, index: int, painted: _PaintedFrame, dropped: int) -> None:
        """Show a frame on the page, and write its numbers to the page, the trace and MLflow."""
        picture = jpeg(_pair(painted.content, painted.pastiche))
        shown = time.monotonic()
        latency_ms = 1000 * (shown - snapshot.time)
        self._shown.append(shown)
        self.dropped += dropped
        row = {"step": index} | _numbers(painted) | {"frame/latency_ms": latency_ms, "frame/dropped": dropped}
        self.rows.append(row)
        status = {"state": "live", "fps": self._rate, "latency_ms": latency_ms, "steps": painted.solution.steps}
        counts = {"frames": len(self.rows), "dropped": self.dropped, "video": str(self.path)}
        self._preview.show(picture, status | counts)
        self._tracked.log_trace({name: np.array([value]) for name, value in row.items()})

    @property
    def _rate(self) -> float:
        """The number of frames per second, over the latest frames."""
        spans = len(self._shown) - 1
        return spans / (self._shown[-1] - self._shown[0]) if spans else 0.0


def _pair(content: Levels, pastiche: Levels) -> Levels:
    return np.concatenate([content, pastiche], axis=1)


def _numbers(painted: _PaintedFrame) -> dict[str, float]:
    """Return the losses and costs of a frame, named as in the trace."""
    solution = painted.solution
    return {
        "loss/total": solution.total_loss,
        **{loss_column(name): value for name, value in solution.losses.items()},
        "frame/steps": solution.steps,
        "frame/evaluations": solution.evaluations,
        "frame/restarts": solution.restarts,
        "frame/solver_ms": painted.solver_ms,
    }


# --- the result ------------------------------------------------------------------------------------------------


def _result(run: ActiveRun, live: _Live) -> Result:
    """Return the result of the run, whose picture, losses and measures are those of the last frame."""
    assert live.last is not None
    folder, rows, solution = run.folder, live.rows, live.last.solution
    folder.write_trace({name: np.array([row[name] for row in rows]) for name in rows[0]})
    write_levels(folder.path / PICTURE, live.last.pastiche)
    evaluations = int(sum(row["frame/evaluations"] for row in rows))
    hashes = {name: sha256_of(file) for name, file in {"pastiche": folder.path / PICTURE, "video": live.path}.items()}
    return Result(
        identity=folder.record.identity,
        pastiche=PICTURE,
        video=live.path.name,
        frames=len(rows),
        dropped=live.dropped,
        latency_ms=float(np.median([row["frame/latency_ms"] for row in rows])),
        total_loss=solution.total_loss,
        losses=solution.losses,
        measures=_measures(run.inputs, live.last),
        steps=int(sum(row["frame/steps"] for row in rows)),
        evaluations=evaluations,
        restarts=int(sum(row["frame/restarts"] for row in rows)),
        seconds=live.seconds,
        evaluations_per_second=evaluations / live.seconds,
        frames_per_second=len(rows) / live.seconds,
        peak_memory_mb=peak_mb(),
        sha256={**run.inputs.plan.hashes, **hashes},
    )


def _measures(inputs: Inputs, painted: _PaintedFrame) -> dict[str, float]:
    """Measure one frame against the camera's frame at its original size, so that sizes can be compared."""
    plan = inputs.plan
    assert isinstance(plan.source, CameraSource)
    hashes = (hashlib.sha256(painted.original.tobytes()).hexdigest(), plan.hashes["style"])
    pair = Pair(Path(plan.source.device.name), plan.files["style"], hashes, plan.config.aspect, 0, painted.original)
    content, pastiche = (jnp.asarray(from_uint8(levels)) for levels in (painted.content, painted.pastiche))
    return measure(plan.config.evaluator, pair, content, pastiche, cache_folder(plan.config.cache_dir))
