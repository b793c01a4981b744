"""Minimising a picture's loss on the device, in chunks of steps.

One interface for three methods. A chunk is one compiled call: it runs a number of steps, keeps the best
iterate, restarts the method's memory when a step went wrong, and brings back the losses of every step.
The number of steps in a chunk is traced, so that a last, shorter chunk compiles nothing anew.

L-BFGS takes unit steps without a line search, as style transfer programs have always done: at equal
evaluations it is ahead of every line search tried here (conf/solver/lbfgs.yaml has the figures).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import jaxopt
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from nst_exp.objective import Losses, Objective, Problem
from nst_exp.types import Count, Image, Scalar

CHUNK = 10  # steps between two looks of the host: a few seconds on a CPU, still 10 launches saved on a GPU

LossFunction = Callable[[Image], tuple[Scalar, Losses]]


class Iterate(NamedTuple):
    """Where a method stands: the picture, its loss and gradient, and what the method remembers."""

    image: Image
    total: Scalar
    losses: Losses
    gradient: Image
    spent: Count  # evaluations the last step took
    memory: Any


class Method(Protocol):
    """A way to descend; frozen and hashable, a static argument of the compiled chunk."""

    def start(self, function: LossFunction, image: Image) -> Iterate:
        """Evaluate `image` and begin with an empty memory."""

    def step(self, function: LossFunction, at: Iterate) -> Iterate:
        """One step."""

    def forget(self, at: Iterate, shrink: Scalar) -> Iterate:
        """The same iterate with an empty memory, its next step `shrink` times a first step; no evaluation."""


@dataclasses.dataclass(frozen=True)
class Lbfgs:
    """jaxopt's L-BFGS.

    Attributes:
        history_size: pairs of steps and gradient changes remembered.
        linesearch: `none` (unit steps) or one of jaxopt's.
        first_step: length of the first step after a (re)start, root mean square over pixels in [0, 1].
    """

    history_size: int
    linesearch: str
    first_step: float

    def start(self, function: LossFunction, image: Image) -> Iterate:
        memory = self._solver(function).init_state(image)
        memory = memory._replace(gamma=self._first_gamma(memory.grad))
        return self._iterate(image, memory, memory.num_grad_eval)

    def step(self, function: LossFunction, at: Iterate) -> Iterate:
        image, memory = self._solver(function).update(at.image, at.memory)
        return self._iterate(image, memory, memory.num_grad_eval - at.memory.num_grad_eval)

    def forget(self, at: Iterate, shrink: Scalar) -> Iterate:
        emptied = {
            name: jnp.zeros_like(getattr(at.memory, name))
            for name in ("iter_num", "s_history", "y_history", "rho_history")
        }
        gamma = shrink * self._first_gamma(at.gradient)
        return at._replace(memory=at.memory._replace(gamma=gamma, **emptied))

    def _solver(self, function: LossFunction) -> jaxopt.LBFGS:
        rule: dict[str, Any] = {"stepsize": 1.0} if self.linesearch == "none" else {"linesearch": self.linesearch}
        # with jaxopt's own max_stepsize=1 its zoom search stalls on Gram losses
        return jaxopt.LBFGS(function, has_aux=True, history_size=self.history_size, max_stepsize=1e4, **rule)

    def _first_gamma(self, gradient: Image) -> Scalar:
        """The initial inverse Hessian, as a multiple of the identity, that makes a step `first_step` long."""
        root_mean_square = jnp.sqrt(jnp.mean(jnp.square(gradient)))
        return self.first_step / jnp.maximum(root_mean_square, jnp.finfo(jnp.float32).tiny)

    def _iterate(self, image: Image, memory: Any, spent: Count) -> Iterate:
        return Iterate(image, memory.value, memory.aux, memory.grad, spent, memory)


@dataclasses.dataclass(frozen=True)
class Optax(abc.ABC):
    """A method made of an optax transformation; subclasses say which."""

    def start(self, function: LossFunction, image: Image) -> Iterate:
        return self._evaluated(function, image, self._transformation().init(image), searched=0)

    def step(self, function: LossFunction, at: Iterate) -> Iterate:
        step, memory = self._transformation().update(
            at.gradient, at.memory, at.image, value=at.total, grad=at.gradient, value_fn=lambda x: function(x)[0]
        )
        searched = optax.tree.get(memory, "num_linesearch_steps", jnp.int32(0))
        return self._evaluated(function, optax.apply_updates(at.image, step), memory, searched=searched)

    def forget(self, at: Iterate, shrink: Scalar) -> Iterate:
        del shrink  # optax's methods bound their own first step
        return at._replace(memory=self._transformation().init(at.image))

    @abc.abstractmethod
    def _transformation(self) -> optax.GradientTransformationExtraArgs: ...

    def _evaluated(self, function: LossFunction, image: Image, memory: Any, *, searched: Any) -> Iterate:
        (total, losses), gradient = jax.value_and_grad(function, has_aux=True)(image)
        return Iterate(image, total, losses, gradient, jnp.int32(1 + searched), memory)


@dataclasses.dataclass(frozen=True)
class Adam(Optax):
    """optax's Adam (Kingma & Ba 2015); `learning_rate` in pixel range [0, 1] a step."""

    learning_rate: float

    def _transformation(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optax.adam(self.learning_rate))


