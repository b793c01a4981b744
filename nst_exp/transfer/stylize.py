"""Pictures, coarse to fine, as the entries of a batch: arrays in, arrays out.

Coarse to fine: the painting's large strokes are laid at a small size, where a layer's receptive field spans
more of the picture, and each finer scale starts from the coarser one's result, resized. The idea is Gatys et
al. (2017), Controlling Perceptual Factors in Neural Style Transfer, section 6; the factor sqrt(2) between
scales is common practice.
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
from nst_exp.transfer.colour import recoloured
from nst_exp.transfer.methods import Method
from nst_exp.transfer.objective import Objective
from nst_exp.transfer.solver import CHUNK, Problems, SolverState, Trace, advance, begin, spare_entries
from nst_exp.transfer.terms import Anchor, LossWeights, Problem, Targets
from nst_exp.types import AnyImage, FeatureMaps, GramMatrices, Image, NetworkParams, StyleImage

# Feature maps held at once, over those of one forward pass; XLA's plans for VGG-16 on a CPU have 2.2 to 2.4
_COPIES_OF_MAPS = 2.5


@dataclasses.dataclass(frozen=True)
class Stop:
    """End a scale when the best loss fell by less than the fraction `improvement` over `window` steps."""

    improvement: float = 0.0
    window: int = 20

    def reached(self, best_totals: list[float]) -> bool:
        """Whether to stop after steps with these best losses so far."""
        if len(best_totals) <= self.window:
            return False
        before, now = best_totals[-1 - self.window], best_totals[-1]
        return before - now < self.improvement * before


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the work is laid out.

    Attributes:
        sizes: (height, width) in px of each scale, coarse to fine; the last is the picture's.
        steps: of all scales together, shared out evenly, what is left over to the finest.
        init: a name in `INITIAL_PICTURES`: `content`, `colours` (the same in the painting's colours), `noise` (uniform
            in [0, 1]) or `style` (the painting stretched over the picture).
    """

    sizes: tuple[tuple[int, int], ...]
    steps: int
    init: str
    stop: Stop = Stop()

    def steps_at(self, scale: int) -> int:
        """Steps of the scale with this index."""
        share, rest = divmod(self.steps, len(self.sizes))
        return share + (rest if scale == len(self.sizes) - 1 else 0)


@dataclasses.dataclass(frozen=True)
class BatchEntry:
    """One picture of a batch.

    Attributes:
        content_image: at the finest size of the schedule, the same for all entries.
        style_image: any size; resized along with the scales.
        init_image: any size; None for the schedule's `init`.
        seed: of the noise.
        anchor: of a frame of a video, at the finest size, which must then be the only one.
    """

    weights: LossWeights
    content_image: Image
    style_image: StyleImage
    init_image: AnyImage | None = None
    seed: int = 0
    anchor: Anchor | None = None


