"""A film: a clip's run from its frames, painted or not, to a clip of them, its measures and its result."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from nst_exp.config import RunConfig
from nst_exp.errors import InputError
from nst_exp.evaluation.evaluator import Pair, measure
from nst_exp.evaluation.temporal import Seen, Steadiness
from nst_exp.media.frame_conversion import resize
from nst_exp.media.image import from_uint8, sha256_of, write_levels
from nst_exp.media.sound import plan_sound
from nst_exp.media.timing import Ending, ending_of
from nst_exp.media.video import Clip, Cut, Frame, read_frames
from nst_exp.media.video_writer import CODECS, suffix_with_sound, write_clip
from nst_exp.memory import peak_mb
from nst_exp.motion.flow import estimator_version, hidden, motion_edges, still
from nst_exp.motion.flow_cache import Flows
from nst_exp.motion.frame_store import Frames
from nst_exp.records import record
from nst_exp.records.folder import CLIP, FRAMES, PICTURE, RESULTS_VERSION, SIDE_BY_SIDE, RunFolder
from nst_exp.records.registry import Ledger
from nst_exp.records.tracking import TrackedRun
from nst_exp.runs.preparation import (
    Inputs,
    Static,
    cache_folder,
    cut_of,
    following_method,
    following_schedule,
    frame_size,
)
from nst_exp.runs.progress import phase
from nst_exp.transfer.solver import Method
from nst_exp.transfer.stylize import Schedule
from nst_exp.versions import decoders_version

Levels = npt.NDArray[np.uint8]

_log = logging.getLogger(__name__)

_JUDGED = 8  # frames, spread over the clip, whose measures are averaged


@dataclass(frozen=True)
class Kin:
    """What films must have in common to be painted frame by frame together: the frames, and what is compiled in.

    Attributes:
        static: of a frame that stands alone.
        following: solver and schedule of one that sets out from another; None if none does.
        lanes: what video.lanes says.
    """

    static: Static
    following: tuple[Method, Schedule] | None
    content_sha256: str
    cut: Cut
    aspect: str
    on_corrupt: str
    mode: str
    passes: int
    lanes: int | None

    @classmethod
    def of(cls, inputs: Inputs) -> Kin:
        """That of a film with these inputs."""
        config, content = inputs.plan.config, inputs.plan.hashes["content"]
        video, follows = config.video, config.video.mode != "independent"
        following = (following_method(config), following_schedule(inputs)) if follows else None
        frames = (content, cut_of(config), config.aspect, video.on_corrupt)
        return cls(Static.of(inputs), following, *frames, video.mode, video.passes, video.lanes)


@dataclass(frozen=True)
class Film:
    """A clip's run: what it is painted from, and where to."""

    inputs: Inputs
    folder: RunFolder
    run: TrackedRun

    @property
    def config(self) -> RunConfig:
        return self.inputs.plan.config

    @property
    def clip(self) -> Clip:
        """The source."""
        assert self.inputs.plan.clip is not None
        return self.inputs.plan.clip

    @property
    def count(self) -> int | None:
        """How many frames are taken, as far as the file says."""
        return cut_of(self.config).count(self.clip.frames)

    @property
    def frames(self) -> Frames:
        """Those painted so far."""
        return Frames(self.folder.path / FRAMES)

    @property
    def flows(self) -> Flows:
        """Between the source's frames, at the film's size."""
        plan, video = self.inputs.plan, self.config.video
        width, height = frame_size(plan)
        # flows must not outlive the code that made them, or the frames that they are between
        code = f"{estimator_version(video.estimator)}, {decoders_version()}"
        code = hashlib.sha256(code.encode()).hexdigest()[:12]
        name = f"{plan.hashes['content'][:32]}-{width}x{height}-{video.estimator}-{code}-{RESULTS_VERSION}"
        kept_in = cache_folder(plan.config) / "flow" / name if video.flow_cache_mb else None
        return Flows(video.estimator, kept_in, video.flow_cache_mb)

    def source_frames(self) -> Iterator[Frame]:
        """One after the other, at the film's size."""
        for frame in self.original_frames():
            yield self.resized(frame)

    def original_frames(self) -> Iterator[Frame]:
        """One after the other, at the source's own size."""
        return read_frames(self.clip, cut_of(self.config), on_corrupt=self.config.video.on_corrupt, name="content")

    def resized(self, frame: Frame) -> Frame:
        """The frame at the film's size."""
        return replace(frame, levels=resize(frame.levels, frame_size(self.inputs.plan)))

    def open(self) -> None:
        """Begin, or go on with the frames that another run of the same settings has left.

        Raises:
            InputError: if the folder cannot be written.
        """
        plan = self.inputs.plan
        key = record.frames_key(plan.params, plan.hashes, frame_size(plan))
        ledger = Ledger.at(self.config.ledger)
        self.frames.open(key)
        earlier = None if self.config.force else ledger.frames(key)
        if earlier is not None and earlier != self.folder.path and Frames(earlier / FRAMES).key == key:
            self.frames.take_over(Frames(earlier / FRAMES))
        ledger.add_frames(key, self.folder.path)


