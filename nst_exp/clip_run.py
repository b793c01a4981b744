"""A clip's run: frame after frame to disk, then a clip of them; what is painted is never painted again."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from nst_exp import record
from nst_exp.clip import Link, Past, blended, link
from nst_exp.config import RunConfig
from nst_exp.errors import InputError
from nst_exp.flow import hidden, motion_edges, still
from nst_exp.flow_cache import Flows
from nst_exp.frames import Frames
from nst_exp.judgement import Pair, measure
from nst_exp.ledger import Ledger
from nst_exp.media.image import from_uint8, sha256_of, to_uint8, write_image
from nst_exp.media.video import CODECS, Clip, Frame, read_frames, resize, suffix_with_sound, write_clip
from nst_exp.memory import forget_peak, peak_mb
from nst_exp.objective import Anchor
from nst_exp.preparation import (
    Inputs,
    cache_folder,
    cut_of,
    following_method,
    following_schedule,
    frame_size,
    memory_explained,
    schedule_of,
    solver_method,
)
from nst_exp.progress import progress
from nst_exp.results import CLIP, FRAMES, PICTURE, SIDE_BY_SIDE, RunFolder, loss_column
from nst_exp.steadiness import Seen, Steadiness
from nst_exp.stylize import Lane, Progress, Solution, lanes_that_fit, stylize
from nst_exp.tracking import TrackedRun

Levels = npt.NDArray[np.uint8]
_Show = Callable[[float, int], None]  # a loss, and evaluations of the frames at work

_MEMORY_SHARE = 0.8  # of the free memory, for frames side by side
_JUDGED = 8  # frames, spread over the clip, whose measures are averaged


@dataclass(frozen=True)
class _Source:
    """The frames that a run takes, at its size, forward or backward."""

    inputs: Inputs

    @property
    def clip(self) -> Clip:
        assert self.inputs.plan.clip is not None
        return self.inputs.plan.clip

    def frames(self) -> Iterator[Frame]:
        """One after the other."""
        config, size = self.inputs.plan.config, frame_size(self.inputs.plan)
        for frame in read_frames(self.clip, cut_of(config), on_corrupt=config.video.on_corrupt, name="content"):
            yield replace(frame, levels=resize(frame.levels, size))

    @property
    def count(self) -> int | None:
        """How many, as far as the file says."""
        return cut_of(self.inputs.plan.config).count(self.clip.frames)


def paint_clip(inputs: Inputs, folder: RunFolder, run: TrackedRun) -> dict[str, Any]:
    """Paint all frames, write the clip, measure it, and write everything down.

    Frames that an earlier run of the same settings has painted are taken over. Whatever stops the run, a clip of the
    frames painted so far is left.

    Raises:
        InputError: if the clip cannot be read to its end, or a file cannot be written.
    """
    forget_peak()
    frames, source = _opened(inputs, folder), _Source(inputs)
    last_pass = inputs.plan.config.video.passes
    try:
        for pass_ in range(1, last_pass + 1):
            _paint_pass(inputs, source, frames, pass_, folder, run)
    except BaseException:
        with contextlib.suppress(InputError):  # what stopped the run is the thing to say
            _write_clips(inputs, source, frames, folder)
        raise
    files = _write_clips(inputs, source, frames, folder)
    result = _result(inputs, source, frames, folder, files)
    folder.finish(result)
    if "frames" not in inputs.plan.config.video.write:
        frames.remove()
    return result


def _opened(inputs: Inputs, folder: RunFolder) -> Frames:
    """The folder's frames, with those that another run of the same settings has left."""
    config, frames = inputs.plan.config, Frames(folder.path / FRAMES)
    key = record.frames_key(inputs.plan.params, inputs.plan.hashes)
    ledger = Ledger.at(config.ledger)
    frames.open(key)
    earlier = None if config.force else ledger.frames(key)
    if earlier is not None and earlier != folder.path and Frames(earlier / FRAMES).key == key:
        frames.take_over(Frames(earlier / FRAMES))
    ledger.add_frames(key, folder.path)
    return frames


# --- painting --------------------------------------------------------------------------------------------------