@dataclasses.dataclass
class StyleMemory:
    """Gram matrices of paintings, for whoever paints frame after frame: of one objective and its params."""

    _known: dict[tuple[int, float], tuple[StyleImage, GramMatrices]] = dataclasses.field(default_factory=dict)

    def targets(self, image: StyleImage, factor: float, compute: Callable[[AnyImage], GramMatrices]) -> GramMatrices:
        """What `compute` makes of `image` shrunk by `factor`."""
        key = (id(image), factor)
        if key not in self._known:
            self._known[key] = image, compute(_shrunk(image, factor))  # holding the image, its id stays its own
        return self._known[key][1]


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of an entry after a chunk: place in the schedule, losses of each step, best picture so far."""

    entry: int
    scale: int
    steps_done: int
    trace: Trace
    best_image: Image


@dataclasses.dataclass(frozen=True)
class Solution:
    """The best picture at the finest scale, with its losses there.

    Attributes:
        evaluations: values with gradients computed, over all scales.
        restarts: times a step went wrong and the solver's memory was emptied.
    """

    pastiche: Image
    total_loss: float
    losses: dict[str, float]
    steps: int
    evaluations: int
    restarts: int


def coarse_to_fine(height: int, width: int, coarsest_size: int, smallest_side: int) -> tuple[tuple[int, int], ...]:
    """Sizes in steps of sqrt(2), from the least whose long side is at least `coarsest_size`, up to the full one.

    No scale has a side shorter than `smallest_side`, all in px.
    """
    sizes = [(height, width)]
    factor = 2**-0.5
    while round(max(height, width) * factor) >= coarsest_size and round(min(height, width) * factor) >= smallest_side:
        sizes.insert(0, (round(height * factor), round(width * factor)))
        factor *= 2**-0.5
    return tuple(sizes)


def bytes_per_entry(objective: Objective, method: Method, params: NetworkParams, size: tuple[int, int]) -> int:
    """About the memory that one more entry takes at this (height, width) in px: feature maps and solver state."""
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    layers = objective.network.truncated(objective.layers)
    maps = jax.eval_shape(lambda pixels: objective.network.features(params, pixels, layers), image)
    # leaves, for shapes are no arrays and would not pass the type checks of the tests
    state = jax.eval_shape(lambda pixels: jax.tree.leaves(method.start(lambda x: (jnp.sum(x), {}), pixels)), image)
    return round(_COPIES_OF_MAPS * _bytes(maps)) + _bytes(state)


def entries_that_fit(
    objective: Objective, method: Method, params: NetworkParams, size: tuple[int, int], memory_share: float
) -> int:
    """How many entries of this (height, width) in px fit into the share of all devices' free memory, at least 1."""
    return max(1, int(memory_share * free_bytes() / bytes_per_entry(objective, method, params, size)))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def initial_image(schedule: Schedule, entry: BatchEntry) -> AnyImage:
    """The picture that an entry starts from, at the coarsest size of `schedule`."""
    if entry.init_image is not None:
        return _resize(entry.init_image, schedule.sizes[0])
    return INITIAL_PICTURES[schedule.init](entry, schedule.sizes[0])


def _noise(entry: BatchEntry, size: tuple[int, int]) -> AnyImage:
    return jax.random.uniform(jax.random.key(entry.seed), (1, *size, 3), jnp.float32)


# Where the solver can start, by the setting `init`: functions of an entry and a (height, width) in px.
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
    """Paint each entry's content image in the style of its style image, all in one batch.

    Images that are the same object in several entries are held, and their features computed, once. An entry that
    has stopped waits, unchanged, until all have finished a scale.

    Args:
        on_chunk: called between chunks of steps, with the progress of each entry that moved.
        memory: of calls before, with the same objective and params.

    Returns:
        For each entry its solution, or the InputError that the loss of its initial picture is not finite.
    """
    tallies, idle = [_Tally() for _ in entries], spare_entries(len(entries))
    entries = [*entries, *[entries[0]] * idle]
    pastiches = [initial_image(schedule, entry) for entry in entries]
    memory = memory or StyleMemory()
    for scale, size in enumerate(schedule.sizes):
        problems = Problems.of(_problems(objective, params, entries, size, memory))
        state = begin(objective, method, problems, jnp.stack([_resize(pastiche, size) for pastiche in pastiches]))
        for tally, total in zip(tallies, np.asarray(state.best_total), strict=False):
            tally.begin_scale(float(total), schedule.steps_at(scale))
        while any(tally.continues(schedule.stop) for tally in tallies):
            steps = np.array([tally.next_steps(schedule.stop) for tally in tallies] + [0] * idle, np.int32)
            state, traces = advance(objective.repeated, method, problems, state, jnp.asarray(steps))
            for index, trace in _moved(traces, steps):
                shifted = tallies[index].add(trace)
                on_chunk(Progress(index, scale, tallies[index].steps, shifted, state.best_image[index]))
        pastiches = list(state.best_image)
        for index, tally in enumerate(tallies):
            tally.end_scale(int(state.evaluations[index]), int(state.restarts[index]))
    return [_outcome(index, tally, state) for index, tally in enumerate(tallies)]


