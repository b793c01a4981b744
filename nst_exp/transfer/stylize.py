"""Style transfer of a batch of pictures, from coarse to fine; `stylize` is the entry point.

The large strokes of the painting are laid at a small size, where the receptive field of a layer spans more of the
picture. Each finer scale starts from the resized result of the scale before. The idea is that of Gatys et al. (2017),
Controlling Perceptual Factors in Neural Style Transfer, section 6; the factor sqrt(2) between scales is common
practice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from nst_exp.errors import InputError
from nst_exp.memory import free_bytes
from nst_exp.outcome import Outcome
from nst_exp.transfer.colour import COLOURS_OF_PAINTING, Colours, recoloured
from nst_exp.transfer.methods import Method
from nst_exp.transfer.objective import Objective
from nst_exp.transfer.solver import CHUNK, Problems, SolverState, Trace, advance, begin, conclude, spare_entries
from nst_exp.transfer.terms import Anchor, LossWeights, Problem, Targets
from nst_exp.types import AnyImage, Image, NetworkParams, Statistics, StyleImage

# The memory of an evaluation as a multiple of the feature maps of one forward pass. XLA's plans for VGG-16 on a CPU
# take 2.2 to 2.4 times as much.
_COPIES_OF_MAPS = 2.5


@dataclasses.dataclass(frozen=True)
class Stop:
    """The rule for ending a scale before all of its steps are done.

    A scale ends when its best loss fell by less than the fraction `improvement` over the last `window` steps.

    Attributes:
        improvement: the fraction, 0 or above; 0 never ends a scale early.
        window: the number of steps, at least 1.
    """

    improvement: float = 0.0
    window: int = 20

    def reached(self, best_totals: list[float]) -> bool:
        """Tell whether to stop.

        Args:
            best_totals: the best total loss at the start of the scale and after each of its steps.
        """
        if len(best_totals) <= self.window:
            return False
        before, now = best_totals[-1 - self.window], best_totals[-1]
        return before - now < self.improvement * before


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The scales of a solve, and the steps that are done at each.

    Attributes:
        sizes: (height, width) in px of each scale, from coarse to fine; the last one is the size of the picture.
        steps: the number of steps at all scales together; at least one for each scale.
        init: the initial picture, a name in `INITIAL_PICTURES`: `content`, `colours` (the content image in the colours
            of the painting), `noise` (uniform in [0, 1]) or `style` (the painting, stretched to the size of the
            picture).
        stop: the rule for ending a scale early; by default, all steps are done.
        steps_ratio: the steps of a scale over those of the next finer one, above 0; 1 divides the steps evenly.
    """

    sizes: tuple[tuple[int, int], ...]
    steps: int
    init: str
    stop: Stop = Stop()
    steps_ratio: float = 1.0

    @property
    def steps_by_scale(self) -> tuple[int, ...]:
        """The number of steps of each scale, at least 1; the finest scale gets the remainder."""
        shares = [self.steps_ratio**-scale for scale in range(len(self.sizes))]
        spare = self.steps - len(shares)
        coarse = [1 + int(spare * share / sum(shares)) for share in shares[:-1]]
        return (*coarse, self.steps - sum(coarse))


@dataclasses.dataclass(frozen=True)
class BatchEntry:
    """One picture of a batch.

    Attributes:
        weights: the weights of the loss.
        content_image: the photograph, with pixels in [0, 1], at the finest size of the schedule. All entries of a
            batch have the same size.
        style_image: the painting, of any size; it is resized along with the scales.
        init_image: the initial picture, of any size; None for the one that `Schedule.init` names.
        seed: the seed of the noise of `init=noise`.
        anchor: for a frame that follows other frames of a video. It has the finest size of the schedule, which must
            then be the only one.
        colours: whose colours the result has; `painting` has been applied to `style_image` already. All entries of a
            batch have the same `grey` as their objective.
        averaging: the decay of the moving average of the iterates that becomes the result of a scale, from 0 to below 1
            (see `nst_exp.transfer.solver.Average`); 0 for the best iterate instead.
    """

    weights: LossWeights
    content_image: Image
    style_image: StyleImage
    init_image: AnyImage | None = None
    seed: int = 0
    anchor: Anchor | None = None
    colours: Colours = COLOURS_OF_PAINTING
    averaging: float = 0.0

    def finished(self, pastiche: AnyImage) -> AnyImage:
        """Return what the solver made for this entry, at any scale, in its final colours."""
        return self.colours.finished(pastiche, self.content_image)


