"""One picture, coarse to fine: arrays in, arrays out.

Coarse to fine: the painting's large strokes are laid at a small size, where a layer's receptive field spans
more of the picture, and each finer scale starts from the coarser one's result, resized. The idea is Gatys et
al. (2017), Controlling Perceptual Factors in Neural Style Transfer, section 6; the factor sqrt(2) between
scales is common practice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from nst_exp.errors import InputError
from nst_exp.objective import LossWeights, Objective, Problem, Targets
from nst_exp.solver import CHUNK, Method, SolverState, Trace, advance, begin
from nst_exp.types import AnyImage, Image, NetworkParams, StyleImage


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
        init: `content`, `noise` (uniform in [0, 1]) or `style` (the painting stretched over the picture).
        seed: of the noise.
    """

    sizes: tuple[tuple[int, int], ...]
    steps: int
    init: str
    seed: int
    stop: Stop = Stop()

    def steps_at(self, scale: int) -> int:
        """Steps of the scale with this index."""
        share, rest = divmod(self.steps, len(self.sizes))
        return share + (rest if scale == len(self.sizes) - 1 else 0)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a chunk brought: the place in the schedule, its losses step by step, and the best picture so far."""

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


def initial_image(schedule: Schedule, content_image: Image, style_image: StyleImage) -> AnyImage:
    """What a solve sets out from, at the coarsest size of `schedule`."""
    size = schedule.sizes[0]
    if schedule.init == "noise":
        return jax.random.uniform(jax.random.key(schedule.seed), (1, *size, 3), jnp.float32)
    return _resize(content_image if schedule.init == "content" else style_image, size)


def stylize(
    objective: Objective,
    method: Method,
    params: NetworkParams,
    weights: LossWeights,
    content_image: Image,
    style_image: StyleImage,
    schedule: Schedule,
    on_chunk: Callable[[Progress], None] = lambda progress: None,
) -> Solution:
    """Paint `content_image` in the style of `style_image`.

    Args:
        content_image: at the finest size of `schedule`.
        style_image: any size; resized along with the scales.
        on_chunk: called between chunks of steps, with what the chunk brought.

    Raises:
        InputError: if the loss of the initial picture is not finite.
    """
    pastiche = initial_image(schedule, content_image, style_image)
    steps = evaluations = restarts = 0
    for scale, size in enumerate(schedule.sizes):
        content, style = _at_scale(content_image, style_image, size)
        problem = Problem(params, _targets(objective, params, content, style), weights)
        state = _begin(objective, method, problem, _resize(pastiche, size))
        for after, trace in _chunks(objective, method, problem, state, schedule, scale):
            state = after
            steps += len(trace.totals)
            shifted = dataclasses.replace(trace, evaluations=trace.evaluations + evaluations)
            on_chunk(Progress(scale, steps, shifted, state.best_image))
        pastiche = state.best_image
        evaluations += int(state.evaluations)
        restarts += int(state.restarts)
    losses = {name: float(loss) for name, loss in state.best_losses.items()}
    return Solution(pastiche, float(state.best_total), losses, steps, evaluations, restarts)


def _chunks(
    objective: Objective, method: Method, problem: Problem, state: SolverState, schedule: Schedule, scale: int
) -> Iterator[tuple[SolverState, Trace]]:
    """The chunks of one scale: the state after each, and its trace on the host, cut to the steps done."""
    left = schedule.steps_at(scale)
    best_totals = [float(state.best_total)]
    while left > 0 and not schedule.stop.reached(best_totals):
        steps = min(CHUNK, left)
        state, trace = advance(objective, method, problem, state, jnp.int32(steps))
        trace = jax.tree.map(lambda row, steps=steps: np.asarray(row)[:steps], trace)
        best_totals += [float(best) for best in np.fmin.accumulate([best_totals[-1], *trace.totals])[1:]]
        left -= steps
        yield state, trace


def _begin(objective: Objective, method: Method, problem: Problem, image: Image) -> SolverState:
    state = begin(objective, method, problem, image)
    if not jnp.isfinite(state.best_total):
        raise InputError(f"the loss of the initial picture is {state.best_total}: weights are too large for float32")
    return state


@partial(jax.jit, static_argnames="objective")
def _targets(objective: Objective, params: NetworkParams, content_image: Image, style_image: StyleImage) -> Targets:
    return objective.targets(params, content_image, style_image)


def _at_scale(content_image: Image, style_image: StyleImage, size: tuple[int, int]) -> tuple[AnyImage, AnyImage]:
    """Both images shrunk by the factor that brings the content image to `size`."""
    factor = size[0] / content_image.shape[1]
    _, height, width, _ = style_image.shape
    return _resize(content_image, size), _resize(style_image, (round(height * factor), round(width * factor)))


def _resize(image: AnyImage, size: tuple[int, int]) -> AnyImage:
    if image.shape[1:3] == size:
        return jnp.asarray(image)
    return jax.image.resize(image, (1, *size, 3), "cubic", antialias=True)
