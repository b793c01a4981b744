"""Films of one clip painted frame by frame together, to disk; what is painted is never painted again."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nst_exp.errors import InputError
from nst_exp.media.image import from_uint8, to_uint8, write_levels
from nst_exp.media.video import Frame
from nst_exp.memory import forget_peak
from nst_exp.motion.frame_store import Frames
from nst_exp.motion.propagation import Link, Past, blended, link
from nst_exp.records.folder import loss_column
from nst_exp.runs.preparation import (
    Static,
    following_method,
    following_schedule,
    frame_size,
    memory_explained,
)
from nst_exp.runs.progress import progress
from nst_exp.runs.video_files import Film, Levels, log_treatment, shown, write_clips
from nst_exp.transfer.objective import Anchor
from nst_exp.transfer.stylize import Lane, Progress, Solution, lanes_that_fit, stylize

_Show = Callable[[float, int], None]  # a loss, and evaluations of the frames at work
_Within = Callable[[int], contextlib.AbstractContextManager[Any]]

_MEMORY_SHARE = 0.8  # of the free memory, for frames side by side


@dataclass
class _Reel:
    """A film while it is painted.

    Attributes:
        within: entered around what is done for this film alone.
        past: frames painted in this pass, the last first.
        failure: why it is not painted on.
    """

    film: Film
    within: Callable[[], contextlib.AbstractContextManager[Any]]
    past: deque[Past] = field(default_factory=deque)
    failure: InputError | None = None

    @contextlib.contextmanager
    def failing_alone(self) -> Iterator[None]:
        """What goes wrong in here stops this film only."""
        try:
            yield
        except InputError as error:
            self.failure = self.failure or error


def paint_films(films: Sequence[Film], within: _Within = contextlib.nullcontext) -> list[InputError | None]:
    """Paint all frames of films of one `Kin`: a frame in all of them, side by side, then the next.

    Frames that an earlier run of the same settings has painted are taken over. Whatever stops this, clips of the
    frames painted so far are left.

    Args:
        within: entered, with a film's index, around what is done for that one alone.

    Returns:
        For each film None, or why frames are missing.

    Raises:
        InputError: if the clip cannot be read to its end, the device is out of memory, or a file cannot be written.
    """
    forget_peak()
    log_treatment(films[0])
    reels = [_Reel(film, partial(within, index)) for index, film in enumerate(films)]
    for reel in reels:
        with reel.within():
            reel.film.open()
    try:
        for pass_ in range(1, films[0].config.video.passes + 1):
            _paint_pass(reels, pass_)
    except BaseException:
        for film in films:
            with contextlib.suppress(InputError):  # what stopped the films is the thing to say
                write_clips(film)
        raise
    return [reel.failure for reel in reels]


def _paint_pass(reels: Sequence[_Reel], pass_: int) -> None:
    """All frames once, those of an even pass from the last to the first."""
    film, done, spent = reels[0].film, 0, 0
    for reel in reels:
        reel.past = deque(maxlen=max([1, *reel.film.config.video.reach]))

    with progress(film.count, "frame", lanes=len(reels)) as bar, memory_explained(film.config):

        def show(loss: float, evaluations: int) -> None:
            bar.update(steps_done=done, loss=loss, evaluations=spent + evaluations)

        for batch in _batches(_in_order(film, pass_), _frames_at_once(film, len(reels))):
            if not _going(reels):
                return
            spent += _paint(reels, pass_, batch, show)
            for frame in batch:
                done += 1
                for reel in _going(reels):
                    _take_up(reel, pass_, frame, done)
    if not done:
        raise InputError(f"content={str(film.clip.path)!r} has no frames between video.start and video.end")


def _going(reels: Sequence[_Reel]) -> list[_Reel]:
    return [reel for reel in reels if reel.failure is None]


def _frames_at_once(film: Film, films: int) -> int:
    """How many frames of each film are solved side by side: only independent ones can be."""
    video, inputs = film.config.video, film.inputs
    if video.mode != "independent":
        return 1
    if video.lanes is not None or jax.default_backend() == "cpu":
        return video.lanes or 1
    (width, height), static = frame_size(inputs.plan), Static.of(inputs)
    fitting = lanes_that_fit(static.objective, static.method, inputs.params, (height, width), _MEMORY_SHARE)
    return max(1, fitting // films)


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while batch := list(itertools.islice(frames, size)):
        yield batch


def _in_order(film: Film, pass_: int) -> Iterator[Frame]:
    """The source's frames, in the order of a pass; those of an even one from copies that the first pass made."""
    kept = Frames(film.frames.folder / "source")
    if pass_ % 2 == 0:
        for index in reversed(kept.indices(1)):
            yield Frame(index, int(kept.numbers(1, index)["pts"]), kept.levels(1, index))
        return
    keeps = pass_ == 1 and film.config.video.passes > 1
    for frame in film.source_frames():
        if keeps and not kept.has(1, frame.index):
            kept.write(1, frame.index, frame.levels, {"pts": frame.pts})
        yield frame


