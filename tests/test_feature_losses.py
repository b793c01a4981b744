"""The losses of features against oracles in float64: their values, their gradients, and what they do at the limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from command import run_in_process
from PIL import Image

from nst_exp.transfer.feature_losses import CONTENT_LOSSES, STYLE_LOSSES, FeatureLoss
from nst_exp.transfer.feature_losses.nearest import thinned
from nst_exp.transfer.feature_losses.sliced_wasserstein import _directions
from nst_exp.transfer.losses import relative_error

LOSSES = STYLE_LOSSES | CONTENT_LOSSES


def features(rows: int, columns: int, channels: int, seed: int) -> np.ndarray:
    """Features as a network has them: correlated, above 0, and with a mean."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(rows * columns, channels)) @ generator.normal(size=(channels, channels))
    return np.maximum(mixed + 0.5, 0.01 * mixed).reshape(1, rows, columns, channels)


def flat(feature_map: np.ndarray) -> np.ndarray:
    return feature_map.reshape(-1, feature_map.shape[-1])


def relative(found: np.ndarray, goal: np.ndarray) -> float:
    return float(((found - goal) ** 2).sum() / (goal**2).sum())


def covariance(rows: np.ndarray) -> np.ndarray:
    return np.cov(rows.T, bias=True)


def gram(x: np.ndarray, y: np.ndarray) -> float:
    return relative(flat(x).T @ flat(x) / x.size, flat(y).T @ flat(y) / y.size)


def moments(x: np.ndarray, y: np.ndarray) -> float:
    means = relative(flat(x).mean(0), flat(y).mean(0))
    return means + relative(covariance(flat(x)), covariance(flat(y)))


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """The formula with SciPy's root of a matrix that need not be symmetric."""
    s, t, m, n = covariance(flat(x)), covariance(flat(y)), flat(x).mean(0), flat(y).mean(0)
    bures = np.trace(s) + np.trace(t) - 2 * np.trace(scipy.linalg.sqrtm(s @ t).real)
    return float((((m - n) ** 2).sum() + bures) / ((n**2).sum() + np.trace(t)))


def sliced_wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Sorted projections, as many of both."""
    directions = _directions(x.shape[-1]).astype(np.float64)
    return relative(np.sort(directions @ flat(x).T, axis=1), np.sort(directions @ flat(y).T, axis=1))


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T


def nearest(x: np.ndarray, y: np.ndarray) -> float:
    return float((1 - cosines(flat(x) - flat(x).mean(0), flat(y) - flat(y).mean(0))).min(1).mean())


def self_similarity(x: np.ndarray, y: np.ndarray) -> float:
    one, other = (1 - cosines(flat(z), flat(z)) for z in (x, y))
    return float(np.abs(one / one.sum(0) - other / other.sum(0)).sum() / len(one))


ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "gram": gram,
    "moments": moments,
    "wasserstein": wasserstein,
    "sliced_wasserstein": sliced_wasserstein,
    "nearest": nearest,
    "features": relative,
    "self_similarity": self_similarity,
}
SHAPES = {  # rows, columns and channels
    "more positions than channels": (24, 20, 6),
    "many positions": (30, 34, 4),
}
# the quantiles of sliced_wasserstein are read from tables with 1024 entries
TOLERANCE = dict.fromkeys(ORACLES, 2e-4) | {"sliced_wasserstein": 1e-2}


def distance(loss: FeatureLoss, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The distance and its gradient, as the solver computes them."""
    target = loss.target(jnp.asarray(y, jnp.float32))
    value, gradient = jax.value_and_grad(loss.distance)(jnp.asarray(x, jnp.float32), target, relative_error)
    return float(value), np.asarray(gradient, np.float64)


def test_every_loss_has_an_oracle() -> None:
    assert ORACLES.keys() == LOSSES.keys()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ORACLES)
def test_values_and_gradients(name: str, shape: tuple[int, int, int]) -> None:
    x, y = features(*shape, seed=0), features(*shape, seed=1)
    value, gradient = distance(LOSSES[name], x, y)
    np.testing.assert_allclose(value, ORACLES[name](x, y), rtol=TOLERANCE[name])

    step = 1e-5 * np.random.default_rng(2).normal(size=x.shape)
    step += gradient * np.linalg.norm(step) / np.linalg.norm(gradient)  # so that the slope is not a small difference
    slope = (ORACLES[name](x + step, y) - ORACLES[name](x - step, y)) / 2
    np.testing.assert_allclose((gradient * step).sum(), slope, rtol=20 * TOLERANCE[name])