def log_treatment(film: Film) -> None:
    """Say in one log line what is unusual about the source and what becomes of its sound; a loss is a warning."""
    source = _sound_of(film)
    plan = plan_sound(source, CODECS[film.config.video.codec].suffix) if source else None
    words = (*film.clip.treatment, *(plan.words if plan else ()))
    if words:
        level = logging.WARNING if plan and plan.lossy else logging.INFO
        _log.log(level, "content: %s", "; ".join((film.clip.summary, *words)))


def _sound_of(film: Film) -> Clip | None:
    """The source if its sound goes along, which animations cannot hold."""
    wanted = film.config.video.sound and film.clip.has_sound and not CODECS[film.config.video.codec].animation
    return film.clip if wanted else None


def finish_film(film: Film, failure: InputError | None) -> dict[str, Any]:
    """Write the clip, measure it, and write everything down.

    Args:
        failure: why frames are missing; a clip of those that there are is left.

    Returns:
        What result.json holds.

    Raises:
        InputError: the failure; or if the clip cannot be read again, or a file cannot be written.
    """
    if failure is not None:
        with contextlib.suppress(InputError):  # the failure is the thing to say
            write_clips(film)
        raise failure
    result = _result(film, write_clips(film))
    film.folder.finish(result)
    if "frames" not in film.config.video.write:
        film.frames.remove()
    return result


# --- writing ---------------------------------------------------------------------------------------------------


def write_clips(film: Film) -> dict[str, Path]:
    """Write what is asked for, of the frames that there are; the trace goes with it.

    Raises:
        InputError: if the source cannot be read to its end, or a file cannot be written.
    """
    video, clip, pass_ = film.config.video, film.clip, _finished_pass(film)
    if not film.frames.indices(pass_):
        return {}
    phase("writing the video")
    _write_trace(film, pass_)
    codec, sound = CODECS[video.codec], _sound_of(film)
    suffix = suffix_with_sound(codec, clip) if sound else codec.suffix
    wanted = {"clip": (CLIP, _pictures), "side_by_side": (SIDE_BY_SIDE, _pairs)}
    files = {what: film.folder.path / f"{name}{suffix}" for what, (name, _) in wanted.items() if what in video.write}
    for what, path in files.items():
        _write(film, path, partial(wanted[what][1], film, pass_), sound, _ending(film, pass_))
    return files


def _write(
    film: Film,
    path: Path,
    pictures: Callable[[], Iterator[tuple[int, Levels]]],
    sound: Clip | None,
    ending: Ending,
) -> None:
    """Write pictures with sound, or if that fails without."""
    clip, video = film.clip, film.config.video
    write = partial(write_clip, path, codec=CODECS[video.codec], time_base=clip.time_base, end=ending.pts)
    rate = Fraction(clip.rate / video.every)
    if sound is not None:
        try:
            write(frames=pictures(), rate=rate, sound_of=sound, sound_to_end=ending.of_source)
        except (InputError, ValueError) as error:
            _log.warning("%s; it is written again, without sound", error)
        else:
            return
    write(frames=pictures(), rate=rate)


def _ending(film: Film, pass_: int) -> Ending:
    clip, index = film.clip, film.frames.indices(pass_)[-1]
    pts = int(film.frames.numbers(pass_, index)["pts"])
    try:
        return ending_of(clip, pts, film.config.video.every)
    except OSError:  # the source is gone, which may not cost what is painted
        return Ending(pts + max(1, round(1 / (clip.rate * clip.time_base))), of_source=False)


def _finished_pass(film: Film) -> int:
    """The last pass that has painted anything; an unfinished clip is made of it."""
    passes = range(film.config.video.passes, 0, -1)
    return next((pass_ for pass_ in passes if film.frames.indices(pass_)), 1)