def _paint_pass(
    inputs: Inputs, source: _Source, frames: Frames, pass_: int, folder: RunFolder, run: TrackedRun
) -> None:
    """All frames once, those of an even pass from the last to the first."""
    config = inputs.plan.config
    past: deque[Past] = deque(maxlen=max([1, *config.video.reach]))
    done = spent = 0

    with progress(source.count, "frame") as shown, memory_explained(config):

        def show(loss: float, evaluations: int) -> None:
            shown.update(steps_done=done, loss=loss, evaluations=spent + evaluations)

        for batch in _batches(_in_order(source, frames, pass_), _lanes(inputs)):
            todo = [frame for frame in batch if not frames.has(pass_, frame.index)]
            if todo:
                spent += _paint(inputs, source, frames, pass_, todo, past, show)
            for frame in batch:
                done += 1
                if pass_ == config.video.passes:
                    _log_frame(frames, pass_, frame.index, done, source, folder, run)
                past.appendleft(Past(frame.index, frame.levels, frames.levels(pass_, frame.index)))
    if not past:
        raise InputError(f"content={str(source.clip.path)!r} has no frames between video.start and video.end")


def _lanes(inputs: Inputs) -> int:
    """How many frames are solved side by side: only independent ones can be."""
    video = inputs.plan.config.video
    if video.mode != "independent":
        return 1
    if video.lanes is not None or jax.default_backend() == "cpu":
        return video.lanes or 1
    width, height = frame_size(inputs.plan)
    method = solver_method(inputs.plan.config.solver)
    return lanes_that_fit(inputs.plan.objective, method, inputs.params, (height, width), _MEMORY_SHARE)


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while batch := list(itertools.islice(frames, size)):
        yield batch


def _in_order(source: _Source, frames: Frames, pass_: int) -> Iterator[Frame]:
    """The source's frames, in the order of a pass; those of an even one from copies that the first pass made."""
    kept = Frames(frames.folder / "source")
    if pass_ % 2 == 0:
        for index in reversed(kept.indices(1)):
            yield Frame(index, int(kept.numbers(1, index)["pts"]), kept.levels(1, index))
        return
    keeps = pass_ == 1 and source.inputs.plan.config.video.passes > 1
    for frame in source.frames():
        if keeps and not kept.has(1, frame.index):
            kept.write(1, frame.index, frame.levels, {"pts": frame.pts})
        yield frame


def _paint(
    inputs: Inputs,
    source: _Source,
    frames: Frames,
    pass_: int,
    todo: Sequence[Frame],
    past: Sequence[Past],
    show: _Show,
) -> int:
    """Paint frames side by side, several only if they are independent; keep each with what it took.

    Returns:
        Evaluations.
    """
    started = time.monotonic()
    owns = [frames.levels(pass_ - 1, frame.index) if pass_ > 1 else None for frame in todo]
    solutions = _solved(inputs, source, todo, past, owns, show)
    for frame, solution in zip(todo, solutions, strict=True):
        if isinstance(solution, InputError):
            raise solution
        numbers = _numbers(solution, frame.pts, (time.monotonic() - started) / len(todo))
        frames.write(pass_, frame.index, to_uint8(solution.pastiche), numbers)
    return sum(solution.evaluations for solution in solutions if isinstance(solution, Solution))


def _numbers(solution: Solution, pts: int, seconds: float) -> dict[str, float]:
    """What is kept of a frame besides its picture."""
    return {
        "loss/total": solution.total_loss,
        **{loss_column(name): value for name, value in solution.losses.items()},
        "frame/steps": solution.steps,
        "frame/evaluations": solution.evaluations,
        "frame/restarts": solution.restarts,
        "frame/seconds": seconds,
        "pts": pts,
    }


def _solved(
    inputs: Inputs,
    source: _Source,
    todo: Sequence[Frame],
    past: Sequence[Past],
    owns: Sequence[Levels | None],
    show: _Show,
) -> list[Solution | InputError]:
    config, schedule, method = inputs.plan.config, schedule_of(inputs), solver_method(inputs.plan.config.solver)
    lanes = [
        Lane(inputs.weights, jnp.asarray(from_uint8(frame.levels)), inputs.style_image, seed=config.seed)
        for frame in todo
    ]
    if owns[0] is not None or (past and config.video.mode != "independent"):
        (frame,) = todo
        schedule, method = following_schedule(inputs), following_method(config)
        lanes = [_following_lane(lanes[0], _flows(inputs, source), config, frame.index, frame.levels, past, owns[0])]

    evaluations = np.zeros(len(todo), int)

    def on_chunk(chunk: Progress) -> None:
        evaluations[chunk.lane] = chunk.trace.evaluations[-1]
        show(float(chunk.trace.totals[-1]), int(evaluations.sum()))

    return stylize(inputs.plan.objective, method, inputs.params, lanes, schedule, on_chunk)


