"""Runs of a video. All runs of a batch paint the same frame together, then the next one.

Every painted frame is stored in a file at once, and frames that are stored already are not painted again.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax.numpy as jnp
import numpy as np

from nst_exp.devices import backend
from nst_exp.errors import InputError
from nst_exp.media.image import from_uint8, to_uint8, write_levels
from nst_exp.media.video import Cut, Frame
from nst_exp.memory import reset_peak
from nst_exp.motion.frame_store import Frames
from nst_exp.motion.propagation import PreviousFrame
from nst_exp.outcome import Failure, Outcome
from nst_exp.records.folder import loss_column
from nst_exp.records.result import Result
from nst_exp.runs.frame_policy import FramePolicy, frames_follow
from nst_exp.runs.inputs import Inputs, SolverSetup, out_of_memory_as_input_error
from nst_exp.runs.kind import ActiveRun, Within
from nst_exp.runs.progress import progress
from nst_exp.runs.source import cut_of
from nst_exp.runs.video_files import Levels, VideoRun, finish_video, log_treatment, logged_values, write_videos
from nst_exp.transfer.stylize import BatchEntry, Progress, Solution, entries_that_fit, stylize
from nst_exp.types import Image

_Show = Callable[[float, int], None]  # shows a loss, and the evaluations of the frames being painted

_MEMORY_SHARE = 0.8  # the fraction of the free memory that the frames of a batch may take


@dataclass(frozen=True)
class _BatchKey:
    """The settings that runs of videos must have in common to be painted together.

    Attributes:
        alone: the setup for a frame that does not start from another frame.
        following: the setup for a frame that starts from another frame; None if no frame does.
        content_sha256: the hash of the video file.
        cut: the frames that are selected.
        aspect: the setting `aspect`.
        on_corrupt: the setting `video.on_corrupt`.
        mode: the setting `video.mode`.
        passes: the setting `video.passes`.
        max_batch_size: the setting `video.max_batch_size`.
    """

    alone: SolverSetup
    following: SolverSetup | None
    content_sha256: str
    cut: Cut
    aspect: str
    on_corrupt: str
    mode: str
    passes: int
    max_batch_size: int | None


class VideoRuns:
    """The `RunKind` of videos."""

    def batch_key(self, inputs: Inputs) -> Hashable:
        """See `RunKind`."""
        config, content = inputs.plan.config, inputs.plan.hashes["content"]
        video = config.video
        following = SolverSetup.following(inputs) if frames_follow(video) else None
        frames = (content, cut_of(config), config.aspect, video.on_corrupt)
        return _BatchKey(SolverSetup.of(inputs), following, *frames, video.mode, video.passes, video.max_batch_size)

    def solve(self, runs: Sequence[ActiveRun], within: Within) -> list[Outcome[None]]:
        """Paint a frame of all runs in a batch, then the next one; see `RunKind`.

        Frames that an earlier run with the same settings has painted are taken over. If the runs are stopped, for
        whatever reason, videos of the frames painted so far are written.
        """
        reset_peak()
        videos = [VideoRun(run) for run in runs]
        log_treatment(videos[0])
        painters = [_Painter(video, partial(within, index)) for index, video in enumerate(videos)]
        for painter in painters:
            with painter.within():
                painter.video.open()
        try:
            for pass_ in range(1, videos[0].config.video.passes + 1):
                _paint_pass(painters, pass_)
        except BaseException:
            for video in videos:
                with contextlib.suppress(InputError):  # the error that stopped the runs is the one to report
                    write_videos(video)
            raise
        return [Outcome(error=painter.failure.error) for painter in painters]

    def finish(self, run: ActiveRun, outcome: Outcome[None]) -> Result:
        """See `RunKind`. For a run that failed, a video of the painted frames is written."""
        video = VideoRun(run)
        if outcome.error is not None:
            with contextlib.suppress(InputError):  # the failure is the one to report
                write_videos(video)
        outcome.get()
        return finish_video(video)


KIND = VideoRuns()


@dataclass
class _Painter:
    """A run while its frames are painted.

    Attributes:
        video: the run.
        within: makes a context for logging or writing for this run alone.
        previous: the frames painted last in this pass, the latest first.
        failure: holds the first error of the run, which is not continued then.
    """

    video: VideoRun
    within: Callable[[], contextlib.AbstractContextManager[object]]
    previous: deque[PreviousFrame] = field(default_factory=deque)
    failure: Failure = field(default_factory=Failure)

    @property
    def policy(self) -> FramePolicy:
        return self.video.policy


def _paint_pass(painters: Sequence[_Painter], pass_: int) -> None:
    """Paint all frames once; passes with an even number go from the last frame to the first."""
    video, done, spent = painters[0].video, 0, 0
    for painter in painters:
        painter.previous = deque(maxlen=painter.policy.reach)

    with progress(video.count, "frame", batch_size=len(painters)) as bar, out_of_memory_as_input_error(video.config):

        def show(loss: float, evaluations: int) -> None:
            bar.update(steps_done=done, loss=loss, evaluations=spent + evaluations)

        for batch in _batches(_in_order(video, pass_), _frames_at_once(video, len(painters))):
            if not _continuing(painters):
                return
            spent += _paint(painters, pass_, batch, show)
            for frame in batch:
                done += 1
                for painter in _continuing(painters):
                    _remember(painter, pass_, frame, done)
    if not done:
        raise InputError(f"content={str(video.file.path)!r} has no frames between video.start and video.end")


def _continuing(painters: Sequence[_Painter]) -> list[_Painter]:
    return [painter for painter in painters if painter.failure.error is None]


def _frames_at_once(video: VideoRun, runs: int) -> int:
    """Return how many frames of each run are solved in one batch; 1 unless frames are independent."""
    if video.policy.follows:
        return 1
    max_batch_size = video.config.video.max_batch_size
    if max_batch_size is not None or backend() == "cpu":
        return max_batch_size or 1
    (width, height), setup = video.frame_size, SolverSetup.of(video.inputs)
    fitting = entries_that_fit(setup.objective, setup.method, video.inputs.params, (height, width), _MEMORY_SHARE)
    return max(1, fitting // runs)


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while batch := list(itertools.islice(frames, size)):
        yield batch


def _in_order(video: VideoRun, pass_: int) -> Iterator[Frame]:
    """Yield the frames of the source in the order of a pass; even passes read copies that the first pass made."""
    kept = Frames(video.frames.folder / "source")
    if pass_ % 2 == 0:
        for index in reversed(kept.indices(1)):
            yield Frame(index, int(kept.numbers(1, index)["pts"]), kept.levels(1, index))
        return
    keeps = pass_ == 1 and video.config.video.passes > 1
    for frame in video.source_frames():
        if keeps and not kept.has(1, frame.index):
            kept.write(1, frame.index, frame.levels, {"pts": frame.pts})
        yield frame


# --- a frame, or several ---------------------------------------------------------------------------------------


def _paint(painters: Sequence[_Painter], pass_: int, batch: Sequence[Frame], show: _Show) -> int:
    """Paint the frames that are not painted yet in one batch, and store each of them with its numbers.

    Returns:
        The number of evaluations.
    """
    todo = [
        (painter, frame)
        for frame in batch
        for painter in _continuing(painters)
        if not painter.video.frames.has(pass_, frame.index)
    ]
    if not todo:
        return 0
    started = time.monotonic()
    outcomes = _solved(todo, pass_, show)
    seconds, evaluations = (time.monotonic() - started) / len(todo), 0
    for (painter, frame), outcome in zip(todo, outcomes, strict=True):
        with painter.failure.kept():
            solution = outcome.get()
            evaluations += solution.evaluations
            numbers = _numbers(solution, frame.pts, seconds, len(todo))
            painter.video.frames.write(pass_, frame.index, to_uint8(solution.pastiche), numbers)
    return evaluations


def _numbers(solution: Solution, pts: int, seconds: float, batch_size: int) -> dict[str, float]:
    """Return the numbers that are stored with a painted frame."""
    return {
        "loss/total": solution.total_loss,
        **{loss_column(name): value for name, value in solution.losses.items()},
        "frame/steps": solution.steps,
        "frame/evaluations": solution.evaluations,
        "frame/restarts": solution.restarts,
        "frame/seconds": seconds,
        "batch_size": batch_size,
        "pts": pts,
    }


def _solved(todo: Sequence[tuple[_Painter, Frame]], pass_: int, show: _Show) -> list[Outcome[Solution]]:
    first, _ = todo[0]
    inputs = first.video.inputs
    starts_from_another = pass_ > 1 or (first.previous and first.policy.follows)
    setup = SolverSetup.following(inputs) if starts_from_another else SolverSetup.of(inputs)
    entries = [_started(entry, *one, pass_) for entry, one in zip(_entries(todo), todo, strict=True)]
    evaluations = np.zeros(len(todo), int)

    def on_chunk(chunk: Progress) -> None:
        evaluations[chunk.entry] = chunk.trace.evaluations[-1]
        show(float(chunk.trace.totals[-1]), int(evaluations.sum()))

    return stylize(setup.objective, setup.method, inputs.params, entries, setup.schedule, on_chunk)


def _entries(todo: Sequence[tuple[_Painter, Frame]]) -> list[BatchEntry]:
    """Make an entry for each frame, without initial pictures; several runs share the object of the same frame."""
    frames = {frame.index: frame.levels for _, frame in todo}
    images = {index: jnp.asarray(from_uint8(levels)) for index, levels in frames.items()}
    return [_entry(painter.video.inputs, images[frame.index]) for painter, frame in todo]


def _entry(inputs: Inputs, image: Image) -> BatchEntry:
    config = inputs.plan.config
    return BatchEntry(inputs.weights, image, inputs.style_image, seed=config.seed, averaging=config.averaging)


def _started(entry: BatchEntry, painter: _Painter, frame: Frame, pass_: int) -> BatchEntry:
    """Return the entry with the initial picture and anchor that the frame policy of its run chooses."""
    own = painter.video.frames.levels(pass_ - 1, frame.index) if pass_ > 1 else None
    return painter.policy.start(entry, frame.index, frame.levels, painter.previous, own)


def _remember(painter: _Painter, pass_: int, frame: Frame, done: int) -> None:
    """Remember a painted frame for the following frames and, in the last pass, log it."""
    levels = painter.video.frames.levels(pass_, frame.index)
    painter.previous.appendleft(PreviousFrame(frame.index, frame.levels, levels))
    if pass_ == painter.video.config.video.passes:
        with painter.within(), painter.failure.kept():
            _log_frame(painter.video, pass_, frame.index, done, levels)


def _log_frame(video: VideoRun, pass_: int, index: int, done: int, levels: Levels) -> None:
    """Log the numbers of a frame with its index as the step, and its picture if a snapshot is due."""
    numbers = logged_values(video.frames.numbers(pass_, index))
    video.run.tracked.log_trace(
        {"step": np.array([index])} | {name: np.array([value]) for name, value in numbers.items()}
    )
    snapshots, count = video.config.tracking.snapshots, video.count or 0
    if done - 1 in {count * k // (snapshots + 1) for k in range(snapshots + 1)}:
        write_levels(video.run.folder.progress_file(index), levels)
        video.run.tracked.log_picture(levels, index)