@dataclasses.dataclass(frozen=True)
class OptaxLbfgs(Optax):
    """optax's L-BFGS; `linesearch` is `none` (unit steps) or `zoom`."""

    history_size: int
    linesearch: str

    def _transformation(self) -> optax.GradientTransformationExtraArgs:
        if self.linesearch == "zoom":
            return optax.lbfgs(memory_size=self.history_size)
        return optax.with_extra_args_support(optax.lbfgs(1.0, memory_size=self.history_size, linesearch=None))


@struct.dataclass
class SolverState:
    """A solve between two chunks; everything a chunk needs to go on."""

    at: Iterate
    best_image: Image
    best_total: Scalar
    best_losses: Losses
    evaluations: Count
    restarts: Count


@struct.dataclass
class Trace:
    """What each step of a chunk came to: loss of the iterate it tried, evaluations so far."""

    totals: Float[Array, "steps"]
    losses: dict[str, Float[Array, "steps"]]
    evaluations: Int[Array, "steps"]


@partial(jax.jit, static_argnames=("objective", "method"))
def begin(objective: Objective, method: Method, problem: Problem, image: Image) -> SolverState:
    """Evaluate `image` and set out from it."""
    at = method.start(partial(objective.losses, problem), image)
    return SolverState(at, image, at.total, at.losses, at.spent, jnp.zeros_like(at.spent))


@partial(jax.jit, static_argnames=("objective", "method"), donate_argnames="state")
def advance(
    objective: Objective, method: Method, problem: Problem, state: SolverState, steps: Count
) -> tuple[SolverState, Trace]:
    """Run `steps` steps (at most `CHUNK`) on the device.

    Returns:
        The state after them, and their trace, `CHUNK` long: entries from `steps` on are zeros.
    """
    function = partial(objective.losses, problem)
    blank = jax.tree.map(
        lambda leaf: jnp.zeros(CHUNK, leaf.dtype), Trace(state.best_total, state.best_losses, state.evaluations)
    )

    def body(index: Count, carry: tuple[SolverState, Trace]) -> tuple[SolverState, Trace]:
        state, trace = carry
        tried = method.step(function, state.at)
        state = _judge(method, state, tried)
        entry = Trace(tried.total, tried.losses, state.evaluations)
        return state, jax.tree.map(lambda row, value: row.at[index].set(value), trace, entry)

    return jax.lax.fori_loop(0, steps, body, (state, blank))


def _judge(method: Method, state: SolverState, tried: Iterate) -> SolverState:
    """Go on from `tried`, or, if that step went wrong, from where it started with an empty memory."""
    wrong = _went_wrong(state.at, tried)
    restarts = state.restarts + wrong.astype(state.restarts.dtype)
    shrink = 0.5 ** jnp.minimum(restarts, 10)
    at = jax.lax.cond(wrong, lambda: method.forget(state.at, shrink)._replace(spent=tried.spent), lambda: tried)
    image, total, losses = jax.lax.cond(
        at.total < state.best_total,
        lambda: (at.image, at.total, at.losses),
        lambda: (state.best_image, state.best_total, state.best_losses),
    )
    return SolverState(at, image, total, losses, state.evaluations + tried.spent, restarts)


def _went_wrong(before: Iterate, after: Iterate) -> Bool[Array, ""]:
    """Not finite, thrown far back, or collapsed: the picture no longer moves though there is a gradient."""
    finite = jnp.isfinite(after.total) & jnp.all(jnp.isfinite(after.gradient))
    thrown_back = after.total > 2.0 * before.total
    stuck = jnp.all(after.image == before.image) & jnp.any(before.gradient != 0)
    return ~finite | thrown_back | stuck