@dataclasses.dataclass
class _Tally:
    """What an entry has spent, over all scales; `best_totals` and `left` are those of the current scale.

    Attributes:
        refused: the first loss of a scale that was not finite: nothing is done from there.
    """

    steps: int = 0
    evaluations: int = 0
    restarts: int = 0
    best_totals: list[float] = dataclasses.field(default_factory=list)
    left: int = 0
    refused: float | None = None

    def begin_scale(self, total: float, steps: int) -> None:
        """`steps` may be done at the scale, from an initial picture of this loss."""
        self.best_totals = [total]
        self.left = steps
        if self.refused is None and not math.isfinite(total):
            self.refused = total

    def continues(self, stop: Stop) -> bool:
        """Whether there is more to do at this scale."""
        return self.left > 0 and self.refused is None and not stop.reached(self.best_totals)

    def next_steps(self, stop: Stop) -> int:
        """Steps of the next chunk."""
        return min(CHUNK, self.left) if self.continues(stop) else 0

    def add(self, trace: Trace) -> Trace:
        """Count what a chunk did; its trace again, with the evaluations of all scales."""
        count = len(trace.totals)
        self.steps += count
        self.left -= count
        self.best_totals += [float(best) for best in np.fmin.accumulate([self.best_totals[-1], *trace.totals])[1:]]
        return dataclasses.replace(trace, evaluations=trace.evaluations + self.evaluations)

    def end_scale(self, evaluations: int, restarts: int) -> None:
        self.evaluations += evaluations
        self.restarts += restarts


def _moved(traces: Trace, steps: npt.NDArray[np.int32]) -> Iterator[tuple[int, Trace]]:
    """Index and trace, on the host and cut to the steps done, of each entry that did some."""
    rows = jax.device_get(traces)
    for index in np.flatnonzero(steps):
        yield int(index), jax.tree.map(lambda row, index=index: row[index, : steps[index]], rows)


def _outcome(index: int, tally: _Tally, state: SolverState) -> Outcome[Solution]:
    if tally.refused is not None:
        error = InputError(f"the loss of the initial picture is {tally.refused}: weights are too large for float32")
        return Outcome(error=error)
    total = float(state.best_total[index])
    losses = {name: float(loss[index]) for name, loss in state.best_losses.items()}
    best = state.best_image[index]
    return Outcome(Solution(best, total, losses, tally.steps, tally.evaluations, tally.restarts))


def _problems(
    objective: Objective,
    params: NetworkParams,
    entries: Sequence[BatchEntry],
    size: tuple[int, int],
    memory: StyleMemory,
) -> list[Problem]:
    """Each entry's problem at a scale; targets that several entries need are computed once, as the same object."""
    factor = size[0] / entries[0].content_image.shape[1]
    contents = {id(entry.content_image): entry.content_image for entry in entries}
    maps = {key: _content_targets(objective, params, _resize(image, size)) for key, image in contents.items()}
    grams = [memory.targets(entry.style_image, factor, partial(_style_targets, objective, params)) for entry in entries]
    return [
        Problem(params, Targets(maps[id(entry.content_image)], gram), entry.weights, entry.anchor)
        for entry, gram in zip(entries, grams, strict=True)
    ]


@partial(jax.jit, static_argnames="objective")
def _content_targets(objective: Objective, params: NetworkParams, image: AnyImage) -> FeatureMaps:
    return objective.content_targets(params, image)


@partial(jax.jit, static_argnames="objective")
def _style_targets(objective: Objective, params: NetworkParams, image: AnyImage) -> GramMatrices:
    return objective.style_targets(params, image)


def _shrunk(image: StyleImage, factor: float) -> AnyImage:
    _, height, width, _ = image.shape
    return _resize(image, (round(height * factor), round(width * factor)))


def _resize(image: AnyImage, size: tuple[int, int]) -> AnyImage:
    if image.shape[1:3] == size:
        return jnp.asarray(image)
    return jax.image.resize(image, (1, *size, 3), "cubic", antialias=True)