# --- a frame, or several ---------------------------------------------------------------------------------------


def _paint(reels: Sequence[_Reel], pass_: int, batch: Sequence[Frame], show: _Show) -> int:
    """Paint frames, where they are not painted yet, all side by side; keep each with what it took.

    Returns:
        Evaluations.
    """
    todo = [(reel, frame) for frame in batch for reel in _going(reels) if not reel.film.frames.has(pass_, frame.index)]
    if not todo:
        return 0
    started = time.monotonic()
    solutions = _solved(todo, pass_, show)
    seconds = (time.monotonic() - started) / len(todo)
    for (reel, frame), solution in zip(todo, solutions, strict=True):
        if isinstance(solution, InputError):
            reel.failure = reel.failure or solution
        else:
            numbers = _numbers(solution, frame.pts, seconds, len(todo))
            with reel.failing_alone():
                reel.film.frames.write(pass_, frame.index, to_uint8(solution.pastiche), numbers)
    return sum(solution.evaluations for solution in solutions if isinstance(solution, Solution))


def _numbers(solution: Solution, pts: int, seconds: float, lanes: int) -> dict[str, float]:
    """What is kept of a frame besides its picture."""
    return {
        "loss/total": solution.total_loss,
        **{loss_column(name): value for name, value in solution.losses.items()},
        "frame/steps": solution.steps,
        "frame/evaluations": solution.evaluations,
        "frame/restarts": solution.restarts,
        "frame/seconds": seconds,
        "lanes": lanes,
        "pts": pts,
    }


def _solved(todo: Sequence[tuple[_Reel, Frame]], pass_: int, show: _Show) -> list[Solution | InputError]:
    first, _ = todo[0]
    inputs = first.film.inputs
    static = Static.of(inputs)
    method, schedule, lanes = static.method, static.schedule, _lanes(todo)
    if pass_ > 1 or (first.past and first.film.config.video.mode != "independent"):
        method, schedule = following_method(first.film.config), following_schedule(inputs)
        lanes = [_following(lane, reel, frame, pass_) for lane, (reel, frame) in zip(lanes, todo, strict=True)]
    evaluations = np.zeros(len(todo), int)

    def on_chunk(chunk: Progress) -> None:
        evaluations[chunk.lane] = chunk.trace.evaluations[-1]
        show(float(chunk.trace.totals[-1]), int(evaluations.sum()))

    return stylize(static.objective, method, inputs.params, lanes, schedule, on_chunk)


def _lanes(todo: Sequence[tuple[_Reel, Frame]]) -> list[Lane]:
    """Each frame on its own; the same frame of several films is the same object."""
    frames = {frame.index: frame.levels for _, frame in todo}
    images = {index: jnp.asarray(from_uint8(levels)) for index, levels in frames.items()}
    inputs = [(reel.film.inputs, images[frame.index]) for reel, frame in todo]
    return [Lane(one.weights, image, one.style_image, seed=one.plan.config.seed) for one, image in inputs]


def _following(lane: Lane, reel: _Reel, frame: Frame, pass_: int) -> Lane:
    """Set out from the picture before, or in later passes from the frame's own, and hold to it where that is due."""
    film, own = reel.film, reel.film.frames.levels(pass_ - 1, frame.index) if pass_ > 1 else None
    if not reel.past:  # the first frame of a later pass
        assert own is not None
        return replace(lane, init_image=jnp.asarray(from_uint8(own)))
    if film.config.video.mode == "warm_start":
        return replace(lane, init_image=jnp.asarray(from_uint8(reel.past[0].pastiche)))
    reach = film.config.video.reach if own is None else [1]
    found = link(film.flows.between, frame.index, frame.levels, reel.past, reach)
    return _held(lane, found if own is None else blended(found, own))


def _held(lane: Lane, found: Link) -> Lane:
    mask = jnp.asarray(found.mask, jnp.float32)[None, ..., None]
    return replace(lane, init_image=jnp.asarray(found.init)[None], anchor=Anchor(jnp.asarray(found.anchor)[None], mask))


def _take_up(reel: _Reel, pass_: int, frame: Frame, done: int) -> None:
    """A frame is painted: later ones hang on to it, and after the last pass it is logged."""
    levels = reel.film.frames.levels(pass_, frame.index)
    reel.past.appendleft(Past(frame.index, frame.levels, levels))
    if pass_ == reel.film.config.video.passes:
        with reel.within(), reel.failing_alone():
            _log_frame(reel.film, pass_, frame.index, done, levels)


def _log_frame(film: Film, pass_: int, index: int, done: int, levels: Levels) -> None:
    """The frame's numbers over its index, and some frames as pictures."""
    numbers = shown(film.frames.numbers(pass_, index))
    film.run.log_trace({"step": np.array([index])} | {name: np.array([value]) for name, value in numbers.items()})
    snapshots, count = film.config.tracking.snapshots, film.count or 0
    if done - 1 in {count * k // (snapshots + 1) for k in range(snapshots + 1)}:
        write_levels(film.folder.progress_file(index), levels)
        film.run.log_picture(levels, index)
