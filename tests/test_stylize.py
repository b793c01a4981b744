"""Schedules, and the driver around the solver."""

from pathlib import Path

import jax
import numpy as np
import pytest

from nst_exp.errors import InputError
from nst_exp.networks import get_network
from nst_exp.objective import Objective, loss_weights
from nst_exp.solver import Lbfgs
from nst_exp.stylize import Progress, Schedule, Solution, Stop, coarse_to_fine, stylize
from nst_exp.weights import ParamsSource, load_params


def test_scales_are_steps_of_square_root_two() -> None:
    assert coarse_to_fine(240, 320, 128, 16) == ((120, 160), (170, 226), (240, 320))
    assert coarse_to_fine(240, 320, 320, 16) == ((240, 320),)
    assert coarse_to_fine(20, 1000, 100, 16) == ((20, 1000),)


def test_steps_are_shared_out_evenly() -> None:
    schedule = Schedule(((8, 8), (12, 12), (16, 16)), 11, "content", 0)
    assert [schedule.steps_at(scale) for scale in range(3)] == [3, 3, 5]


def test_stop_looks_at_relative_improvement() -> None:
    stop = Stop(improvement=0.1, window=2)
    assert not stop.reached([10.0, 5.0])
    assert not stop.reached([10.0, 9.5, 8.9])
    assert stop.reached([10.0, 9.5, 9.1])
    assert stop.reached([1e-9 * loss for loss in (10.0, 9.5, 9.1)])
    assert not Stop(improvement=0.0, window=2).reached([1.0, 1.0, 1.0, 1.0])


def picture(height: int, width: int, seed: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (1, height, width, 3))


def solve(tmp_path: Path, schedule: Schedule, seen: list[Progress], content_weight: float = 1.0) -> Solution:
    network = get_network("tiny", pooling="average", padding="replicate", precision="float32")
    objective = Objective(network, ("block2_conv1",), ("block1_conv1", "block2_conv2"), "relative")
    weights = loss_weights(
        content_weight=content_weight,
        style_weight=0.1,
        style_scale=300.0,
        style_layer_weights={"block1_conv1": 1.0, "block2_conv2": 1.0},
        tv_weight=0.0,
        range_weight=1000.0,
        normalise=True,
    )
    params = jax.device_put(load_params(ParamsSource("random"), network, network.layers, tmp_path).params)
    return stylize(
        objective,
        Lbfgs(10, "none", 0.02),
        params,
        weights,
        picture(24, 32, 0),
        picture(20, 28, 1),
        schedule,
        seen.append,
    )


@pytest.mark.parametrize("init", ["content", "noise", "style"])
def test_two_scales(init: str, tmp_path: Path) -> None:
    seen: list[Progress] = []
    solution = solve(tmp_path, Schedule(((17, 23), (24, 32)), 25, init, 0), seen)
    assert solution.pastiche.shape == (1, 24, 32, 3)
    assert [chunk.scale for chunk in seen] == [0, 0, 1, 1]
    assert [chunk.steps_done for chunk in seen] == [10, 12, 22, 25]
    assert solution.steps == 25
    evaluations = np.concatenate([chunk.trace.evaluations for chunk in seen])
    assert list(evaluations) == [*range(2, 14), *range(15, 28)]  # each scale begins with one more
    assert solution.evaluations == 27
    totals = np.concatenate([chunk.trace.totals for chunk in seen if chunk.scale == 1])
    assert solution.total_loss <= totals.min() + 1e-6


def test_it_stops_when_nothing_is_gained(tmp_path: Path) -> None:
    seen: list[Progress] = []
    schedule = Schedule(((24, 32),), 200, "content", 0, Stop(improvement=0.5, window=5))
    assert solve(tmp_path, schedule, seen).steps < 100


def test_noise_depends_on_the_seed_alone(tmp_path: Path) -> None:
    first, again, other = (solve(tmp_path, Schedule(((24, 32),), 2, "noise", seed), []).pastiche for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"initial picture is (inf|nan)"):
        solve(tmp_path, Schedule(((24, 32),), 2, "noise", 0), [], content_weight=float("inf"))
