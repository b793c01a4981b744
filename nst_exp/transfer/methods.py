"""The optimisation methods of the solver.

A method is a frozen dataclass whose fields are its options. conf/solver/NAME.yaml gives the options of `METHODS[NAME]`;
an option that is null there must not be a field of the method.

By default, L-BFGS takes unit steps without a line search, as is common in style transfer. With equal numbers of
evaluations it reached lower losses than with any line search that was tried; conf/solver/lbfgs.yaml has the figures.
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
    """The state of a method after a step.

    Within a chunk, arrays have no axis `batch`; see `SolverState`.

    Attributes:
        image: the current picture.
        total: the total loss of `image`.
        losses: the terms of the loss, by name, before their weights.
        gradient: the gradient of `total`.
        spent: the number of evaluations that the last step took.
        memory: whatever else the method needs for its next step.
    """

    image: Float[Array, "*batch 1 height width 3"]
    total: Float[Array, "*batch"]
    losses: dict[str, Float[Array, "*batch"]]
    gradient: Float[Array, "*batch 1 height width 3"]
    spent: Int[Array, "*batch"]
    memory: Any


@runtime_checkable
class Method(Protocol):
    """The interface of optimisation methods.

    A method must be frozen and hashable, because it is a static argument of the compiled chunk. Its operations must
    be traceable by JAX.
    """

    def start(self, function: LossFunction, image: Image) -> Iterate:
        """Evaluate `image` and return an iterate with an empty memory.

        Args:
            function: returns the total loss of a picture and its terms.
            image: the initial picture.
        """

    def step(self, function: LossFunction, at: Iterate) -> Iterate:
        """Take one step from `at` and evaluate the new picture.

        Args:
            function: as for `start`.
            at: the iterate that `start`, `step` or `restart` returned.
        """

    def restart(self, at: Iterate, shrink: Scalar) -> Iterate:
        """Return the same iterate with an empty memory, without an evaluation.

        Args:
            at: the iterate to continue from.
            shrink: the length of the next step as a multiple of the usual first step, from 0 to 1.
        """


@dataclasses.dataclass(frozen=True)
class Lbfgs:
    """jaxopt's L-BFGS (limited-memory Broyden-Fletcher-Goldfarb-Shanno).

    Attributes:
        history_size: the number of pairs of steps and gradient changes that are remembered.
        linesearch: `none` for unit steps, or the name of one of jaxopt's line searches.
        first_step: the length of the first step after a start or restart, as the root mean square over pixels in
            [0, 1].
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
        # with jaxopt's default, max_stepsize=1, the zoom line search stalls on losses of Gram matrices
        return jaxopt.LBFGS(function, has_aux=True, history_size=self.history_size, max_stepsize=1e4, **rule)

    def _first_gamma(self, gradient: Image) -> Scalar:
        """Return the multiple of the identity that, as the inverse Hessian, makes a step `first_step` long."""
        root_mean_square = jnp.sqrt(jnp.mean(jnp.square(gradient)))
        return self.first_step / jnp.maximum(root_mean_square, jnp.finfo(jnp.float32).tiny)

    def _iterate(self, image: Image, memory: Any, spent: Count) -> Iterate:
        return Iterate(image, memory.value, memory.aux, memory.grad, spent, memory)


@struct.dataclass
class _Damped:
    """An optax state and the factor of its next step, which is below 1 after a restart and doubles back to 1."""

    state: Any
    factor: Float[Array, "*batch"]


@dataclasses.dataclass(frozen=True)
class Optax(abc.ABC):
    """The base class of methods that apply a gradient transformation of optax; subclasses provide it."""

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
    """optax's Adam.

    Attributes:
        learning_rate: the step size, for pixels in [0, 1].

    References:
        Kingma, Ba (2015), Adam: A Method for Stochastic Optimization.
    """

    learning_rate: float

    def _transformation(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optax.adam(self.learning_rate))


_OPTAX_LINESEARCHES = ("none", "zoom")


@dataclasses.dataclass(frozen=True)
class OptaxLbfgs(Optax):
    """optax's L-BFGS.

    Attributes:
        history_size: the number of pairs of steps and gradient changes that are remembered.
        linesearch: `none` for unit steps, or `zoom`.

    Raises:
        InputError: if `linesearch` is neither of these.
    """

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
