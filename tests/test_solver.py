"""The solver's methods on functions whose answer is known, and their bookkeeping."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from scipy.optimize import minimize

from nst_exp.networks import get_network
from nst_exp.params.sources import ParamsSource, load_params
from nst_exp.transfer.methods import Adam, Lbfgs, Method, OptaxLbfgs
from nst_exp.transfer.objective import Objective
from nst_exp.transfer.solver import CHUNK, Loss, Problems, SolverState, Trace, advance, begin
from nst_exp.transfer.terms import Problem, Targets

METHODS: dict[str, Lbfgs | OptaxLbfgs | Adam] = {
    "lbfgs": Lbfgs(history_size=10, linesearch="none", first_step=0.02),
    "lbfgs zoom": Lbfgs(history_size=10, linesearch="zoom", first_step=0.02),
    "optax_lbfgs": OptaxLbfgs(history_size=10, linesearch="none"),
    "optax_lbfgs zoom": OptaxLbfgs(history_size=10, linesearch="zoom"),
    "adam": Adam(learning_rate=0.02),
}
SHAPE = (1, 4, 4, 3)
OFF = jnp.zeros(1)  # no average
CURVATURE = jnp.asarray(np.geomspace(1, 30, 48).reshape(SHAPE), jnp.float32)
GOAL = jnp.asarray(np.random.default_rng(0).uniform(size=SHAPE), jnp.float32)


class Formula(NamedTuple):
    """A formula as a `Loss`."""

    value: Callable[[jax.Array], jax.Array]

    def losses(self, problem: None, image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        total = self.value(image)
        return total, {"content": total}


def bowl(image: jax.Array) -> jax.Array:
    return jnp.sum(CURVATURE * jnp.square(image - GOAL))


def run(
    objective: Loss, method: Method, problem: Problem | None, image: jax.Array, steps: int
) -> tuple[SolverState, Trace]:
    """Run steps of a single entry in chunks; returns the joined traces."""
    problems = Problems.of([problem])
    state, traces = begin(objective, method, problems, image[None], OFF), []
    while steps > 0:
        count = min(CHUNK, steps)
        state, trace = advance(objective, method, problems, state, jnp.array([count]))
        traces.append(jax.tree.map(lambda row, count=count: row[0, :count], trace))
        steps -= count
    return jax.tree.map(lambda leaf: leaf[0], state), jax.tree.map(lambda *rows: np.concatenate(rows), *traces)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_the_bottom_of_a_bowl(name: str) -> None:
    state, trace = run(Formula(bowl), METHODS[name], None, jnp.full(SHAPE, 0.5), 25)
    assert len(trace.totals) == 25
    assert state.best_total < (0.1 if name == "adam" else 1e-4) * bowl(jnp.full(SHAPE, 0.5))
    np.testing.assert_allclose(state.best_total, min(trace.totals), rtol=1e-6)
    np.testing.assert_allclose(bowl(state.best_image), state.best_total, rtol=1e-4)
    assert state.restarts == 0


def test_unit_steps_need_at_most_half_as_many_evaluations_again_as_scipy() -> None:
    start = np.full(SHAPE, 0.5)
    state, _ = run(Formula(bowl), METHODS["lbfgs"], None, jnp.asarray(start, jnp.float32), 30)
    curvature, goal = np.asarray(CURVATURE, np.float64).ravel(), np.asarray(GOAL, np.float64).ravel()
    reference = minimize(
        lambda x: (curvature @ (x - goal) ** 2, 2 * curvature * (x - goal)),
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 10, "maxfun": 20},
    )
    assert reference.nfev >= 20
    assert state.evaluations == 31
    assert state.best_total < reference.fun


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_are_counted_truly(name: str) -> None:
    """Each evaluation calls back to the host, which counts the true number."""
    calls = []

    def counted(image: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return bowl(image)

    state, trace = run(Formula(counted), METHODS[name], None, jnp.full(SHAPE, 0.5), 7)
    jax.effects_barrier()
    assert int(state.evaluations) == len(calls) == trace.evaluations[-1]
    if "zoom" not in name:
        assert list(trace.evaluations) == list(range(2, 9))


@pytest.mark.parametrize("name", ["lbfgs", "optax_lbfgs", "adam"])
def test_a_step_into_nan_restarts_and_the_best_is_kept(name: str) -> None:
    """The bowl is NaN close to its bottom: a step into that part is undone, and counted as a restart."""

    def guarded(image: jax.Array) -> jax.Array:
        value = bowl(image)
        return value * jnp.where(value < 0.5, jnp.nan, 1.0)

    state, trace = run(Formula(guarded), METHODS[name], None, jnp.full(SHAPE, 0.5), 80)
    assert np.isnan(trace.totals).any()
    assert state.restarts == np.isnan(trace.totals).sum()
    assert jnp.isfinite(state.best_image).all()
    np.testing.assert_allclose(guarded(state.best_image), state.best_total, rtol=1e-5)
    assert 0.5 <= state.best_total < 1.0


def test_a_restart_takes_shorter_steps() -> None:
    """From a first step that is far too long, halving reaches the bottom."""
    method = Lbfgs(history_size=10, linesearch="none", first_step=20.0)
    state, trace = run(Formula(bowl), method, None, jnp.full(SHAPE, 0.5), 60)
    assert state.restarts >= 3
    assert state.best_total < 1e-5 * trace.totals[0]


def test_at_the_bottom_nothing_moves_and_nothing_restarts() -> None:
    state, _ = run(Formula(bowl), METHODS["lbfgs"], None, GOAL, 5)
    assert state.restarts == 0
    assert state.best_total == 0


def test_weights_are_traced(tmp_path: Path) -> None:
    """Other weights, layer weights and lengths of chunks compile nothing; other layers do."""
    network = get_network("tiny", pooling="max", padding="zeros", precision="float32")
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 16, 16, 3)), jnp.float32)
    params = jax.device_put(load_params(ParamsSource("random"), network, network.layers, tmp_path).params)

    def solve(style_layers: dict[str, float], content_weight: float, steps: int) -> None:
        objective = Objective(network, ("block2_conv1",), tuple(style_layers), "relative")
        settings = {"content": content_weight, "style": 0.1, "tv": 0.0, "range": 0.0, "temporal": 0.0}
        named = {f"{name}_weight": weight for name, weight in settings.items()}
        weights = objective.weights(named, style_layers, {"style": 300.0})
        targets = Targets(objective.content_targets(params, image), objective.style_targets(params, image[:, ::-1]))
        problem = Problem(params, targets, weights)
        run(objective, METHODS["lbfgs"], problem, image, steps)

    before = compilations()
    solve({"block1_conv1": 1.0}, 1.0, 3)
    assert compilations() == before + 1
    solve({"block1_conv1": 0.2}, 4.0, 12)
    assert compilations() == before + 1
    solve({"block1_conv2": 1.0}, 1.0, 3)
    assert compilations() == before + 2


def test_batch_entries_do_not_disturb_each_other() -> None:
    """Of three bowls, one diverges and restarts, one stops after the second chunk, and one is an ordinary bowl."""
    method = Lbfgs(history_size=10, linesearch="none", first_step=0.5)
    start = jnp.full(SHAPE, 0.5)
    scales = [jnp.float32(scale) for scale in (1.0, 1e38, 2.0)]  # the steps of the second one soon exceed float32
    problems = Problems.of(scales)
    state = begin(ScaledBowl(), method, problems, jnp.stack([start] * 3), jnp.zeros(3))
    rows = []
    for steps in ([10, 10, 10], [10, 10, 0], [7, 10, 0]):
        state, trace = advance(ScaledBowl(), method, problems, state, jnp.array(steps))
        rows.append(trace)
    for entry, counts in enumerate([(10, 10, 7), (10, 10, 10), (10,)]):
        alone, trace = run_scaled(scales[entry], method, start, counts)
        together = np.concatenate([row.totals[entry][:count] for row, count in zip(rows, counts, strict=False)])
        np.testing.assert_allclose(together / trace[0], trace / trace[0], rtol=1e-3, atol=1e-6)
        assert state.evaluations[entry] == alone.evaluations[0]
        assert state.restarts[entry] == alone.restarts[0]
        np.testing.assert_allclose(state.best_image[entry], alone.best_image[0], atol=1e-4)
    assert state.restarts[1] > 0


def run_scaled(
    scale: jax.Array, method: Method, image: jax.Array, counts: tuple[int, ...]
) -> tuple[SolverState, np.ndarray]:
    problems = Problems.of([scale])
    state, totals = begin(ScaledBowl(), method, problems, image[None], OFF), []
    for count in counts:
        state, trace = advance(ScaledBowl(), method, problems, state, jnp.array([count]))
        totals.append(trace.totals[0, :count])
    return state, np.concatenate(totals)


class ScaledBowl(NamedTuple):
    """The bowl times the problem."""

    def losses(self, problem: jax.Array, image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        total = problem * bowl(image)
        return total, {"content": total}


def test_what_batch_entries_have_in_common_is_held_once() -> None:
    common, own = jnp.zeros(3), [jnp.float32(1), jnp.float32(2)]
    problems = Problems.of([{"common": common, "own": number} for number in own])
    assert problems.shared == [common]
    assert [leaf.shape for leaf in problems.stacked] == [(2,)]
    assert problems.entry([own[1]], problems.shared) == {"common": common, "own": own[1]}
