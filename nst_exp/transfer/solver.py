"""Minimising pictures' losses on the device, side by side, in chunks of steps.

A chunk is one compiled call: it runs a number of steps for every entry of a batch,
keeps each entry's best iterate, restarts its method's memory when a step went wrong, and returns the losses of every
step. The number of steps of each entry is traced, so a last, shorter chunk does not compile again, and an entry with
0 steps stays as it is while the others continue. A single picture is a batch of one entry. In larger batches a line
search costs more evaluations than it counts, because all entries compute what one of them needs.
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

CHUNK = 10  # steps between two looks of the host: a few seconds on a CPU, few launches on a GPU
THROWN_BACK = 10.0  # a loss so many times the last is a step gone wrong; unit steps rise a little and come back

Row = Float[Array, "*batch steps"] | Float[np.ndarray, "*batch steps"]


@runtime_checkable
class Loss(Protocol):
    """What is minimised, such as an `Objective`: static and hashable, its arrays in a `problem` of any kind."""

    def losses(self, problem: Any, image: Image) -> tuple[Scalar, Losses]:
        """Total loss of `image`, and its terms."""


@struct.dataclass
class SolverState:
    """A solve between two chunks, all that the next chunk needs; within a chunk, an entry has no axis `batch`."""

    at: Iterate
    best_image: Float[Array, "*batch 1 height width 3"]
    best_total: Float[Array, "*batch"]
    best_losses: dict[str, Float[Array, "*batch"]]
    evaluations: Int[Array, "*batch"]
    restarts: Int[Array, "*batch"]


@struct.dataclass
class Trace:
    """What each step of a chunk came to: loss of the iterate it tried, evaluations so far; an entry a step."""

    totals: Row
    losses: dict[str, Row]
    evaluations: Int[Array, "*batch steps"] | Int[np.ndarray, "*batch steps"]


@struct.dataclass
class Problems:
    """The problems of all entries, leaf by leaf: an array that every entry has in common is held once.

    Attributes:
        stacked: arrays that differ between entries, along a new leading axis.
        shared: the others.
        differs: for each leaf of a problem, whether it is among `stacked`.
        structure: of a problem.
    """

    stacked: list[Array]
    shared: list[Array]
    differs: tuple[bool, ...] = struct.field(pytree_node=False)
    structure: Any = struct.field(pytree_node=False)

    @classmethod
    def of(cls, problems: Sequence[Any]) -> Problems:
        """Stack problems of one structure and one shape; leaves that are the same object in all are shared."""
        structure = jax.tree.structure(problems[0])
        leaves = list(zip(*(jax.tree.leaves(problem) for problem in problems), strict=True))
        differs = tuple(any(leaf is not row[0] for leaf in row) for row in leaves)
        stacked = [jnp.stack(row) for row, own in zip(leaves, differs, strict=True) if own]
        shared = [row[0] for row, own in zip(leaves, differs, strict=True) if not own]
        return cls(stacked, shared, differs, structure)

    def entry(self, stacked: Sequence[Array], shared: Sequence[Array]) -> Any:
        """One entry's problem, from its slices of `stacked`, and what is `shared`."""
        own, common = iter(stacked), iter(shared)
        return jax.tree.unflatten(self.structure, [next(own if differs else common) for differs in self.differs])


@partial(jax.jit, static_argnames=("loss", "method"))
def begin(loss: Loss, method: Method, problems: Problems, images: Images) -> SolverState:
    """Evaluate each entry's image and start from it; every array of the state has a leading axis `batch`."""

    def entry(problem: Any, image: Image) -> SolverState:
        at = method.start(partial(loss.losses, problem), image)
        return SolverState(at, image, at.total, at.losses, at.spent, jnp.zeros_like(at.spent))

    return _for_each(entry, problems, images)


@partial(jax.jit, static_argnames=("loss", "method"), donate_argnames="state")
def advance(
    loss: Loss, method: Method, problems: Problems, state: SolverState, steps: Int[Array, "batch"]
) -> tuple[SolverState, Trace]:
    """Run `steps` steps (at most `CHUNK`) on the device, each entry its own number: 0 leaves it as it is.

    Returns:
        The state after them, and their trace: rows of `CHUNK` values for each entry, zeros from its `steps` on.
    """

    def entry(problem: Any, state: SolverState, steps: Count) -> tuple[SolverState, Trace]:
        return _advance(partial(loss.losses, problem), method, state, steps)

    return _for_each(entry, problems, state, steps)


def spare_entries(entries: int) -> int:
    """How many idle entries to add so that all devices of this process get equally many; a single entry stays alone."""
    return -entries % jax.local_device_count() if entries > 1 else 0


def _for_each(one: Callable[..., Any], problems: Problems, *rows: Any) -> Any:
    """Call `one` for every entry, with its problem and its slices of `rows`; spread over the devices if they divide.

    No device waits for another one within a chunk: each runs a program of its own.
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
    """Call `one` for every entry; not by `vmap` for a single one, since `vmap` computes both branches of conditions."""
    if len(jax.tree.leaves(rows)[0]) > 1:
        return jax.vmap(one)(*rows)
    alone = jax.tree.map(lambda leaf: leaf[0], rows)
    return jax.tree.map(lambda leaf: leaf[None], one(*alone))


def _advance(function: LossFunction, method: Method, state: SolverState, steps: Count) -> tuple[SolverState, Trace]:
    """The chunk of one entry."""
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
    """Continue from `tried` or, if that step went wrong, from where it started, with an empty memory."""
    wrong = _went_wrong(state.at, tried)
    restarts = state.restarts + wrong.astype(state.restarts.dtype)
    shrink = 0.5 ** jnp.minimum(restarts, 10)
    at = jax.lax.cond(
        wrong, lambda: dataclasses.replace(method.restart(state.at, shrink), spent=tried.spent), lambda: tried
    )
    image, total, losses = jax.lax.cond(
        at.total < state.best_total,
        lambda: (at.image, at.total, at.losses),
        lambda: (state.best_image, state.best_total, state.best_losses),
    )
    return SolverState(at, image, total, losses, state.evaluations + tried.spent, restarts)


def _went_wrong(before: Iterate, after: Iterate) -> Bool[Array, ""]:
    """Not finite, thrown far back, or collapsed: the picture no longer moves though there is a gradient."""
    finite = jnp.isfinite(after.total) & jnp.all(jnp.isfinite(after.gradient))
    thrown_back = after.total > THROWN_BACK * before.total
    stuck = jnp.all(after.image == before.image) & jnp.any(before.gradient != 0)
    return ~finite | thrown_back | stuck