@dataclasses.dataclass
class StyleMemory:
    """A cache of the style targets of paintings, for repeated calls of `stylize`, such as for the frames of a camera.

    It holds for one objective and its params only.
    """

    _known: dict[tuple[int, float], tuple[StyleImage, Statistics]] = dataclasses.field(default_factory=dict)

    def targets(self, image: StyleImage, factor: float, compute: Callable[[AnyImage], Statistics]) -> Statistics:
        """Return the style targets of a painting, computing them at the first call.

        Args:
            image: the painting; it is recognised by identity.
            factor: the factor by which the height and width of `image` are resized.
            compute: computes the targets of the resized painting.
        """
        key = (id(image), factor)
        if key not in self._known:
            # the image is kept as well, so that no other object can get its id
            self._known[key] = image, compute(_shrunk(image, factor))
        return self._known[key][1]


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of one entry after a chunk.

    Attributes:
        entry: the index of the entry in the batch.
        scale: the index of the current scale.
        steps_done: the number of steps done so far, at all scales.
        trace: the losses of each step of the chunk; its evaluations count all scales.
        image: what would be the result of the current scale if it ended now, at the size of that scale and in its final
            colours: the best iterate, or the average.
    """

    entry: int
    scale: int
    steps_done: int
    trace: Trace
    image: Image


@dataclasses.dataclass(frozen=True)
class Solution:
    """The result of a solve: the best picture at the finest scale, or the average, and what it took.

    Attributes:
        pastiche: the picture in its final colours; its pixels may lie outside [0, 1].
        total_loss: the total loss of the picture that the solver made, before it was given its final colours.
        losses: the terms of this loss, by name, before their weights; see `Objective.losses`.
        steps: the number of steps done, at all scales.
        evaluations: how often the loss was computed, at all scales; with its gradient, except for averages.
        restarts: how often a step went wrong and the memory of the method was emptied, at all scales.
    """

    pastiche: Image
    total_loss: float
    losses: dict[str, float]
    steps: int
    evaluations: int
    restarts: int


def coarse_to_fine(height: int, width: int, coarsest_size: int, smallest_side: int) -> tuple[tuple[int, int], ...]:
    """Return the sizes of the scales of a picture, each larger than the one before by a factor of sqrt(2).

    Args:
        height: of the picture, in px.
        width: of the picture, in px.
        coarsest_size: the longer side of every scale but the last is at least this, in px.
        smallest_side: the shorter side of every scale but the last is at least this, in px.

    Returns:
        (height, width) of each scale in px, from coarse to fine. The last one is the size of the picture.

    Example:
        >>> from nst_exp.transfer.stylize import coarse_to_fine
        >>> coarse_to_fine(240, 320, coarsest_size=128, smallest_side=16)
        ((120, 160), (170, 226), (240, 320))
    """
    sizes = [(height, width)]
    factor = 2**-0.5
    while round(max(height, width) * factor) >= coarsest_size and round(min(height, width) * factor) >= smallest_side:
        sizes.insert(0, (round(height * factor), round(width * factor)))
        factor *= 2**-0.5
    return tuple(sizes)


def bytes_per_entry(objective: Objective, method: Method, params: NetworkParams, size: tuple[int, int]) -> int:
    """Estimate the memory that another entry of a batch takes: its feature maps and the state of the solver.

    Args:
        objective: of the entry.
        method: of the solver.
        params: of the network.
        size: (height, width) of the picture in px.
    """
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    layers = objective.network.truncated(objective.layers)
    maps = jax.eval_shape(lambda pixels: objective.network.features(params, pixels, layers), image)
    # only the leaves are returned: an Iterate of shapes instead of arrays would not pass the type checks of the tests
    state = jax.eval_shape(lambda pixels: jax.tree.leaves(method.start(lambda x: (jnp.sum(x), {}), pixels)), image)
    return round(_COPIES_OF_MAPS * _bytes(maps)) + _bytes(state)


def entries_that_fit(
    objective: Objective, method: Method, params: NetworkParams, size: tuple[int, int], memory_share: float
) -> int:
    """Return how many entries fit into the free memory of all devices; at least 1.

    Args:
        objective: of the entries.
        method: of the solver.
        params: of the network.
        size: (height, width) of the pictures in px.
        memory_share: the fraction of the free memory to use, from 0 to 1.
    """
    return max(1, int(memory_share * free_bytes() / bytes_per_entry(objective, method, params, size)))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def initial_image(schedule: Schedule, entry: BatchEntry) -> AnyImage:
    """Return the picture that an entry starts from, in its final colours, at the coarsest size of `schedule`."""
    (as_solved,) = _as_solved([entry])
    return entry.finished(_initial_image(schedule, as_solved))


def _as_solved(entries: Sequence[BatchEntry]) -> list[BatchEntry]:
    """Return the entries with photographs and anchors as the solver sees them.

    Entries with the same photograph get the same object again.
    """
    photographs: dict[tuple[int, Colours], Image] = {}
    for entry in entries:
        key = id(entry.content_image), entry.colours
        if key not in photographs:
            photographs[key] = entry.colours.photograph(entry.content_image)
    return [
        dataclasses.replace(
            entry, content_image=photographs[id(entry.content_image), entry.colours], anchor=_anchor_as_solved(entry)
        )
        for entry in entries
    ]


def _anchor_as_solved(entry: BatchEntry) -> Anchor | None:
    anchor = entry.anchor
    return None if anchor is None else Anchor(entry.colours.photograph(anchor.image), anchor.mask)


def _initial_image(schedule: Schedule, entry: BatchEntry) -> AnyImage:
    if entry.init_image is not None:
        return _resize(entry.init_image, schedule.sizes[0])
    return INITIAL_PICTURES[schedule.init](entry, schedule.sizes[0])


def _noise(entry: BatchEntry, size: tuple[int, int]) -> AnyImage:
    return jax.random.uniform(jax.random.key(entry.seed), (1, *size, 3), jnp.float32)


# The values of the setting `init`, and for each a function that makes an initial picture for an entry, given its
# (height, width) in px.
INITIAL_PICTURES: dict[str, Callable[[BatchEntry, tuple[int, int]], AnyImage]] = {
    "content": lambda entry, size: _resize(entry.content_image, size),
    "colours": lambda entry, size: recoloured(_resize(entry.content_image, size), entry.style_image),
    "noise": _noise,
    "style": lambda entry, size: _resize(entry.style_image, size),
}


def stylize(
    objective: Objective,
    method: Method,
    params: NetworkParams,
    entries: Sequence[BatchEntry],
    schedule: Schedule,
    on_chunk: Callable[[Progress], None] = lambda progress: None,
    memory: StyleMemory | None = None,
) -> list[Outcome[Solution]]:
    """Paint the content image of each entry in the style of its style image, in one batch.

    If several entries have the same image object, it is stored once and its features are computed once. An entry that
    stops early waits, unchanged, until all entries have finished the scale.

    Args:
        objective: the network, its layers and how features are compared.
        method: the optimisation method.
        params: the params of the network, at least those of `network.truncated(objective.layers)`.
        entries: at least one; their content images have the same size.
        schedule: the scales and steps, the same for all entries.
        on_chunk: called after each chunk of steps, for each entry that did some.
        memory: the cache of earlier calls with the same objective and params; None to begin with an empty one.

    Returns:
        An outcome for each entry: its solution, or an InputError if the loss of its initial picture is not finite.

    Example:
        >>> from pathlib import Path
        >>> import jax
        >>> from nst_exp.networks import get_network
        >>> from nst_exp.params.sources import ParamsSource, load_params
        >>> from nst_exp.transfer.methods import Lbfgs
        >>> from nst_exp.transfer.objective import Objective
        >>> from nst_exp.transfer.stylize import BatchEntry, Schedule, stylize
        >>> network = get_network("tiny", pooling="average", padding="replicate", precision="float32")
        >>> objective = Objective(network, ("block2_conv1",), ("block1_conv1", "block2_conv1"), loss="relative")
        >>> layers = network.truncated(objective.layers)
        >>> loaded = load_params(ParamsSource("random"), network, layers, cache_dir=Path("cache"))
        >>> params = jax.device_put(loaded.params)
        >>> settings = {"content_weight": 1.0, "style_weight": 0.1, "tv_weight": 10.0, "range_weight": 1000.0}
        >>> layer_weights = {"block1_conv1": 0.4, "block2_conv1": 0.3}
        >>> weights = objective.weights(settings | {"temporal_weight": 0.0}, layer_weights, {"style": 300.0})
        >>> photograph = jax.random.uniform(jax.random.key(0), (1, 48, 64, 3))
        >>> painting = jax.random.uniform(jax.random.key(1), (1, 60, 50, 3))
        >>> entry = BatchEntry(weights, photograph, painting)
        >>> method = Lbfgs(history_size=20, linesearch="none", first_step=0.02)
        >>> schedule = Schedule(sizes=((34, 45), (48, 64)), steps=20, init="content")
        >>> (outcome,) = stylize(objective, method, params, [entry], schedule)
        >>> outcome.get().pastiche.shape
        (1, 48, 64, 3)
    """
    tallies, idle = [_Tally() for _ in entries], spare_entries(len(entries))
    wanted = [*entries, *[entries[0]] * idle]
    entries = _as_solved(wanted)
    pastiches = [_initial_image(schedule, entry) for entry in entries]
    averaging = jnp.array([entry.averaging for entry in entries], jnp.float32)
    memory = memory or StyleMemory()
    for scale, (size, most) in enumerate(zip(schedule.sizes, schedule.steps_by_scale, strict=True)):
        problems = Problems.of(_problems(objective, params, entries, size, memory))
        images = jnp.stack([_resize(pastiche, size) for pastiche in pastiches])
        state = begin(objective, method, problems, images, averaging)
        for tally, total in zip(tallies, np.asarray(state.best_total), strict=False):
            tally.begin_scale(float(total), most)
        while any(tally.continues(schedule.stop) for tally in tallies):
            steps = np.array([tally.next_steps(schedule.stop) for tally in tallies] + [0] * idle, np.int32)
            state, traces = advance(objective.repeated, method, problems, state, jnp.asarray(steps))
            for index, trace in _moved(traces, steps):
                shifted = tallies[index].add(trace)
                image = (state.average.image if entries[index].averaging else state.best_image)[index]
                on_chunk(Progress(index, scale, tallies[index].steps, shifted, wanted[index].finished(image)))
        if any(entry.averaging for entry in entries):
            state = conclude(objective, problems, state)
        pastiches = list(state.best_image)
        for index, tally in enumerate(tallies):
            tally.end_scale(int(state.evaluations[index]), int(state.restarts[index]))
    return [_outcome(index, tally, state, wanted[index]) for index, tally in enumerate(tallies)]


@dataclasses.dataclass
class _Tally:
    """The number of steps and evaluations that an entry has done.

    Attributes:
        steps: done at all scales.
        evaluations: done at the scales that have ended.
        restarts: done at the scales that have ended.
        best_totals: the best total loss at the start of the current scale and after each of its steps.
        left: the steps that may still be done at the current scale.
        not_finite: the loss of the initial picture of a scale, if it was not finite; no more steps are done then.
    """

    steps: int = 0
    evaluations: int = 0
    restarts: int = 0
    best_totals: list[float] = dataclasses.field(default_factory=list)
    left: int = 0
    not_finite: float | None = None

    def begin_scale(self, total: float, steps: int) -> None:
        """Begin a scale of at most `steps` steps, with the total loss of its initial picture."""
        self.best_totals = [total]
        self.left = steps
        if self.not_finite is None and not math.isfinite(total):
            self.not_finite = total

    def continues(self, stop: Stop) -> bool:
        """Tell whether there are more steps to do at this scale."""
        return self.left > 0 and self.not_finite is None and not stop.reached(self.best_totals)

    def next_steps(self, stop: Stop) -> int:
        """Return the number of steps of the next chunk."""
        return min(CHUNK, self.left) if self.continues(stop) else 0

    def add(self, trace: Trace) -> Trace:
        """Count the steps of a chunk, and return its trace with the evaluations of all scales."""
        count = len(trace.totals)
        self.steps += count
        self.left -= count
        self.best_totals += [float(best) for best in np.fmin.accumulate([self.best_totals[-1], *trace.totals])[1:]]
        return dataclasses.replace(trace, evaluations=trace.evaluations + self.evaluations)

    def end_scale(self, evaluations: int, restarts: int) -> None:
        self.evaluations += evaluations
        self.restarts += restarts


def _moved(traces: Trace, steps: npt.NDArray[np.int32]) -> Iterator[tuple[int, Trace]]:
    """Yield the index of each entry that did steps, and its trace on the host, cut to those steps."""
    rows = jax.device_get(traces)
    for index in np.flatnonzero(steps):
        yield int(index), jax.tree.map(lambda row, index=index: row[index, : steps[index]], rows)


def _outcome(index: int, tally: _Tally, state: SolverState, entry: BatchEntry) -> Outcome[Solution]:
    if tally.not_finite is not None:
        error = InputError(f"the loss of the initial picture is {tally.not_finite}: weights are too large for float32")
        return Outcome(error=error)
    total = float(state.best_total[index])
    losses = {name: float(loss[index]) for name, loss in state.best_losses.items()}
    best = entry.finished(state.best_image[index])
    return Outcome(Solution(best, total, losses, tally.steps, tally.evaluations, tally.restarts))


def _problems(
    objective: Objective,
    params: NetworkParams,
    entries: Sequence[BatchEntry],
    size: tuple[int, int],
    memory: StyleMemory,
) -> list[Problem]:
    """Return the problem of each entry at a scale; entries with the same image share the same target objects."""
    factor = size[0] / entries[0].content_image.shape[1]
    contents = {id(entry.content_image): entry.content_image for entry in entries}
    content = {key: _content_targets(objective, params, _resize(image, size)) for key, image in contents.items()}
    style = [memory.targets(entry.style_image, factor, partial(_style_targets, objective, params)) for entry in entries]
    return [
        Problem(params, Targets(content[id(entry.content_image)], target), entry.weights, entry.anchor)
        for entry, target in zip(entries, style, strict=True)
    ]


@partial(jax.jit, static_argnames="objective")
def _content_targets(objective: Objective, params: NetworkParams, image: AnyImage) -> Statistics:
    return objective.content_targets(params, image)


@partial(jax.jit, static_argnames="objective")
def _style_targets(objective: Objective, params: NetworkParams, image: AnyImage) -> Statistics:
    return objective.style_targets(params, image)


def _shrunk(image: StyleImage, factor: float) -> AnyImage:
    _, height, width, _ = image.shape
    return _resize(image, (round(height * factor), round(width * factor)))


def _resize(image: AnyImage, size: tuple[int, int]) -> AnyImage:
    if image.shape[1:3] == size:
        return jnp.asarray(image)
    return jax.image.resize(image, (1, *size, 3), "cubic", antialias=True)