def _following_lane(
    lane: Lane,
    flows: Flows,
    config: RunConfig,
    index: int,
    content: Levels,
    past: Sequence[Past],
    own: Levels | None,
) -> Lane:
    """Set out from the picture before, or in later passes from the frame's `own`, and hold to it where that is due."""
    if not past:  # the first frame of a later pass
        assert own is not None
        return replace(lane, init_image=jnp.asarray(from_uint8(own)))
    if config.video.mode == "warm_start":
        return replace(lane, init_image=jnp.asarray(from_uint8(past[0].pastiche)))
    reach = config.video.reach if own is None else [1]
    found = link(flows.between, index, content, past, reach)
    return _held(lane, found if own is None else blended(found, own))


def _held(lane: Lane, found: Link) -> Lane:
    mask = jnp.asarray(found.mask, jnp.float32)[None, ..., None]
    return replace(lane, init_image=jnp.asarray(found.init)[None], anchor=Anchor(jnp.asarray(found.anchor)[None], mask))


def _flows(inputs: Inputs, source: _Source) -> Flows:
    plan = inputs.plan
    width, height = frame_size(plan)
    name = f"{plan.hashes['content'][:32]}-{width}x{height}-{plan.config.video.estimator}"
    limit = plan.config.video.flow_cache_mb
    return Flows(plan.config.video.estimator, cache_folder(plan.config) / "flow" / name if limit else None, limit)


