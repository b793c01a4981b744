"""The files of a run of a video: its frames, the videos made from them, their measures, and the result."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from nst_exp.config import RunConfig
from nst_exp.errors import InputError
from nst_exp.evaluation.evaluator import Pair, measure
from nst_exp.evaluation.temporal import FramePair, Steadiness
from nst_exp.files import cache_folder
from nst_exp.media.codecs import CODECS
from nst_exp.media.frame_conversion import resize
from nst_exp.media.image import from_uint8, sha256_of, write_levels
from nst_exp.media.sound import plan_sound
from nst_exp.media.timing import Ending, ending_of
from nst_exp.media.video import Frame, VideoFile, read_frames
from nst_exp.media.video_writer import suffix_with_sound, write_video
from nst_exp.memory import peak_mb
from nst_exp.motion.flow import estimator_version, hidden, motion_edges, still
from nst_exp.motion.flow_cache import Flows
from nst_exp.motion.frame_store import Frames
from nst_exp.records import record
from nst_exp.records.folder import FRAMES, PICTURE, RESULTS_VERSION, SIDE_BY_SIDE, VIDEO
from nst_exp.records.registry import ResultRegistry
from nst_exp.records.result import Result
from nst_exp.runs.frame_policy import FramePolicy, frame_policy
from nst_exp.runs.inputs import Inputs
from nst_exp.runs.kind import ActiveRun
from nst_exp.runs.progress import phase
from nst_exp.runs.source import VideoSource, cut_of
from nst_exp.versions import decoders_version

Levels = npt.NDArray[np.uint8]

_log = logging.getLogger(__name__)

_MEASURED = 8  # the number of frames, spread evenly over the video, whose measures are averaged


@dataclass(frozen=True)
class VideoRun:
    """A run of a video, with its source, its painted frames and its frame policy.

    Attributes:
        run: the run, which has begun.
    """

    run: ActiveRun

    @property
    def inputs(self) -> Inputs:
        """The inputs of the run."""
        return self.run.inputs

    @property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return self.inputs.plan.config

    @property
    def source(self) -> VideoSource:
        """The source of the run, which is a video file."""
        source = self.inputs.plan.source
        assert isinstance(source, VideoSource)
        return source

    @property
    def file(self) -> VideoFile:
        """The video file of the source."""
        return self.source.file

    @property
    def frame_size(self) -> tuple[int, int]:
        """(width, height) in px of the painted frames."""
        return self.source.frame_size(self.config)

    @property
    def count(self) -> int | None:
        """The number of selected frames; None if the file does not tell how many it has."""
        return cut_of(self.config).count(self.file.frames)

    @property
    def frames(self) -> Frames:
        """The frames that are painted so far."""
        return Frames(self.run.folder.path / FRAMES)

    @cached_property
    def flows(self) -> Flows:
        """The optical flow between frames of the source, at the size of the run."""
        plan, video = self.inputs.plan, self.config.video
        width, height = self.frame_size
        # stored flows are not used by another version of the estimator, or for frames that another decoder reads
        code = f"{estimator_version(video.estimator)}, {decoders_version()}"
        code = hashlib.sha256(code.encode()).hexdigest()[:12]
        name = f"{plan.hashes['content'][:32]}-{width}x{height}-{video.estimator}-{code}-{RESULTS_VERSION}"
        kept_in = cache_folder(plan.config.cache_dir) / "flow" / name if video.flow_cache_mb else None
        return Flows(video.estimator, kept_in, video.flow_cache_mb)

    @cached_property
    def policy(self) -> FramePolicy:
        """The policy that says how frames follow from one another."""
        return frame_policy(self.config.video, self.flows, self.config.video.reach)

    def source_frames(self) -> Iterator[Frame]:
        """Read the selected frames one after the other, at the size of the run."""
        for frame in self.original_frames():
            yield self.resized(frame)

    def original_frames(self) -> Iterator[Frame]:
        """Read the selected frames one after the other, at the size of the source."""
        return read_frames(self.file, cut_of(self.config), on_corrupt=self.config.video.on_corrupt, name="content")

    def resized(self, frame: Frame) -> Frame:
        """Resize a frame to the size of the run."""
        return replace(frame, levels=resize(frame.levels, self.frame_size))

    def open(self) -> None:
        """Open the folder of painted frames.

        Frames that this run or another run with the same settings has painted before are kept or copied, so that the
        video is resumed. With `force=true`, no frames are copied from other runs.

        Raises:
            InputError: if the folder cannot be written.
        """
        plan = self.inputs.plan
        key = record.frames_key(plan.params, plan.hashes, self.frame_size)
        registry = ResultRegistry.at(self.config.registry)
        self.frames.open(key)
        earlier = None if self.config.force else registry.frames(key)
        if earlier is not None and earlier != self.run.folder.path and Frames(earlier / FRAMES).key == key:
            self.frames.take_over(Frames(earlier / FRAMES))
        registry.add_frames(key, self.run.folder.path)


def log_treatment(video: VideoRun) -> None:
    """Log in one line how an unusual source is treated and what happens to its sound.

    The line is a warning if the sound will lose something.
    """
    source = _sound_of(video)
    plan = plan_sound(source, CODECS[video.config.video.codec].suffix) if source else None
    words = (*video.file.treatment, *(plan.words if plan else ()))
    if words:
        level = logging.WARNING if plan and plan.lossy else logging.INFO
        _log.log(level, "content: %s", "; ".join((video.file.summary, *words)))


def _sound_of(video: VideoRun) -> VideoFile | None:
    """Return the source if its sound is to be kept, None otherwise; animations cannot hold any sound."""
    wanted = video.config.video.sound and video.file.has_sound and not CODECS[video.config.video.codec].animation
    return video.file if wanted else None


def finish_video(video: VideoRun) -> Result:
    """Write the videos that `video.write` names, measure them, and write the result.

    The painted frames are removed at the end unless `video.write` names them.

    Raises:
        InputError: if the source cannot be read again, or a file cannot be written.
    """
    result = _result(video, write_videos(video))
    video.run.folder.finish(result)  # before the frames are removed, which an unfinished run would need to resume
    if "frames" not in video.config.video.write:
        video.frames.remove()
    return result


# --- writing ---------------------------------------------------------------------------------------------------


def write_videos(video: VideoRun) -> dict[str, Path]:
    """Write the trace, and the videos that `video.write` names, of the frames painted so far.

    Returns:
        The files of the videos by product, `video` or `side_by_side`; empty if no frame is painted.

    Raises:
        InputError: if the source cannot be read to its end, or a file cannot be written.
    """
    settings, file, pass_ = video.config.video, video.file, _finished_pass(video)
    if not video.frames.indices(pass_):
        return {}
    phase("writing the video")
    _write_trace(video, pass_)
    codec, sound = CODECS[settings.codec], _sound_of(video)
    suffix = suffix_with_sound(codec, file) if sound else codec.suffix
    products = {"video": (VIDEO, _pictures), "side_by_side": (SIDE_BY_SIDE, _pairs)}
    files = {}
    for product, (name, pictures) in products.items():
        if product in settings.write:
            files[product] = video.run.folder.path / f"{name}{suffix}"
            _write(video, files[product], partial(pictures, video, pass_), sound, _ending(video, pass_))
    return files


def _write(
    video: VideoRun,
    path: Path,
    pictures: Callable[[], Iterator[tuple[int, Levels]]],
    sound: VideoFile | None,
    ending: Ending,
) -> None:
    """Write a video with the sound of `sound` or, if that fails, without any sound."""
    file, settings = video.file, video.config.video
    write = partial(write_video, path, codec=CODECS[settings.codec], time_base=file.time_base, end=ending.pts)
    rate = Fraction(file.rate / settings.every)
    if sound is not None:
        try:
            write(frames=pictures(), rate=rate, sound_of=sound, sound_to_end=ending.of_source)
        except (InputError, ValueError) as error:
            _log.warning("%s; it is written again, without sound", error)
        else:
            return
    write(frames=pictures(), rate=rate)


def _ending(video: VideoRun, pass_: int) -> Ending:
    file, index = video.file, video.frames.indices(pass_)[-1]
    pts = int(video.frames.numbers(pass_, index)["pts"])
    try:
        return ending_of(file, pts, video.config.video.every)
    except OSError:  # the source has been removed, but a video of the painted frames can still be written
        return Ending(pts + max(1, round(1 / (file.rate * file.time_base))), of_source=False)


def _finished_pass(video: VideoRun) -> int:
    """Return the last pass that has painted a frame; the video is made from its frames."""
    passes = range(video.config.video.passes, 0, -1)
    return next((pass_ for pass_ in passes if video.frames.indices(pass_)), 1)


def _pictures(video: VideoRun, pass_: int) -> Iterator[tuple[int, Levels]]:
    for index in video.frames.indices(pass_):
        yield int(video.frames.numbers(pass_, index)["pts"]), video.frames.levels(pass_, index)


def _pairs(video: VideoRun, pass_: int) -> Iterator[tuple[int, Levels]]:
    for frame in video.source_frames():
        if video.frames.has(pass_, frame.index):
            yield frame.pts, np.concatenate([frame.levels, video.frames.levels(pass_, frame.index)], axis=1)


def _write_trace(video: VideoRun, pass_: int) -> None:
    indices = video.frames.indices(pass_)
    rows = [logged_values(video.frames.numbers(pass_, index)) for index in indices]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    video.run.folder.write_trace({"step": np.array(indices)} | columns)


def logged_values(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of a frame that are logged, without those that are only needed to write the video."""
    return {name: value for name, value in numbers.items() if name not in ("pts", "batch_size")}