@pytest.mark.parametrize("name", ["wasserstein", "moments", "gram"])
def test_fewer_positions_than_channels(name: str) -> None:
    """Covariance matrices that have no inverse, as the deepest layers of a small picture have."""
    x, y = features(4, 5, 48, seed=0), features(3, 4, 48, seed=1)
    value, gradient = distance(LOSSES[name], x, y)
    np.testing.assert_allclose(value, ORACLES[name](x, y), rtol=2e-3)
    step = 1e-5 * features(4, 5, 48, seed=2)
    slope = (ORACLES[name](x + step, y) - ORACLES[name](x - step, y)) / 2
    np.testing.assert_allclose((gradient * step).sum(), slope, rtol=1e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_the_painting_itself_is_at_distance_zero(name: str) -> None:
    y = features(12, 14, 8, seed=0)
    value, gradient = distance(LOSSES[name], y, y)
    assert abs(value) < TOLERANCE[name]
    assert np.linalg.norm(gradient) < 0.1 * np.linalg.norm(distance(LOSSES[name], features(12, 14, 8, seed=1), y)[1])


@pytest.mark.parametrize("name", STYLE_LOSSES)
def test_a_style_does_not_know_where_features_are(name: str) -> None:
    x, y = features(10, 12, 6, seed=0), features(10, 12, 6, seed=1)
    moved = np.random.default_rng(2).permutation(flat(x)).reshape(x.shape)
    np.testing.assert_allclose(
        distance(STYLE_LOSSES[name], moved, y)[0], distance(STYLE_LOSSES[name], x, y)[0], rtol=1e-4
    )


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_distance_has_no_unit(name: str, scale: float) -> None:
    x, y = features(10, 12, 6, seed=0), features(10, 12, 6, seed=1)
    np.testing.assert_allclose(
        distance(LOSSES[name], scale * x, scale * y)[0], distance(LOSSES[name], x, y)[0], rtol=1e-3
    )


LIMITS = {
    "one position": (features(1, 1, 8, seed=0), features(1, 1, 8, seed=1)),
    "a constant layer": (np.ones((1, 6, 7, 8)), features(6, 7, 8, seed=0)),
    "a constant painting": (features(6, 7, 8, seed=0), np.ones((1, 6, 7, 8))),
    "a silent layer": (np.zeros((1, 6, 7, 8)), features(6, 7, 8, seed=0)),
    "a silent painting": (features(6, 7, 8, seed=0), np.zeros((1, 6, 7, 8))),
    "both silent": (np.zeros((1, 6, 7, 8)), np.zeros((1, 6, 7, 8))),
    "one channel": (features(6, 7, 1, seed=0), features(6, 7, 1, seed=1)),
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("name", LOSSES)
def test_limits_are_finite(name: str, limit: tuple[np.ndarray, np.ndarray]) -> None:
    value, gradient = distance(LOSSES[name], *limit)
    assert np.isfinite(value)
    assert value > -1e-5
    assert np.isfinite(gradient).all()


def test_large_feature_maps_are_resized_by_means_that_overlap() -> None:
    """A ramp stays a ramp away from the borders, and every position has its share in the mean."""
    ramp = np.broadcast_to(np.arange(48.0)[None, :, None, None], (1, 48, 64, 1))
    found = np.asarray(thinned(jnp.asarray(ramp, jnp.float32), 192))
    assert found.shape == (1, 12, 16, 1)
    np.testing.assert_allclose(found[0, 1:-1, 0, 0], np.arange(10) * 4 + 5.5, rtol=1e-5)
    shares = np.asarray(jax.grad(lambda x: thinned(x, 192).sum())(jnp.asarray(ramp, jnp.float32)))
    np.testing.assert_allclose(shares[0, 8:-8, 8:-8], 1 / 16, rtol=1e-4)


@pytest.mark.parametrize("name", STYLE_LOSSES)
def test_a_batch_of_paintings_of_several_sizes(name: str, tmp_path: Path) -> None:
    """Targets have the same shapes for all paintings, so that these can be stacked."""
    grid = ("style_zoom=1,0.7", f"style_loss={name}", "solver=adam", "init=noise")
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder, batches in ((together, 2), (alone, 1)):
        folder.mkdir()
        done = run_in_process("-m", *grid, f"hydra.launcher.max_batch_size={batches}", folder=folder)
        assert done.code == 0, done.stderr
    results = [json.loads((together / "out" / str(point) / "result.json").read_text()) for point in range(2)]
    assert [result["batch_size"] for result in results] == [2, 2]
    for point in range(2):
        one, other = (read_pixels(folder / "out" / str(point) / "pastiche.png") for folder in (together, alone))
        assert np.abs(one - other).max() <= 1


def read_pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.int16)


def test_each_is_an_axis(tmp_path: Path) -> None:
    """All style losses in one sweep, on one device, give pictures of their own and are named in the table."""
    names = ",".join(STYLE_LOSSES)
    done = run_in_process("-m", f"style_loss={names}", folder=tmp_path)
    assert done.code == 0, done.stderr
    points = len(STYLE_LOSSES)
    pictures = {(tmp_path / "out" / str(point) / "pastiche.png").read_bytes() for point in range(points)}
    assert len(pictures) == points
    records = [json.loads((tmp_path / "out" / str(point) / "record.json").read_text()) for point in range(points)]
    assert [record["params"]["style_loss"] for record in records] == list(STYLE_LOSSES)