def _log_frame(
    frames: Frames, pass_: int, index: int, done: int, source: _Source, folder: RunFolder, run: TrackedRun
) -> None:
    """The frame's numbers over its index, and some frames as pictures."""
    numbers = frames.numbers(pass_, index)
    run.log_trace({"step": np.array([index])} | {name: np.array([value]) for name, value in _shown(numbers)})
    snapshots, count = source.inputs.plan.config.tracking.snapshots, source.count or 0
    if done - 1 in {count * k // (snapshots + 1) for k in range(snapshots + 1)}:
        levels = frames.levels(pass_, index)
        write_image(folder.progress_file(index), from_uint8(levels))
        run.log_picture(levels, index)


def _shown(numbers: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in numbers.items() if name != "pts")


# --- writing ---------------------------------------------------------------------------------------------------


def _write_clips(inputs: Inputs, source: _Source, frames: Frames, folder: RunFolder) -> dict[str, Path]:
    """Write what is asked for, of the frames that there are; the trace goes with it."""
    video, pass_ = inputs.plan.config.video, _finished_pass(inputs, frames)
    indices = frames.indices(pass_)
    if not indices:
        return {}
    _write_trace(frames, pass_, folder)
    codec = CODECS[video.codec]
    sound = source.clip if video.sound and source.clip.has_sound and codec.encoder else None
    suffix = suffix_with_sound(codec, source.clip) if sound else codec.suffix
    wanted = {"clip": (CLIP, _pictures), "side_by_side": (SIDE_BY_SIDE, _pairs)}
    files = {what: folder.path / f"{name}{suffix}" for what, (name, _) in wanted.items() if what in video.write}
    for what, path in files.items():
        pictures = wanted[what][1](source, frames, pass_)
        rate = source.clip.rate / video.every
        write_clip(path, pictures, codec, time_base=source.clip.time_base, rate=Fraction(rate), sound_of=sound)
    return files


def _finished_pass(inputs: Inputs, frames: Frames) -> int:
    """The last pass that has painted anything; an unfinished clip is made of it."""
    passes = range(inputs.plan.config.video.passes, 0, -1)
    return next((pass_ for pass_ in passes if frames.indices(pass_)), 1)


def _pictures(source: _Source, frames: Frames, pass_: int) -> Iterator[tuple[int, Levels]]:
    for index in frames.indices(pass_):
        yield int(frames.numbers(pass_, index)["pts"]), frames.levels(pass_, index)


def _pairs(source: _Source, frames: Frames, pass_: int) -> Iterator[tuple[int, Levels]]:
    for frame in source.frames():
        if frames.has(pass_, frame.index):
            yield frame.pts, np.concatenate([frame.levels, frames.levels(pass_, frame.index)], axis=1)


def _write_trace(frames: Frames, pass_: int, folder: RunFolder) -> None:
    indices = frames.indices(pass_)
    rows = [dict(_shown(frames.numbers(pass_, index))) for index in indices]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    folder.write_trace({"step": np.array(indices)} | columns)


# --- measuring -------------------------------------------------------------------------------------------------


def _result(
    inputs: Inputs, source: _Source, frames: Frames, folder: RunFolder, files: Mapping[str, Path]
) -> dict[str, Any]:
    pass_ = inputs.plan.config.video.passes
    indices = frames.indices(pass_)
    rows = [frames.numbers(p, index) for p in range(1, pass_ + 1) for index in frames.indices(p)]
    last = [frames.numbers(pass_, index) for index in indices]
    seconds, evaluations = (sum(row[f"frame/{name}"] for row in rows) for name in ("seconds", "evaluations"))
    write_image(folder.path / PICTURE, from_uint8(frames.levels(pass_, indices[len(indices) // 2])))
    hashes = {name: sha256_of(path) for name, path in {"pastiche": folder.path / PICTURE, **files}.items()}
    return {
        "identity": folder.record.identity,
        "pastiche": PICTURE,
        **{what: path.name for what, path in files.items()},
        "frames": len(indices),
        "total_loss": float(np.mean([row["loss/total"] for row in last])),
        "losses": _mean_losses(last),
        "measures": _measures(inputs, source, frames),
        "steps": int(sum(row["frame/steps"] for row in rows)),
        "evaluations": int(evaluations),
        "restarts": int(sum(row["frame/restarts"] for row in rows)),
        "seconds": seconds,
        "evaluations_per_second": evaluations / seconds,
        "frames_per_second": len(indices) / seconds,
        "peak_memory_mb": peak_mb(),
        "sha256": {**inputs.plan.hashes, **hashes},
    }


def _mean_losses(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By term, over the frames that have it: the first is held to nothing."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("loss"))
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return {
        name.replace("loss_of_layer/", "style.").removeprefix("loss/"): value
        for name, value in means.items()
        if name != "loss/total"
    }


def _measures(inputs: Inputs, source: _Source, frames: Frames) -> dict[str, float]:
    """Of single frames, averaged, and of the clip as it moves."""
    pass_ = inputs.plan.config.video.passes
    indices = frames.indices(pass_)
    judged = {indices[len(indices) * k // _JUDGED] for k in range(_JUDGED)}
    steadiness, found = Steadiness(), []
    flows, before = _flows(inputs, source), None
    for frame in source.frames():
        if not frames.has(pass_, frame.index):
            continue
        index, after = frame.index, Seen(frame.levels, frames.levels(pass_, frame.index))
        if before is not None:
            _add(steadiness, flows, before, (index, after))
        if index in judged:
            found.append(_judged(inputs, index, after))
        before = index, after
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return means | steadiness.measures()


def _add(steadiness: Steadiness, flows: Flows, before: tuple[int, Seen], after: tuple[int, Seen]) -> None:
    earlier, later = (before[0], before[1].content), (after[0], after[1].content)
    backward, forward = flows.between(later, earlier), flows.between(earlier, later)
    held = ~hidden(backward, forward) & ~motion_edges(backward)
    steadiness.add(before[1], after[1], backward, held, still(backward))


def _judged(inputs: Inputs, index: int, seen: Seen) -> dict[str, float]:
    """What the judge says of one frame."""
    plan = inputs.plan
    hashes = (plan.hashes["content"], plan.hashes["style"])
    pair = Pair(plan.files["content"], plan.files["style"], hashes, plan.config.aspect, index, seen.content)
    content, pastiche = (jnp.asarray(from_uint8(levels)) for levels in (seen.content, seen.pastiche))
    return measure(plan.config.judge, pair, content, pastiche, cache_folder(plan.config))