# --- measuring -------------------------------------------------------------------------------------------------


def _result(video: VideoRun, files: Mapping[str, Path]) -> Result:
    frames, folder, passes = video.frames, video.run.folder, video.config.video.passes
    indices = frames.indices(passes)
    rows = [frames.numbers(pass_, index) for pass_ in range(1, passes + 1) for index in frames.indices(pass_)]
    last = [frames.numbers(passes, index) for index in indices]
    seconds, evaluations = (sum(row[f"frame/{name}"] for row in rows) for name in ("seconds", "evaluations"))
    write_levels(folder.path / PICTURE, frames.levels(passes, indices[len(indices) // 2]))
    hashes = {name: sha256_of(path) for name, path in {"pastiche": folder.path / PICTURE, **files}.items()}
    return Result(
        identity=folder.record.identity,
        pastiche=PICTURE,
        video=files["video"].name if "video" in files else None,
        side_by_side=files["side_by_side"].name if "side_by_side" in files else None,
        frames=len(indices),
        total_loss=float(np.mean([row["loss/total"] for row in last])),
        losses=_mean_losses(last),
        measures=_measures(video),
        steps=int(sum(row["frame/steps"] for row in rows)),
        evaluations=int(evaluations),
        restarts=int(sum(row["frame/restarts"] for row in rows)),
        seconds=seconds,
        evaluations_per_second=evaluations / seconds,
        frames_per_second=len(indices) / seconds,
        peak_memory_mb=peak_mb(),
        batch_size=int(max(row.get("batch_size", 1) for row in rows)),
        sha256={**video.inputs.plan.hashes, **hashes},
    )


def _mean_losses(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each loss over the frames that have it; the first frame has no temporal loss."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("loss"))
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return {
        name.replace("loss_of_layer/", "style.").removeprefix("loss/"): value
        for name, value in means.items()
        if name != "loss/total"
    }


def _measures(video: VideoRun) -> dict[str, float]:
    """Return the measures of single frames, averaged over some of them, and the temporal measures of the video."""
    phase("measuring")
    frames, pass_ = video.frames, video.config.video.passes
    indices = frames.indices(pass_)
    measured = {indices[len(indices) * k // _MEASURED] for k in range(_MEASURED)}
    steadiness, found = Steadiness(), []
    flows, before = video.flows, None
    for frame in video.original_frames():
        if not frames.has(pass_, frame.index):
            continue
        index, after = frame.index, FramePair(video.resized(frame).levels, frames.levels(pass_, frame.index))
        if before is not None:
            _add(steadiness, flows, before, (index, after))
        if index in measured:
            found.append(_frame_measures(video.inputs, frame, after))
        before = index, after
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return means | steadiness.measures()


def _add(steadiness: Steadiness, flows: Flows, before: tuple[int, FramePair], after: tuple[int, FramePair]) -> None:
    earlier, later = (before[0], before[1].content), (after[0], after[1].content)
    backward, forward = flows.between(later, earlier), flows.between(earlier, later)
    held = ~hidden(backward, forward) & ~motion_edges(backward)
    steadiness.add(before[1], after[1], backward, held, still(backward))


def _frame_measures(inputs: Inputs, frame: Frame, painted: FramePair) -> dict[str, float]:
    """Measure one frame against the source's frame at its original size, so that video sizes can be compared."""
    plan = inputs.plan
    hashes = (plan.hashes["content"], plan.hashes["style"])
    pair = Pair(plan.files["content"], plan.files["style"], hashes, plan.config.aspect, frame.index, frame.levels)
    content, pastiche = (jnp.asarray(from_uint8(levels)) for levels in (painted.content, painted.pastiche))
    return measure(plan.config.evaluator, pair, content, pastiche, cache_folder(plan.config.cache_dir))
