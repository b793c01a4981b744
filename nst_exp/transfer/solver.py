"""The solver, which minimises the losses of a batch of pictures on the device, in chunks of steps.

A chunk is one compiled call. It runs a number of steps for every entry of the batch, keeps each entry's best iterate
and the average of its iterates, restarts an entry's method when a step went wrong, and returns the losses of every
step. The number of steps of each entry is traced, so a shorter chunk at the end does not compile again, and an entry
with 0 steps stays as it is while the others continue. A single picture is a batch of one entry.

In batches of several entries, a line search costs more evaluations than are counted, because all entries compute each
evaluation that any of them needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from nst_exp.transfer.methods import Iterate, LossFunction, Method
from nst_exp.types import Count, Image, Images, Losses, Scalar

CHUNK = 10  # most steps of one chunk, which take a few seconds on a CPU and cost few kernel launches on a GPU
# A step has gone wrong if it multiplies the loss by more than this. Smaller rises are normal: with unit steps, the loss
# rises now and then and falls again.
THROWN_BACK = 10.0

Row = Float[Array, "*batch steps"] | Float[np.ndarray, "*batch steps"]


@runtime_checkable
class Loss(Protocol):
    """The interface of functions to minimise, such as `nst_exp.transfer.objective.Objective`.

    A loss is static and hashable. Its arrays are in a `problem`, which can be any pytree.
    """

    def losses(self, problem: Any, image: Image) -> tuple[Scalar, Losses]:
        """Compute the total loss of `image` and its terms by name."""


@struct.dataclass
class Average:
    """The exponential moving average of the pictures that a method went through, including the initial one.

    Its bias is corrected, as in Adam (Kingma & Ba 2015, section 3): among n pictures, the one that is k pictures back
    has the weight (1 - decay) decay^k / (1 - decay^n), which is decay^k over the sum of these powers.

    Attributes:
        decay: the factor between the weights of a picture and of the next one, from 0 to below 1; 0 if no average is
            wanted.
        powers: the sum of decay^k over all pictures.
        image: the average.
    """

    decay: Float[Array, "*batch"]
    powers: Float[Array, "*batch"]
    image: Float[Array, "*batch 1 height width 3"]

    @classmethod
    def of(cls, image: Image, decay: Scalar) -> Average:
        """Return the average of a single picture."""
        return cls(decay, jnp.ones_like(decay), image)

    def including(self, image: Image) -> Average:
        """Return the average after another picture."""
        powers = 1 + self.decay * self.powers
        return Average(self.decay, powers, self.image + (image - self.image) / powers)


@struct.dataclass
class SolverState:
    """The state of a solve between two chunks.

    Between chunks, all arrays have a leading axis `batch`. Within a chunk, the state of one entry has none.

    Attributes:
        at: the current iterate.
        best_image: the picture with the lowest total loss so far.
        best_total: the total loss of `best_image`.
        best_losses: the terms of the loss of `best_image`, by name, before their weights.
        average: the average of the iterates, without those of steps that went wrong.
        evaluations: how often loss and gradient have been computed.
        restarts: how often a step went wrong and the memory of the method was emptied.
    """

    at: Iterate
    best_image: Float[Array, "*batch 1 height width 3"]
    best_total: Float[Array, "*batch"]
    best_losses: dict[str, Float[Array, "*batch"]]
    average: Average
    evaluations: Int[Array, "*batch"]
    restarts: Int[Array, "*batch"]


@struct.dataclass
class Trace:
    """The history of a chunk, with one value for each step.

    Attributes:
        totals: the total loss of the iterate that the step tried, even if that was rejected.
        losses: the terms of its loss, by name, before their weights.
        evaluations: how often loss and gradient had been computed after the step, since the state began.
    """

    totals: Row
    losses: dict[str, Row]
    evaluations: Int[Array, "*batch steps"] | Int[np.ndarray, "*batch steps"]


@struct.dataclass
class Problems:
    """The problems of all entries of a batch, with arrays that all entries have in common stored once.

    Attributes:
        stacked: the leaves that differ between entries, stacked along a new leading axis.
        shared: the leaves that are the same object in all entries.
        differs: for each leaf of a problem, whether it is among `stacked`.
        structure: the tree structure of a problem.
    """

    stacked: list[Array]
    shared: list[Array]
    differs: tuple[bool, ...] = struct.field(pytree_node=False)
    structure: Any = struct.field(pytree_node=False)

    @classmethod
    def of(cls, problems: Sequence[Any]) -> Problems:
        """Combine the problems of the entries.

        Args:
            problems: at least one; all of the same tree structure, with leaves of the same shapes.
        """
        structure = jax.tree.structure(problems[0])
        leaves = list(zip(*(jax.tree.leaves(problem) for problem in problems), strict=True))
        differs = tuple(any(leaf is not row[0] for leaf in row) for row in leaves)
        stacked = [jnp.stack(row) for row, own in zip(leaves, differs, strict=True) if own]
        shared = [row[0] for row, own in zip(leaves, differs, strict=True) if not own]
        return cls(stacked, shared, differs, structure)

    def entry(self, stacked: Sequence[Array], shared: Sequence[Array]) -> Any:
        """Return the problem of one entry.

        Args:
            stacked: the entry's slices of `Problems.stacked`.
            shared: `Problems.shared`.
        """
        own, common = iter(stacked), iter(shared)
        return jax.tree.unflatten(self.structure, [next(own if differs else common) for differs in self.differs])


@partial(jax.jit, static_argnames=("loss", "method"))
def begin(
    loss: Loss, method: Method, problems: Problems, images: Images, averaging: Float[Array, "batch"]
) -> SolverState:
    """Evaluate the initial picture of each entry and return the state to start from.

    Args:
        loss: the function to minimise.
        method: the optimisation method.
        problems: the problem of each entry.
        images: the initial picture of each entry, with pixels in [0, 1].
        averaging: the decay of the average of each entry, as `Average.decay`.
    """

    def entry(problem: Any, image: Image, decay: Scalar) -> SolverState:
        at = method.start(partial(loss.losses, problem), image)
        average = Average.of(image, decay)
        return SolverState(at, image, at.total, at.losses, average, at.spent, jnp.zeros_like(at.spent))

    return _for_each(entry, problems, images, averaging)


@partial(jax.jit, static_argnames=("loss", "method"), donate_argnames="state")
def advance(
    loss: Loss, method: Method, problems: Problems, state: SolverState, steps: Int[Array, "batch"]
) -> tuple[SolverState, Trace]:
    """Run one chunk of steps on the device.

    The buffers of `state` are donated, so it must not be used after the call.

    Args:
        loss: the function to minimise.
        method: the optimisation method.
        problems: the problem of each entry.
        state: what `begin` or `advance` returned.
        steps: the number of steps of each entry, from 0 to `CHUNK`; 0 leaves an entry as it is.

    Returns:
        The state after the chunk, and its trace, which has a row of `CHUNK` values for each entry. The values of steps
        that were not done are 0.
    """

    def entry(problem: Any, state: SolverState, steps: Count) -> tuple[SolverState, Trace]:
        return _advance(partial(loss.losses, problem), method, state, steps)

    return _for_each(entry, problems, state, steps)


@partial(jax.jit, static_argnames="loss", donate_argnames="state")
def conclude(loss: Loss, problems: Problems, state: SolverState) -> SolverState:
    """Put the average of each entry that wants one in the place of its best iterate, and evaluate it.

    The buffers of `state` are donated, so it must not be used after the call.

    Args:
        loss: the function to minimise.
        problems: the problem of each entry.
        state: what `begin` or `advance` returned.
    """

    def entry(problem: Any, state: SolverState) -> SolverState:
        return jax.lax.cond(state.average.decay > 0, partial(_averaged, loss, problem), lambda state: state, state)

    return _for_each(entry, problems, state)


def spare_entries(entries: int) -> int:
    """Return how many idle entries to add to a batch so that it divides evenly among the devices of this process.

    A single entry needs none, because it runs on one device.
    """
    return -entries % jax.local_device_count() if entries > 1 else 0


def _for_each(one: Callable[..., Any], problems: Problems, *rows: Any) -> Any:
    """Call `one` for every entry, with its problem and its slices of `rows`.

    The entries are spread over all devices if their number is a multiple of the number of devices. Within a chunk, no
    device waits for another one.
    """

    def on_a_device(stacked: Any, shared: list[Array], *rows: Any) -> Any:
        def of_one(stacked: list[Array], *row: Any) -> Any:
            return one(problems.entry(stacked, shared), *row)

        return _mapped(of_one, stacked, *rows)

    entries, devices = len(jax.tree.leaves(rows)[0]), jax.local_device_count()
    if devices > 1 and entries > 1 and entries % devices == 0:
        mesh, split = Mesh(np.array(jax.local_devices()), ("batch",)), PartitionSpec("batch")
        specs = (split, PartitionSpec(), *(split for _ in rows))
        on_a_device = jax.shard_map(on_a_device, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    return on_a_device(problems.stacked, problems.shared, *rows)


def _mapped(one: Callable[..., Any], *rows: Any) -> Any:
    """Call `one` for every entry, without `vmap` for a single entry: `vmap` computes both branches of conditions."""
    if len(jax.tree.leaves(rows)[0]) > 1:
        return jax.vmap(one)(*rows)
    alone = jax.tree.map(lambda leaf: leaf[0], rows)
    return jax.tree.map(lambda leaf: leaf[None], one(*alone))


def _advance(function: LossFunction, method: Method, state: SolverState, steps: Count) -> tuple[SolverState, Trace]:
    """Run the chunk of one entry."""
    first = (state.best_total, state.best_losses, state.evaluations)
    blank = jax.tree.map(lambda leaf: jnp.zeros(CHUNK, leaf.dtype), first)

    def body(index: Count, carry: tuple[SolverState, Any]) -> tuple[SolverState, Any]:
        state, rows = carry
        tried = method.step(function, state.at)
        state = _accepted(method, state, tried)
        entry = (tried.total, tried.losses, state.evaluations)
        return state, jax.tree.map(lambda row, value: row.at[index].set(value), rows, entry)

    state, rows = jax.lax.fori_loop(0, steps, body, (state, blank))
    return state, Trace(*rows)


def _accepted(method: Method, state: SolverState, tried: Iterate) -> SolverState:
    """Continue from `tried` or, if that step went wrong, from the iterate before it with an empty memory."""
    wrong = _went_wrong(state.at, tried)
    restarts = state.restarts + wrong.astype(state.restarts.dtype)
    shrink = 0.5 ** jnp.minimum(restarts, 10)
    at, average = jax.lax.cond(
        wrong,
        lambda: (dataclasses.replace(method.restart(state.at, shrink), spent=tried.spent), state.average),
        lambda: (tried, state.average.including(tried.image)),
    )
    image, total, losses = jax.lax.cond(
        at.total < state.best_total,
        lambda: (at.image, at.total, at.losses),
        lambda: (state.best_image, state.best_total, state.best_losses),
    )
    return SolverState(at, image, total, losses, average, state.evaluations + tried.spent, restarts)


def _averaged(loss: Loss, problem: Any, state: SolverState) -> SolverState:
    """Return the state of an entry with its average in the place of its best iterate."""
    image = state.average.image
    total, losses = loss.losses(problem, image)
    evaluations = state.evaluations + 1
    return dataclasses.replace(state, best_image=image, best_total=total, best_losses=losses, evaluations=evaluations)


def _went_wrong(before: Iterate, after: Iterate) -> Bool[Array, ""]:
    """Tell whether the loss is not finite, rose far, or the picture did not move although there is a gradient."""
    finite = jnp.isfinite(after.total) & jnp.all(jnp.isfinite(after.gradient))
    thrown_back = after.total > THROWN_BACK * before.total
    stuck = jnp.all(after.image == before.image) & jnp.any(before.gradient != 0)
    return ~finite | thrown_back | stuck
