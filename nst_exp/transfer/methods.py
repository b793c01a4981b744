"""The methods of the solver: how one step leads from a picture to a better one.

A method is a frozen dataclass whose fields are its options. conf/solver/NAME.yaml gives the options of `METHODS[NAME]`;
an option that is null there must not be a field of the method.

L-BFGS takes unit steps without a line search, as style transfer programs have always done: at equal
evaluations it is ahead of every line search tried here (conf/solver/lbfgs.yaml has the figures).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import jaxopt
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from nst_exp.errors import InputError
from nst_exp.suggestions import did_you_mean
from nst_exp.types import Count, Image, Losses, Scalar

LossFunction = Callable[[Image], tuple[Scalar, Losses]]


@struct.dataclass
class Iterate:
    """Where a method stands: the picture, its loss and gradient, and what the method remembers; as `SolverState`."""

    image: Float[Array, "*batch 1 height width 3"]
    total: Float[Array, "*batch"]
    losses: dict[str, Float[Array, "*batch"]]
    gradient: Float[Array, "*batch 1 height width 3"]
    spent: Int[Array, "*batch"]  # evaluations the last step took
    memory: Any


@runtime_checkable
class Method(Protocol):
    """A way to descend; frozen and hashable, a static argument of the compiled chunk."""

    def start(self, function: LossFunction, image: Image) -> Iterate:
        """Evaluate `image` and begin with an empty memory."""

    def step(self, function: LossFunction, at: Iterate) -> Iterate:
        """One step."""

    def restart(self, at: Iterate, shrink: Scalar) -> Iterate:
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

    def restart(self, at: Iterate, shrink: Scalar) -> Iterate:
        emptied = {
            name: jnp.zeros_like(getattr(at.memory, name))
            for name in ("iter_num", "s_history", "y_history", "rho_history")
        }
        gamma = shrink * self._first_gamma(at.gradient)
        return dataclasses.replace(at, memory=at.memory._replace(gamma=gamma, **emptied))

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


@struct.dataclass
class _Damped:
    """An optax state, and what its next step is multiplied by: below 1 after a restart, soon 1 again."""

    state: Any
    factor: Float[Array, "*batch"]


@dataclasses.dataclass(frozen=True)
class Optax(abc.ABC):
    """A method made of an optax transformation; subclasses say which."""

    def start(self, function: LossFunction, image: Image) -> Iterate:
        memory = _Damped(self._transformation().init(image), jnp.float32(1))
        return self._evaluated(function, image, memory, searched=jnp.int32(0))

    def step(self, function: LossFunction, at: Iterate) -> Iterate:
        state, factor = at.memory.state, at.memory.factor
        step, state = self._transformation().update(
            at.gradient, state, at.image, value=at.total, grad=at.gradient, value_fn=lambda x: function(x)[0]
        )
        searched = optax.tree.get(state, "num_linesearch_steps", jnp.int32(0))
        memory = _Damped(state, jnp.minimum(2 * factor, 1))
        return self._evaluated(function, at.image + factor * step, memory, searched=searched)

    def restart(self, at: Iterate, shrink: Scalar) -> Iterate:
        memory = _Damped(self._transformation().init(at.image), jnp.float32(shrink))
        return dataclasses.replace(at, memory=memory)

    @abc.abstractmethod
    def _transformation(self) -> optax.GradientTransformationExtraArgs: ...

    def _evaluated(self, function: LossFunction, image: Image, memory: _Damped, *, searched: Count) -> Iterate:
        (total, losses), gradient = jax.value_and_grad(function, has_aux=True)(image)
        return Iterate(image, total, losses, gradient, 1 + searched, memory)


@dataclasses.dataclass(frozen=True)
class Adam(Optax):
    """optax's Adam (Kingma & Ba 2015); `learning_rate` in pixel range [0, 1] a step."""

    learning_rate: float

    def _transformation(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optax.adam(self.learning_rate))


_OPTAX_LINESEARCHES = ("none", "zoom")


@dataclasses.dataclass(frozen=True)
class OptaxLbfgs(Optax):
    """optax's L-BFGS; `linesearch` is `none` (unit steps) or `zoom`."""

    history_size: int
    linesearch: str

    def __post_init__(self) -> None:
        if self.linesearch not in _OPTAX_LINESEARCHES:
            choices = f"choose one of {', '.join(_OPTAX_LINESEARCHES)} with solver=optax_lbfgs"
            hint = did_you_mean(self.linesearch, _OPTAX_LINESEARCHES)
            raise InputError(f"solver.linesearch={self.linesearch}: {choices}{hint}")

    def _transformation(self) -> optax.GradientTransformationExtraArgs:
        if self.linesearch == "zoom":
            return optax.lbfgs(memory_size=self.history_size)
        return optax.with_extra_args_support(optax.lbfgs(1.0, memory_size=self.history_size, linesearch=None))


METHODS: dict[str, Callable[..., Method]] = {
    "lbfgs": Lbfgs,
    "optax_lbfgs": OptaxLbfgs,
    "adam": Adam,
}
