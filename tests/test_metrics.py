"""Measures against independent implementations, closed forms, and pictures whose measures are known."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import types
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.stats import wasserstein_distance
from skimage.color import lab2rgb

from nst_exp.errors import InputError
from nst_exp.evaluation import catalogue, metrics
from nst_exp.evaluation.catalogue import pareto_front
from nst_exp.evaluation.metrics import Evaluator, measures, noise, references
from nst_exp.networks import Network, get_network
from nst_exp.params import files
from nst_exp.params.sources import ParamsSource, load_lpips_weights, load_params

SCRIPT = Path(__file__).parents[1] / "scripts" / "lpips_reference.py"
# Values of the original program, printed by scripts/lpips_reference.py.
LPIPS = {
    "waves": 0.41657811,
    "flower": 0.81726336,
    "blurred": 0.27993491,
    "noisy": 0.38233167,
    "nearly the same": 0.02172364,
    "odd sides": 0.57740813,
}
LPIPS_WEIGHTS_SHA256 = "9153a2043dccf3b525d4f13db916e93ef040548ea923b6f2100de5ebac141a78"

Picture = np.ndarray  # (H, W, 3)
jitted_features = jax.jit(Network.features, static_argnums=(0, 3))


def judging(name: str) -> Network:
    return get_network(name, pooling="max", padding="zeros", precision="float32")


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """The real evaluator."""
    network = judging("vgg16")
    cache_dir = tmp_path_factory.mktemp("cache")
    params = load_params(ParamsSource("bundled"), network, network.truncated(metrics.LAYERS), cache_dir).params
    return Evaluator(network, jax.device_put(params), load_lpips_weights())


@pytest.fixture(scope="module")
def tiny() -> Evaluator:
    network = judging("tiny")
    params = load_params(ParamsSource("random"), network, network.layers, Path("unused")).params
    channels = {layer: shape[-1] for layer, shape in network.kernels(network.layers).items()}
    return Evaluator(
        network, params, {layer: np.full(channels[layer], 1 / channels[layer]) for layer in metrics.LPIPS_LAYERS}
    )


@cache
def reference_script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("lpips_reference", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pair(name: str) -> tuple[jax.Array, jax.Array]:
    first, second = reference_script().pairs()[name]
    return as_image(first), as_image(second)


def as_image(picture: Picture) -> jax.Array:
    return jnp.asarray(picture, jnp.float32)[None]


def waves(seed: int, height: int = 48, width: int = 64) -> jax.Array:
    """Smooth colours that are the same picture at every size."""
    random = np.random.RandomState(seed)
    down, across = np.mgrid[:height, :width]
    down, across = (down + 0.5) / height, (across + 0.5) / width
    picture = np.full((height, width, 3), 0.5)
    for _ in range(8):
        turns = 2 * np.pi * (random.uniform(-5, 5) * down + random.uniform(-5, 5) * across)
        picture += random.uniform(0, 0.12, 3) * np.sin(turns[..., None] + random.uniform(0, 6, 3))
    return as_image(np.clip(picture, 0, 1))


def flat(colour: tuple[float, float, float]) -> jax.Array:
    return as_image(np.full((48, 64, 3), colour))


# --- LPIPS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LPIPS)
def test_lpips_is_the_original_s(name: str, evaluator: Evaluator) -> None:
    maps = [jitted_features(evaluator.network, evaluator.params, image, metrics.LAYERS) for image in pair(name)]
    lpips, _ = metrics._content_distances(evaluator.lpips_weights, *maps)
    assert float(lpips) == pytest.approx(LPIPS[name], rel=2e-5)


def test_lpips_weights_are_the_original_s() -> None:
    learnt = load_lpips_weights()
    assert tuple(learnt) == metrics.LPIPS_LAYERS
    assert [len(channels) for channels in learnt.values()] == [64, 128, 256, 512, 512]
    concatenated = np.concatenate(list(learnt.values())).tobytes()
    assert hashlib.sha256(concatenated).hexdigest() == LPIPS_WEIGHTS_SHA256


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"NetLinLayer_1": {}}, "NetLinLayer_1 is missing"),
        ({"NetLinLayer_0": np.ones((1, 1, 3, 1), np.float32)}, "has shape (1, 1, 3, 1), vgg16 needs (1, 1, 64, 1)"),
        ({"NetLinLayer_0": np.full((1, 1, 64, 1), np.nan, np.float32)}, "NetLinLayer_0 has values that are not finite"),
        ({"NetLinLayer_4": np.full((1, 1, 512, 1), -1, np.float32)}, "NetLinLayer_4 has negative weights"),
    ],
)
def test_lpips_weights_of_a_wrong_file(
    change: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {f"NetLinLayer_{i}": np.ones((1, 1, c, 1), np.float32) for i, c in enumerate((64, 128, 256, 512, 512))}
    tree = {name: {"Conv_0": {"kernel": array} if len(array) else {}} for name, array in (arrays | change).items()}
    content = pickle.dumps(tree, protocol=3)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "vgg16.ckpt").write_bytes(content)
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: package)
    with pytest.raises(InputError, match="SHA-256 is"):
        load_lpips_weights()
    monkeypatch.setitem(files.BUNDLED, "vgg16", ("vgg16.ckpt", hashlib.sha256(content).hexdigest()))
    with pytest.raises(InputError) as caught:
        load_lpips_weights()
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


# --- style -------------------------------------------------------------------------------------------------


def features_for_style(evaluator: Evaluator, image: jax.Array) -> list[np.ndarray]:
    """Features (pixels, channels) in float64 of each layer, at full size (maximum pooling) and half size (average)."""
    _, height, width, _ = image.shape
    half, averaging = metrics._resized(image, (height // 2, width // 2)), replace(evaluator.network, pooling="average")
    maps = []
    for network, picture in ((evaluator.network, image), (averaging, half)):
        seen = jitted_features(network, evaluator.params, picture, metrics.STYLE_LAYERS)
        maps += [np.asarray(map_, np.float64).reshape(-1, map_.shape[-1]) for map_ in seen.values()]
    return maps


def gram_error(features: np.ndarray, target: np.ndarray) -> float:
    gram, wanted = (rows.T @ rows / rows.size for rows in (features, target))
    return float(((gram - wanted) ** 2).sum() / (wanted**2).sum())


def moments_error(features: np.ndarray, target: np.ndarray) -> float:
    mean, wanted = features.mean(axis=0), target.mean(axis=0)
    covariance, wanted_covariance = (np.cov(rows.T, bias=True) for rows in (features, target))
    of_covariance = ((covariance - wanted_covariance) ** 2).sum() / (wanted_covariance**2).sum()
    return float((((mean - wanted) ** 2).sum() / (wanted**2).sum() + of_covariance) / 2)


def sliced_error(features: np.ndarray, target: np.ndarray) -> float:
    directions = np.random.RandomState(0).standard_normal((32, features.shape[1]))
    directions /= np.sqrt((directions**2).sum(axis=1, keepdims=True))
    rows, wanted = directions @ features.T, directions @ target.T
    distance = np.mean([wasserstein_distance(a, b) for a, b in zip(rows, wanted, strict=True)])
    whole = np.mean([wasserstein_distance([0.0], b) for b in wanted])
    return float((distance / whole) ** 2)


def test_style_is_that_of_numpy_and_scipy(tiny: Evaluator) -> None:
    photograph, painting, pastiche = waves(0), waves(1, 80, 64), waves(2)
    measured = measures(tiny, references(tiny, photograph, painting), pastiche)
    seen = [features_for_style(tiny, image) for image in (pastiche, photograph, painting)]
    for name, error, tolerance in (
        ("style_gram", gram_error, 1e-4),
        ("style_moments", moments_error, 1e-4),
        ("style_swd", sliced_error, 5e-3),  # computed from every pixel here, but from 256 quantiles there
    ):
        totals = [sum(error(*maps) for maps in zip(one, seen[2], strict=True)) for one in seen[:2]]
        assert measured[name] == pytest.approx(totals[0] / totals[1], rel=tolerance), name


def table(rows: np.ndarray) -> np.ndarray:
    return metrics._quantiles(rows.astype(np.float32))


@pytest.mark.parametrize(("pixels", "others", "tolerance"), [(256, 256, 1e-5), (4000, 1500, 1e-2), (40, 900, 3e-2)])
def test_quantiles_give_wasserstein_distances(pixels: int, others: int, tolerance: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        rows, target = random.gamma(2, size=(1, pixels)), random.gamma(3, size=(1, others))
        expected = wasserstein_distance(rows[0], target[0])
        assert np.mean(np.abs(table(rows) - table(target))) == pytest.approx(expected, rel=tolerance)


def test_wasserstein_distance_of_a_shift_and_of_scaling() -> None:
    rows = np.random.default_rng(0).gamma(2, size=(32, 777))
    assert np.mean(np.abs(table(rows + 3) - table(rows))) == pytest.approx(3, rel=1e-5)
    assert metrics._sliced(table(0 * rows), table(rows)) == pytest.approx(1, rel=1e-5)
    assert metrics._sliced(table(1.25 * rows), table(rows)) == pytest.approx(0.25, rel=1e-5)
    assert metrics._sliced(table(0 * rows), table(0 * rows)) == 0


# --- structure and colour ----------------------------------------------------------------------------------


def ssim_by_hand(first: np.ndarray, second: np.ndarray) -> float:
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def smoothed(values: np.ndarray) -> np.ndarray:
        return np.einsum("ijkl,kl->ij", np.lib.stride_tricks.sliding_window_view(values, (11, 11)), window)

    m, n = smoothed(first), smoothed(second)
    s2, t2, c = smoothed(first**2) - m**2, smoothed(second**2) - n**2, smoothed(first * second) - m * n
    values = (2 * m * n + 0.01**2) * (2 * c + 0.03**2) / ((m**2 + n**2 + 0.01**2) * (s2 + t2 + 0.03**2))
    return float(values.mean())


def test_ssim_is_the_article_s(tiny: Evaluator) -> None:
    photograph, pastiche = waves(0), waves(2)
    luma = [np.asarray(image[0], np.float64) @ [0.299, 0.587, 0.114] for image in (pastiche, photograph)]
    measured = measures(tiny, references(tiny, photograph, photograph), pastiche)["ssim"]
    assert measured == pytest.approx(ssim_by_hand(*luma), rel=1e-6)


def test_colour_distance_between_flat_pictures_is_delta_e(tiny: Evaluator) -> None:
    # The published L*a*b* of sRGB's primaries: (53.24, 80.09, 67.20), (32.30, 79.19, -107.86)
    seen = references(tiny, flat((0.5, 0.5, 0.5)), flat((0.0, 0.0, 1.0)))
    red = measures(tiny, seen, flat((1.0, 0.0, 0.0)))["colour_distance"]
    assert red == pytest.approx(np.sqrt(20.94**2 + 0.9**2 + 175.06**2), rel=0.04)
    darker, lighter = (flat(tuple(lab2rgb([level, 0.0, 0.0]))) for level in (50.0, 62.0))
    assert measures(tiny, references(tiny, darker, lighter), darker)["colour_distance"] == pytest.approx(12, abs=1e-3)


def test_colour_distance_does_not_know_where_colours_are(tiny: Evaluator) -> None:
    image = waves(0)
    turned = image[:, ::-1, ::-1]
    assert measures(tiny, references(tiny, image, turned), image)["colour_distance"] == pytest.approx(0, abs=1e-4)


def test_all_directions_of_colour_count_about_alike() -> None:
    shifts = np.random.default_rng(0).standard_normal((2000, 3))
    shifts /= np.linalg.norm(shifts, axis=1, keepdims=True)
    lengths = 2 * np.mean(np.abs(metrics._hemisphere() @ shifts.T), axis=0)
    np.testing.assert_allclose(lengths, 1, atol=0.04)


# --- known answers -----------------------------------------------------------------------------------------


def test_the_photograph_itself(tiny: Evaluator) -> None:
    photograph, painting = waves(0), waves(1)
    found = measures(tiny, references(tiny, photograph, painting), photograph)
    assert (found["lpips"], found["content_distance"]) == pytest.approx((0, 0), abs=1e-9)
    assert found["ssim"] == pytest.approx(1)
    style = {name: value for name, value in found.items() if name.startswith("style")}
    assert style == pytest.approx(dict.fromkeys(style, 1.0), rel=1e-5)
    assert found["score"] == pytest.approx(4, rel=1e-5)


def test_the_painting_itself(tiny: Evaluator) -> None:
    photograph, painting = waves(0), waves(1)
    found = measures(tiny, references(tiny, photograph, painting), painting)
    for name in ("style_distance", "style_gram", "style_moments", "style_swd", "colour_distance"):
        assert found[name] == pytest.approx(0, abs=1e-6)
    assert found["score"] == pytest.approx(1 + found["lpips"], rel=1e-6)
    assert found["lpips"] > 0.01


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5), (0.485, 0.456, 0.406), (1, 0, 0), (0.1, 0.2, 0.9)]
)
def test_a_painting_of_one_colour(colour: tuple[float, float, float], tiny: Evaluator) -> None:
    """Kind: division by the response to a target that has none, such as the grey that the network subtracts."""
    photograph, painting = waves(0), flat(colour)
    seen = references(tiny, photograph, painting)
    names = ("style_distance", "style_gram", "style_moments", "style_swd")
    found = {share: measures(tiny, seen, (1 - share) * photograph + share * painting) for share in (0, 0.5, 1)}
    assert all(np.isfinite(value) for of_one in found.values() for value in of_one.values())
    assert [found[0][name] for name in names] == pytest.approx([1] * 4, rel=1e-5)
    assert [found[1][name] for name in names] == pytest.approx([0] * 4, abs=1e-6)
    assert all(0.01 < found[0.5][name] < 0.99 for name in names)


def test_sliced_distances_are_relative_however_small_the_target() -> None:
    """Kind: a smallest denominator that is not small compared with the number that it divides."""
    table = np.linspace(-1, 1, 32 * 256, dtype=np.float32).reshape(32, 256)
    for scale in (1e-8, 1e-3, 1e6):
        assert metrics._sliced(2 * scale * table, scale * table) == pytest.approx(1, rel=1e-5)
    silent = np.zeros_like(table)
    assert metrics._sliced(silent, silent) == 0
    assert metrics._sliced(table, silent) == pytest.approx(np.abs(table).mean(), rel=1e-5)


def test_photograph_and_painting_the_same(tiny: Evaluator) -> None:
    image = waves(0)
    seen = references(tiny, image, image)
    assert measures(tiny, seen, image)["style_distance"] == 0
    assert all(np.isfinite(value) for value in measures(tiny, seen, waves(1)).values())


def test_style_is_the_distance_itself_where_the_photograph_has_none(tiny: Evaluator) -> None:
    """Kind: a ratio whose denominator vanishes: its limit must neither explode nor hide which picture is nearer."""
    image, other = waves(0), waves(1)
    seen = references(tiny, image, image)
    near, far = (measures(tiny, seen, (1 - share) * image + share * other) for share in (0.2, 1.0))
    maps = [features_for_style(tiny, picture) for picture in (other, image)]
    errors = [gram_error(*layer) for layer in zip(*maps, strict=True)]
    assert far["style_gram"] == pytest.approx(np.mean(errors), rel=1e-4)
    for name in ("score", "style_distance", "style_gram", "style_moments", "style_swd"):
        assert 0 < near[name] < far[name] < 100, name
    assert measures(tiny, seen, image)["score"] == 1


def test_a_photograph_however_near_to_the_painting_is_at_one(tiny: Evaluator) -> None:
    image, other = waves(0), waves(1)
    photograph = 0.97 * image + 0.03 * other
    found = measures(tiny, references(tiny, photograph, image), photograph)
    style = {name: value for name, value in found.items() if name.startswith("style")}
    assert style == pytest.approx(dict.fromkeys(style, 1.0), rel=1e-3)


def test_summaries(tiny: Evaluator) -> None:
    found = measures(tiny, references(tiny, waves(0), waves(1)), waves(2))
    parts = [found[name] for name in ("style_gram", "style_moments", "style_swd")]
    assert found["style_distance"] == pytest.approx(np.mean(parts))
    assert found["score"] == pytest.approx((1 + found["lpips"]) * (1 + found["style_distance"]) ** 2)


def test_measures_move_as_documented(evaluator: Evaluator) -> None:
    photograph, painting = pair("flower")
    _, blurred = pair("blurred")
    _, noisy = pair("noisy")
    _, nearly = pair("nearly the same")
    look = partial(measures, evaluator, references(evaluator, photograph, painting))
    half, most = (look((1 - share) * photograph + share * painting) for share in (0.5, 0.85))
    clean, worse, soft = look(nearly), look(noisy), look(blurred)
    for name in catalogue.MEASURES.keys() - {"score", "noise"}:
        towards_painting = name.startswith(("style", "colour"))
        better, worst = (most, half) if towards_painting else (half, most)
        ascending = catalogue.MEASURES[name].direction == "higher"
        assert (better[name] > worst[name]) == ascending, name
    assert (clean["lpips"], soft["lpips"]) == pytest.approx((LPIPS["nearly the same"], LPIPS["blurred"]), rel=1e-4)
    assert clean["lpips"] < soft["lpips"] < worse["lpips"]
    assert clean["ssim"] > soft["ssim"] > worse["ssim"]
    busy = partial(noise, content_image=photograph, style_image=painting)
    assert busy(blurred) < 0.5 * busy(photograph) < busy(photograph) < busy(nearly) < busy(noisy)


def test_every_measure_is_documented(tiny: Evaluator) -> None:
    image = waves(0)
    assert [*measures(tiny, references(tiny, image, image), image), "noise"] == list(catalogue.MEASURES)
    for name, measure in catalogue.MEASURES.items():
        assert measure.name == name
        assert measure.direction in ("lower", "higher")
        assert measure.label and len(measure.label) <= 8
        texts = (measure.summary, measure.formula, measure.range, measure.caveat, measure.source)
        assert all(text and "\n" not in text and "  " not in text for text in texts)


# --- sizes -------------------------------------------------------------------------------------------------


def test_the_size_of_the_run_does_not_matter(tiny: Evaluator) -> None:
    seen = references(tiny, waves(0), waves(1))
    expected = measures(tiny, seen, waves(2))
    for height, width in ((96, 128), (150, 200)):
        found = measures(tiny, seen, waves(2, height, width))
        assert found == pytest.approx(expected, rel=0.02, abs=0.002)
    assert measures(tiny, seen, waves(0, 150, 200))["score"] == pytest.approx(4, abs=0.04)


def test_pictures_are_resized_as_they_are_read() -> None:
    image = waves(0, 150, 200)
    channels = [Image.fromarray(np.asarray(image[0, :, :, channel])) for channel in range(3)]
    expected = np.stack([np.asarray(one.resize((64, 48), Image.Resampling.LANCZOS)) for one in channels], axis=-1)
    np.testing.assert_allclose(metrics._resized(image, (48, 64))[0], np.clip(expected, 0, 1), atol=1e-5)
    assert metrics._resized(image, (150, 200)) is image


def test_small_pictures_and_strips(tiny: Evaluator) -> None:
    strip = waves(0, 16, 120)
    seen = references(tiny, strip, waves(1, 21, 32))
    assert seen.photograph.luma.shape == (32, 240)
    assert measures(tiny, seen, strip)["score"] == pytest.approx(4, rel=1e-5)
    assert all(np.isfinite(value) for value in measures(tiny, seen, waves(2)).values())


# --- noise and the front -----------------------------------------------------------------------------------


def variation(image: jax.Array) -> float:
    pixels = np.asarray(image, np.float64)
    return float(np.mean(np.diff(pixels, axis=1) ** 2) + np.mean(np.diff(pixels, axis=2) ** 2))


def test_noise_is_total_variation_over_that_of_the_busier_input() -> None:
    smooth, busy, pastiche = waves(0), waves(1, 30, 40), waves(2, 40, 30)
    assert variation(busy) > variation(smooth)
    for inputs in ((smooth, busy), (busy, smooth)):
        assert noise(pastiche, *inputs) == pytest.approx(variation(pastiche) / variation(busy), rel=1e-5)
    assert noise(busy, smooth, busy) == 1
    grey = flat((0.5, 0.5, 0.5))
    assert noise(grey, grey, grey) == 0
    assert np.isfinite(noise(busy, grey, grey))


def test_pareto_front_is_that_of_brute_force() -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 5, 40):
        for _ in range(20):
            points = [tuple(point) for point in random.integers(0, 8, (count, 2)).tolist()]
            beaten = [any(p <= x and q <= y and (p, q) != (x, y) for p, q in points) for x, y in points]
            assert pareto_front(*zip(*points, strict=True)) == [not one for one in beaten]


def test_pareto_front_of_odd_points() -> None:
    nan, inf = float("nan"), float("inf")
    assert pareto_front([], []) == []
    assert pareto_front([1.0, 1.0, 2.0], [2.0, 2.0, 2.0]) == [True, True, False]
    assert pareto_front([nan, 0.0, 3.0, nan], [0.0, nan, 3.0, nan]) == [False, False, True, False]
    assert pareto_front([0.0, inf, inf], [inf, 0.0, inf]) == [True, True, False]