def _pictures(film: Film, pass_: int) -> Iterator[tuple[int, Levels]]:
    for index in film.frames.indices(pass_):
        yield int(film.frames.numbers(pass_, index)["pts"]), film.frames.levels(pass_, index)


def _pairs(film: Film, pass_: int) -> Iterator[tuple[int, Levels]]:
    for frame in film.source_frames():
        if film.frames.has(pass_, frame.index):
            yield frame.pts, np.concatenate([frame.levels, film.frames.levels(pass_, frame.index)], axis=1)


def _write_trace(film: Film, pass_: int) -> None:
    indices = film.frames.indices(pass_)
    rows = [shown(film.frames.numbers(pass_, index)) for index in indices]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    film.folder.write_trace({"step": np.array(indices)} | columns)


def shown(numbers: Mapping[str, float]) -> dict[str, float]:
    """A frame's numbers but for those that only the clip needs."""
    return {name: value for name, value in numbers.items() if name not in ("pts", "lanes")}


# --- measuring -------------------------------------------------------------------------------------------------


def _result(film: Film, files: Mapping[str, Path]) -> dict[str, Any]:
    frames, folder, pass_ = film.frames, film.folder, film.config.video.passes
    indices = frames.indices(pass_)
    rows = [frames.numbers(p, index) for p in range(1, pass_ + 1) for index in frames.indices(p)]
    last = [frames.numbers(pass_, index) for index in indices]
    seconds, evaluations = (sum(row[f"frame/{name}"] for row in rows) for name in ("seconds", "evaluations"))
    write_levels(folder.path / PICTURE, frames.levels(pass_, indices[len(indices) // 2]))
    hashes = {name: sha256_of(path) for name, path in {"pastiche": folder.path / PICTURE, **files}.items()}
    return {
        "identity": folder.record.identity,
        "pastiche": PICTURE,
        **{what: path.name for what, path in files.items()},
        "frames": len(indices),
        "total_loss": float(np.mean([row["loss/total"] for row in last])),
        "losses": _mean_losses(last),
        "measures": _measures(film),
        "steps": int(sum(row["frame/steps"] for row in rows)),
        "evaluations": int(evaluations),
        "restarts": int(sum(row["frame/restarts"] for row in rows)),
        "seconds": seconds,
        "evaluations_per_second": evaluations / seconds,
        "frames_per_second": len(indices) / seconds,
        "peak_memory_mb": peak_mb(),
        "lanes": int(max(row.get("lanes", 1) for row in rows)),
        "sha256": {**film.inputs.plan.hashes, **hashes},
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


def _measures(film: Film) -> dict[str, float]:
    """Of single frames, averaged, and of the clip as it moves."""
    phase("measuring")
    frames, pass_ = film.frames, film.config.video.passes
    indices = frames.indices(pass_)
    judged = {indices[len(indices) * k // _JUDGED] for k in range(_JUDGED)}
    steadiness, found = Steadiness(), []
    flows, before = film.flows, None
    for frame in film.original_frames():
        if not frames.has(pass_, frame.index):
            continue
        index, after = frame.index, Seen(film.resized(frame).levels, frames.levels(pass_, frame.index))
        if before is not None:
            _add(steadiness, flows, before, (index, after))
        if index in judged:
            found.append(_judged(film.inputs, frame, after))
        before = index, after
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return means | steadiness.measures()


def _add(steadiness: Steadiness, flows: Flows, before: tuple[int, Seen], after: tuple[int, Seen]) -> None:
    earlier, later = (before[0], before[1].content), (after[0], after[1].content)
    backward, forward = flows.between(later, earlier), flows.between(earlier, later)
    held = ~hidden(backward, forward) & ~motion_edges(backward)
    steadiness.add(before[1], after[1], backward, held, still(backward))


def _judged(inputs: Inputs, frame: Frame, seen: Seen) -> dict[str, float]:
    """The measures of one frame, compared with the source's frame at its own size, whatever the film's size is."""
    plan = inputs.plan
    hashes = (plan.hashes["content"], plan.hashes["style"])
    pair = Pair(plan.files["content"], plan.files["style"], hashes, plan.config.aspect, frame.index, frame.levels)
    content, pastiche = (jnp.asarray(from_uint8(levels)) for levels in (seen.content, seen.pastiche))
    return measure(plan.config.judge, pair, content, pastiche, cache_folder(plan.config))
