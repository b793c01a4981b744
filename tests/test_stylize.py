"""Schedules, and the driver around the solver."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from nst_exp.errors import InputError
from nst_exp.networks import get_network
from nst_exp.outcome import Outcome
from nst_exp.params.sources import ParamsSource, load_params
from nst_exp.transfer.colour import recoloured
from nst_exp.transfer.methods import Lbfgs
from nst_exp.transfer.objective import Objective
from nst_exp.transfer.stylize import (
    BatchEntry,
    Progress,
    Schedule,
    Solution,
    Stop,
    bytes_per_entry,
    coarse_to_fine,
    stylize,
)
from nst_exp.transfer.terms import LossWeights


def test_scales_are_steps_of_square_root_two() -> None:
    assert coarse_to_fine(240, 320, 128, 16) == ((120, 160), (170, 226), (240, 320))
    assert coarse_to_fine(240, 320, 320, 16) == ((240, 320),)
    assert coarse_to_fine(20, 1000, 100, 16) == ((20, 1000),)


def test_steps_are_shared_out_evenly() -> None:
    schedule = Schedule(((8, 8), (12, 12), (16, 16)), 11, "content")
    assert schedule.steps_by_scale == (3, 3, 5)


def test_stop_looks_at_relative_improvement() -> None:
    stop = Stop(improvement=0.1, window=2)
    assert not stop.reached([10.0, 5.0])
    assert not stop.reached([10.0, 9.5, 8.9])
    assert stop.reached([10.0, 9.5, 9.1])
    assert stop.reached([1e-9 * loss for loss in (10.0, 9.5, 9.1)])
    assert not Stop(improvement=0.0, window=2).reached([1.0, 1.0, 1.0, 1.0])


OBJECTIVE = Objective(
    get_network("tiny", pooling="average", padding="replicate", precision="float32"),
    ("block2_conv1",),
    ("block1_conv1", "block2_conv2"),
    "relative",
)


def weights(content_weight: float = 1.0) -> LossWeights:
    settings = {"content": content_weight, "style": 0.1, "tv": 0.0, "range": 1000.0, "temporal": 0.0}
    table = dict.fromkeys(OBJECTIVE.style_layers, 1.0)
    return OBJECTIVE.weights({f"{name}_weight": weight for name, weight in settings.items()}, table, {"style": 300.0})


def solve_entries(
    tmp_path: Path, schedule: Schedule, seen: list[Progress], entries: Sequence[BatchEntry]
) -> list[Outcome[Solution]]:
    network = OBJECTIVE.network
    params = jax.device_put(load_params(ParamsSource("random"), network, network.layers, tmp_path).params)
    return stylize(OBJECTIVE, Lbfgs(10, "none", 0.02), params, entries, schedule, seen.append)


CONTENT, STYLE = (
    jax.random.uniform(jax.random.key(seed), shape) for seed, shape in enumerate([(1, 24, 32, 3), (1, 20, 28, 3)])
)


def solve(tmp_path: Path, schedule: Schedule, seen: list[Progress], seed: int = 0) -> Solution:
    (outcome,) = solve_entries(tmp_path, schedule, seen, [BatchEntry(weights(), CONTENT, STYLE, seed=seed)])
    return outcome.get()


@pytest.mark.parametrize("init", ["content", "colours", "noise", "style"])
def test_two_scales(init: str, tmp_path: Path) -> None:
    seen: list[Progress] = []
    solution = solve(tmp_path, Schedule(((17, 23), (24, 32)), 25, init), seen)
    assert solution.pastiche.shape == (1, 24, 32, 3)
    assert [chunk.scale for chunk in seen] == [0, 0, 1, 1]
    assert [chunk.steps_done for chunk in seen] == [10, 12, 22, 25]
    assert solution.steps == 25
    evaluations = np.concatenate([chunk.trace.evaluations for chunk in seen])
    assert list(evaluations) == [*range(2, 14), *range(15, 28)]  # each scale begins with one evaluation more
    assert solution.evaluations == 27
    totals = np.concatenate([chunk.trace.totals for chunk in seen if chunk.scale == 1])
    assert solution.total_loss <= totals.min() + 1e-6


def test_it_stops_when_nothing_is_gained(tmp_path: Path) -> None:
    seen: list[Progress] = []
    schedule = Schedule(((24, 32),), 200, "content", Stop(improvement=0.5, window=5))
    assert solve(tmp_path, schedule, seen).steps < 100


def test_noise_depends_on_the_seed_alone(tmp_path: Path) -> None:
    schedule = Schedule(((24, 32),), 2, "noise")
    first, again, other = (solve(tmp_path, schedule, [], seed).pastiche for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_recoloured_has_the_paintings_colours_and_moves_none_further_than_it_must() -> None:
    """Mean and covariance agree in float64. The map is symmetric and positive, so it moves colours the least."""
    content, style = 0.4 + 0.2 * CONTENT, 0.45 + 0.1 * STYLE @ jnp.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0.3]])
    moved = recoloured(content, style)
    before, after, goal = (np.asarray(image, np.float64).reshape(-1, 3) for image in (content, moved, style))
    np.testing.assert_allclose(after.mean(0), goal.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.cov(after.T), np.cov(goal.T), atol=1e-5)
    transform, *_ = np.linalg.lstsq(before - before.mean(0), after - after.mean(0), rcond=None)
    np.testing.assert_allclose(transform, transform.T, atol=1e-3)
    assert np.all(np.linalg.eigvalsh(transform) > 0)


def test_recoloured_is_sound_without_any_colour() -> None:
    flat = jnp.full((1, 16, 16, 3), 0.5)
    for content, style in ((flat, STYLE), (CONTENT, flat), (flat, flat)):
        assert np.all(np.isfinite(recoloured(content, style)))
    np.testing.assert_allclose(recoloured(CONTENT, flat), 0.5, atol=0.02)


def test_a_batch_agrees_with_one_at_a_time(tmp_path: Path) -> None:
    """The entries differ in weights, sizes, seeds and inits; two stop early, and one has no finite loss."""
    schedule = Schedule(((17, 23), (24, 32)), 40, "noise", Stop(improvement=0.1, window=5))
    entries = [
        BatchEntry(weights(1.0), CONTENT, STYLE),
        BatchEntry(weights(float("inf")), CONTENT, STYLE),
        BatchEntry(weights(50.0), CONTENT, STYLE, init_image=CONTENT),
        BatchEntry(weights(4.0), CONTENT[:, ::-1], STYLE[:, 3:], seed=3),
    ]
    seen: list[Progress] = []
    before = compilations()
    together = solve_entries(tmp_path, schedule, seen, entries)
    assert compilations() == before + 2  # one for each scale
    assert isinstance(together[1].error, InputError)
    for index in (0, 2, 3):
        chunks: list[Progress] = []
        (outcome,) = solve_entries(tmp_path, schedule, chunks, [entries[index]])
        own = [chunk for chunk in seen if chunk.entry == index]
        solution, alone = together[index].get(), outcome.get()
        assert (solution.steps, solution.evaluations, solution.restarts) == (
            alone.steps,
            alone.evaluations,
            alone.restarts,
        )
        assert [chunk.steps_done for chunk in own] == [chunk.steps_done for chunk in chunks]
        for ours, theirs in zip(own, chunks, strict=True):
            np.testing.assert_array_equal(ours.trace.evaluations, theirs.trace.evaluations)
            best, expected = (np.minimum.accumulate(chunk.trace.totals) for chunk in (ours, theirs))
            np.testing.assert_allclose(best, expected, rtol=1e-3)  # steps that are undone are very long
        np.testing.assert_allclose(solution.total_loss, alone.total_loss, rtol=1e-3)
        np.testing.assert_allclose(solution.pastiche, alone.pastiche, atol=1e-2)  # rounding, after 40 steps
    assert [one.get().steps for one in together if one.error is None] == [30, 40, 30]


def test_an_entry_of_four_times_the_pixels_takes_four_times_the_memory(tmp_path: Path) -> None:
    network = get_network("tiny", pooling="average", padding="replicate", precision="float32")
    objective = Objective(network, ("block2_conv1",), ("block1_conv1",), "relative")
    params = load_params(ParamsSource("random"), network, network.layers, tmp_path).params
    small, large = (bytes_per_entry(objective, Lbfgs(10, "none", 0.02), params, size) for size in ((24, 32), (48, 64)))
    assert small > 24 * 32 * 4 * (3 * 20 + 2 * 4)  # the solver's memory and the maps of two layers
    assert large == pytest.approx(4 * small, rel=0.01)


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    entry = BatchEntry(weights(float("inf")), CONTENT, STYLE)
    (outcome,) = solve_entries(tmp_path, Schedule(((24, 32),), 2, "noise"), [], [entry])
    with pytest.raises(InputError, match=r"initial picture is (inf|nan)"):
        outcome.get()
