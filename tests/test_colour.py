"""Whose colours a result has: the mathematics against NumPy in float64, and the settings through the real command.

The kinds of fault: chroma that is not the photograph's, in a picture or in any frame of a video; a frame that is held
to a coloured picture while it is solved in grey; a result that is measured against recoloured pictures; a run of an
earlier version that can no longer be repeated.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
import videos
import yaml
from command import DEFAULTS, OUT, Outcome, run_in_process
from mlflow import MlflowClient
from mlflow_server import runs_of
from PIL import Image
from test_camera import QUICK as CAMERA
from test_objective import make

from nst_exp.evaluation.evaluator import measure
from nst_exp.media.frame_conversion import resize
from nst_exp.media.image import locate, read_image, to_uint8
from nst_exp.media.video import Cut, probe, read_frames
from nst_exp.records.folder import RunFolder, run_folders
from nst_exp.records.record import identity
from nst_exp.runs import camera, image
from nst_exp.transfer.colour import (
    COLOURS,
    MATCHES,
    Colours,
    ColoursOfPhotograph,
    grey,
    histogram_matched,
    luma,
    luma_matched,
    recoloured,
    with_chroma_of,
)

CHINA, HARBOUR = (
    locate(f"pkg://{name}") for name in ("sklearn/datasets/images/china.jpg", "nst_exp/samples/night_harbour.jpg")
)
WEIGHTS = np.array([0.299, 0.587, 0.114])
BATCHED = "hydra.launcher.max_batch_size=8"
QUICK = ("steps=3", "video.steps=2", "video.window=1", "video.write=[video,frames]")

Levels = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float64]


def pixels_of(*, seed: int = 0, size: tuple[int, int] = (20, 30), least: float = 0.0, most: float = 1.0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(least, most, (1, *size, 3)), jnp.float32)


def flat(*colour: float) -> jax.Array:
    return jnp.broadcast_to(jnp.array(colour, jnp.float32), (1, 20, 30, 3))


def luma_of(pixels: npt.ArrayLike) -> Pixels:
    return np.asarray(pixels, np.float64) @ WEIGHTS


def chroma_of(pixels: npt.ArrayLike) -> Pixels:
    return np.asarray(pixels, np.float64) - luma_of(pixels)[..., None]


def assert_chroma(levels: Levels, photograph: Levels) -> None:
    """The chroma is that of the photograph to one level, and the luma is another one."""
    np.testing.assert_allclose(chroma_of(levels), chroma_of(photograph), atol=1.0)
    assert np.abs(luma_of(levels) - luma_of(photograph)).max() > 1.5


# --- the mathematics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0.7, 1.0])
def test_luma_is_matched_as_in_numpy(most: float) -> None:
    """Also where the matched luma would leave the range that a file can hold."""
    power = 4 if most == 1 else 1  # a dark painting with some light
    painting, photograph = pixels_of(seed=1, size=(25, 18)) ** power, pixels_of(seed=2, least=0.3, most=most)
    matched = np.asarray(luma_matched(painting, photograph), np.float64)
    own, wanted = luma_of(painting), luma_of(photograph)
    linear = (own - own.mean()) * wanted.std() / own.std() + wanted.mean()
    expected = np.clip(linear, 0, 1)
    np.testing.assert_allclose(matched, np.repeat(expected[..., None], 3, axis=-1), atol=1e-4)
    assert (linear.max() > 1) == (most == 1)
    if most < 1:
        np.testing.assert_allclose((matched.mean(), matched.std()), (wanted.mean(), wanted.std()), atol=1e-4)


def test_histograms_are_matched_as_in_numpy() -> None:
    """Pictures of one size have each value of the reference, in the order of their own values."""
    painting, photograph = pixels_of(seed=1), pixels_of(seed=2, least=0.2)
    matched = histogram_matched(painting, photograph)
    assert matched.dtype == jnp.float32
    for channel in range(3):
        ours, own, wanted = (np.asarray(picture)[..., channel].ravel() for picture in (matched, painting, photograph))
        np.testing.assert_allclose(ours[np.argsort(own)], np.sort(wanted), atol=1e-6)


@pytest.mark.parametrize(
    "content", [pixels_of(seed=2), flat(0.5, 0.5, 0.5), flat(1, 0, 0), flat(1, 1, 0), flat(1, 1, 1)]
)
@pytest.mark.parametrize("least", [-3.0, 0.0])
def test_the_chroma_is_exact_and_the_luma_as_near_as_it_can_be(content: jax.Array, least: float) -> None:
    """Also for luma far outside of what a file can hold, and for colours at the edge of what it can hold."""
    pastiche = pixels_of(seed=3, least=least, most=1 - least)
    result = np.asarray(with_chroma_of(content, pastiche), np.float64)
    assert -1e-6 <= result.min() <= result.max() <= 1 + 1e-6
    np.testing.assert_allclose(chroma_of(result), chroma_of(content), atol=1e-6)
    photograph = np.asarray(content, np.float64)
    limits = (luma_of(photograph) - photograph.min(-1), luma_of(photograph) + 1 - photograph.max(-1))
    np.testing.assert_allclose(luma_of(result), np.clip(luma_of(pastiche), *limits), atol=1e-5)


def test_the_chroma_survives_eight_bits() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    content = jnp.asarray(photograph[None], jnp.float32) / 255
    levels = to_uint8(with_chroma_of(content, pixels_of(seed=1, size=(64, 64), least=-0.2, most=1.2)))
    assert_chroma(levels, photograph)


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("match", MATCHES)
def test_pictures_of_one_colour_are_sound(name: str, match: str) -> None:
    colours, varied = COLOURS[name].of(match), pixels_of()
    for style, content in (
        (flat(0.2, 0.6, 0.4), varied),
        (varied, flat(0.5, 0.5, 0.5)),
        (flat(1, 0, 0), flat(0, 0, 1)),
    ):
        seen = colours.painting(style, content)
        assert seen.shape == style.shape
        assert bool(jnp.all((seen >= 0) & (seen <= 1)))
    if name != "painting":  # a painting of one colour has the mean colour of the photograph, or its mean luma
        seen, wanted = colours.painting(flat(0.2, 0.6, 0.4), varied), colours.photograph(varied)
        if match == "moments":
            np.testing.assert_allclose(seen, jnp.broadcast_to(wanted.mean((1, 2)), seen.shape), atol=5e-3)


def test_the_paintings_moments_are_matched() -> None:
    painting, photograph = pixels_of(seed=1), 0.4 + 0.2 * pixels_of(seed=2, size=(15, 40))
    seen = COLOURS["matched"].of("moments").painting(painting, photograph)
    np.testing.assert_array_equal(seen, recoloured(painting, photograph))
    ours, wanted = (np.asarray(picture, np.float64).reshape(-1, 3) for picture in (seen, photograph))
    np.testing.assert_allclose(ours.mean(0), wanted.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(wanted.T), atol=1e-5)


def test_a_smaller_picture_is_finished_with_a_smaller_photograph() -> None:
    photograph = pixels_of(size=(40, 60))
    result = ColoursOfPhotograph().finished(pixels_of(seed=1, size=(20, 30)), photograph)
    expected = jax.image.resize(photograph, (1, 20, 30, 3), "cubic", antialias=True)
    np.testing.assert_allclose(chroma_of(result), chroma_of(np.clip(expected, 0, 1)), atol=1e-6)


def test_a_grey_objective_sees_luma_alone(tmp_path: Path) -> None:
    objective, problem = make("relative", tmp_path)
    coloured = pixels_of(seed=4, size=(24, 20))
    in_grey = dataclasses.replace(objective, grey=True)
    (total, losses), (expected, terms) = in_grey.losses(problem, coloured), objective.losses(problem, grey(coloured))
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert losses.keys() == terms.keys()
    change = jax.grad(lambda pixels: in_grey.losses(problem, pixels)[0])(coloured)
    np.testing.assert_allclose(change / WEIGHTS, np.repeat(np.asarray(change / WEIGHTS)[..., :1], 3, -1), rtol=1e-3)
    np.testing.assert_allclose(luma(grey(coloured)), luma(coloured), atol=1e-6)


# --- pictures through the command --------------------------------------------------------------------------------


def painted(*arguments: str, folder: Path, code: int = 0) -> Outcome:
    folder.mkdir(exist_ok=True)
    done = run_in_process(*arguments, folder=folder)
    assert done.code == code, done.stderr
    return done


def levels_of(path: Path) -> Levels:
    return np.asarray(Image.open(path))


def photograph_at(size: int) -> Levels:
    return to_uint8(read_image(CHINA, size=size, aspect="keep", smallest_side=None, name="content"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over all options, at two scales, logged, with intermediate pictures."""
    folder = tmp_path_factory.mktemp("swept")
    grid = ("-m", "colour=painting,photograph,matched", "style_weight=0.1,0.3")
    painted(
        *grid,
        "size=44",
        "coarsest_size=30",
        "steps=12",
        "tracking=sqlite",
        "tracking.snapshots=2",
        BATCHED,
        folder=folder,
    )
    return folder


def test_a_sweep_over_colours(swept: Path) -> None:
    runs = run_folders(swept / OUT)
    assert [run.record.params["colour"] for run in runs] == [name for name in COLOURS for _ in range(2)]
    assert [run.record.params.get("colour.match") for run in runs] == [None] * 4 + ["moments"] * 2
    pictures = [levels_of(run.path / "pastiche.png") for run in runs]
    assert len({picture.tobytes() for picture in pictures}) == 6
    for picture in pictures[2:4]:
        assert_chroma(picture, photograph_at(44))
    assert np.abs(chroma_of(pictures[0]) - chroma_of(photograph_at(44))).max() > 2
    with (swept / OUT / "table.csv").open() as file:
        assert {row["colour"] for row in csv.DictReader(file)} == set(COLOURS)
    assert "photograph" in (swept / OUT / "report.html").read_text()
    logged = [run.data.params.get("colour") for run in runs_of(MlflowClient(f"sqlite:///{swept}/outputs/mlflow.db"))]
    assert set(COLOURS) <= {*logged}


def test_intermediate_pictures_have_their_final_colours(swept: Path) -> None:
    (first, middle, *_) = sorted((run_folders(swept / OUT)[2].path / "progress").glob("*.png"))
    content = jnp.asarray(photograph_at(44)[None], jnp.float32) / 255
    for path in (first, middle):
        picture = levels_of(path)
        expected = 255 * jnp.clip(jax.image.resize(content, (1, *picture.shape), "cubic", antialias=True), 0, 1)[0]
        np.testing.assert_allclose(chroma_of(picture), chroma_of(expected), atol=1.5)  # both are rounded
        assert (np.abs(picture - expected).max() < 2) == (path == first)  # which is the photograph: init=content


def test_batched_and_basic_agree(swept: Path, tmp_path: Path) -> None:
    """What needs no grey pictures shares a batch."""
    grid = (
        "-m",
        "colour=painting,photograph,matched",
        "style_weight=0.1,0.3",
        "size=44",
        "coarsest_size=30",
        "steps=12",
    )
    painted(*grid, "hydra/launcher=basic", folder=tmp_path)
    for ours, theirs in zip(run_folders(swept / OUT), run_folders(tmp_path / OUT), strict=True):
        assert ours.record.identity == theirs.record.identity
        assert theirs.result.batch_size == 1
        assert ours.result.batch_size == (2 if ours.record.params["colour"] == "photograph" else 4)
        assert ours.result.evaluations == theirs.result.evaluations
        np.testing.assert_allclose(ours.result.total_loss, theirs.result.total_loss, rtol=1e-3)
        pictures = (levels_of(run.path / "pastiche.png").astype(int) for run in (ours, theirs))
        assert np.abs(np.subtract(*pictures)).max() <= 1


def test_results_are_measured_against_the_original_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = mock.Mock(wraps=measure)
    monkeypatch.setattr(image, "measure", measured)
    painted("colour=photograph", folder=tmp_path)
    (call,) = measured.call_args_list
    _, pair, content, written, _ = call.args
    assert (pair.content, pair.style) == (CHINA, HARBOUR)
    np.testing.assert_array_equal(to_uint8(content), photograph_at(32))
    np.testing.assert_array_equal(to_uint8(written), levels_of(tmp_path / OUT / "pastiche.png"))


def test_every_initial_picture_goes_with_grey_pictures(tmp_path: Path) -> None:
    painted("-m", "colour=photograph", "init=content,colours,noise,style", folder=tmp_path)
    pictures = [levels_of(run.path / "pastiche.png") for run in run_folders(tmp_path / OUT)]
    for picture in pictures:
        assert_chroma(picture, photograph_at(32))
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_histogram(tmp_path: Path) -> None:
    painted("-m", "colour=matched", "colour.match=moments,histogram", folder=tmp_path)
    pictures = [levels_of(run.path / "pastiche.png") for run in run_folders(tmp_path / OUT)]
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize("colour", [(128, 128, 128), (255, 0, 0), (0, 0, 0)])
def test_a_photograph_of_one_colour_and_a_painting_of_one_colour(colour: tuple[int, int, int], tmp_path: Path) -> None:
    for name in ("content", "style"):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
    painted("-m", "content=content.png", "colour=photograph,matched", folder=tmp_path)
    levels = levels_of(tmp_path / OUT / "0" / "pastiche.png")
    np.testing.assert_allclose(chroma_of(levels), np.broadcast_to(chroma_of(colour), levels.shape), atol=1.0)
    painted("-m", "style=style.png", "colour=photograph,matched", "hydra.sweep.dir=styles", folder=tmp_path)
    np.testing.assert_allclose(
        chroma_of(levels_of(tmp_path / "styles" / "0" / "pastiche.png")), chroma_of(photograph_at(32)), atol=1.0
    )


REFUSED = {
    "colour=paintng": "colour=paintng: choose one of matched, painting, photograph",
    "colour.match=moments": "colour.match=moments: with colour=painting it has no meaning there, leave it null",
    "colour=photograph colour.match=histogram": "with colour=photograph it has no meaning there, leave it null",
    "colour=matched colour.match=null": "colour.match=None: with colour=matched it needs a value",
    "colour=matched colour.match=moment": "colour.match=moment: choose one of moments, histogram",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_refused(arguments: str, tmp_path: Path) -> None:
    (line,) = painted(*arguments.split(), folder=tmp_path, code=1).stderr.splitlines()
    assert REFUSED[arguments] in line


# --- runs of earlier versions, and the same run again ------------------------------------------------------------


def test_a_configuration_without_colours_gives_the_same_run(tmp_path: Path) -> None:
    painted(folder=tmp_path)
    config = yaml.safe_load((tmp_path / OUT / "config.yaml").read_text())
    assert config.pop("colour") == {"name": "painting", "match": None}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(config))
    old = ("--config-dir", ".", "--config-name", "old", "hydra.run.dir=again")
    assert run_in_process(*old, folder=tmp_path, defaults={}).code == 0
    first, again = RunFolder(tmp_path / OUT), RunFolder(tmp_path / "again")
    assert first.record.identity == again.record.identity
    assert first.result.sha256 == again.result.sha256


def test_the_default_is_not_part_of_the_identity() -> None:
    earlier = {"size": 320}
    assert identity(earlier | {"colour": "painting"}, {}) == identity(earlier, {})
    assert identity(earlier | {"colour": "photograph"}, {}) != identity(earlier, {})


@pytest.mark.parametrize("point", ["0", "2", "4"])
def test_reproduced(point: str, swept: Path, tmp_path: Path) -> None:
    """Point 0 as an earlier version logged it, without colours."""
    client, files = MlflowClient(f"sqlite:///{swept}/outputs/mlflow.db"), tmp_path / "files"
    shutil.copytree(swept / OUT / point, files)
    if point == "0":
        config = yaml.safe_load((files / "config.yaml").read_text())
        del config["colour"]
        (files / "config.yaml").write_text(yaml.safe_dump(config))
    run_id = client.create_run(runs_of(client)[0].info.experiment_id).info.run_id
    client.log_artifacts(run_id, str(files))
    client.set_terminated(run_id, "FINISHED")
    command = [sys.executable, "-m", "nst_exp.reproduce", run_id, f"--tracking-uri=sqlite:///{swept}/outputs/mlflow.db"]
    environment = os.environ | {"NST_EXP_CACHE": DEFAULTS["cache_dir"]}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "identical" in done.stdout, done.stdout + done.stderr
    assert "identity" not in done.stdout


# --- videos and cameras ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos.write(tmp_path_factory.mktemp("video") / "video.mp4", frames=5)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video in which nothing moves, with strong colours."""
    folder = tmp_path_factory.mktemp("still")
    scene = videos.scene(0)
    with mock.patch.object(videos, "scene", return_value=scene):
        return videos.write(folder / "still.mp4", frames=5)


def source_frames(path: Path, size: tuple[int, int] = (32, 22)) -> list[Levels]:
    return [resize(frame.levels, size) for frame in read_frames(probe(path, ""), Cut(), on_corrupt="error", name="")]


def frames_in(folder: Path, pass_: int = 1) -> list[Levels]:
    return [levels_of(path) for path in sorted((folder / "frames" / f"pass{pass_}").glob("*.png"))]


def assert_all_chroma(frames: Sequence[Levels], source: Sequence[Levels]) -> None:
    assert len(frames) == len(source)
    for frame, original in zip(frames, source, strict=True):
        assert_chroma(frame, original)


@pytest.mark.parametrize("mode", ["independent", "warm_start", "flow", "flow video.passes=2"])
def test_every_frame_has_the_chroma_of_its_own_source(mode: str, video: Path, tmp_path: Path) -> None:
    settings = (*f"video={mode}".split(), "colour=photograph", f"content={video}", *QUICK)
    painted(*settings, folder=tmp_path)
    for pass_ in (1, 2) if "passes" in mode else (1,):
        assert_all_chroma(frames_in(tmp_path / OUT, pass_), source_frames(video))


@pytest.mark.parametrize("mode", ["warm_start", "flow"])
@pytest.mark.parametrize("colour", ["photograph", "matched"])
def test_a_video_that_is_continued_is_the_same(mode: str, colour: str, video: Path, tmp_path: Path) -> None:
    """Two frames are painted by a first command, and a second one takes them over."""
    settings = (f"video={mode}", f"colour={colour}", f"content={video}", *QUICK)
    painted(*settings, "video.end=2", "hydra.run.dir=begun", folder=tmp_path)
    painted(*settings, folder=tmp_path)
    taken_over = tmp_path / OUT / "frames" / "pass1" / "000001.png"
    assert taken_over.read_bytes() == (tmp_path / "begun" / "frames" / "pass1" / "000001.png").read_bytes()
    painted(*settings, "force=true", "hydra.run.dir=undisturbed", folder=tmp_path)
    for one, other in zip(frames_in(tmp_path / OUT), frames_in(tmp_path / "undisturbed"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_frames_are_held_to_grey_pictures(still: Path, tmp_path: Path) -> None:
    """Where nothing moves, a frame starts next to the frame before, so the temporal loss is next to nothing."""
    painted("colour=photograph", f"content={still}", *QUICK, folder=tmp_path)
    with (tmp_path / OUT / "trace.csv").open() as file:
        losses = [float(row["loss/temporal"]) for row in list(csv.DictReader(file))[1:]]
    chroma = np.mean(np.square(chroma_of(source_frames(still)[0]) / 255))
    assert 0 < max(losses) < 0.02 * chroma


@pytest.mark.parametrize("mode", ["independent", "warm_start", "flow"])
def test_a_still_video_flickers_no_more_than_with_the_paintings_colours(mode: str, still: Path, tmp_path: Path) -> None:
    painted("-m", "colour=painting,photograph,matched", f"video={mode}", f"content={still}", *QUICK, folder=tmp_path)
    flicker = [run.result.measures["flicker"] for run in run_folders(tmp_path / OUT)]
    assert max(flicker[1:]) <= flicker[0] + 1 / 255 / 10  # a tenth of a level


@pytest.mark.parametrize("name", ["photograph", "matched"])
def test_the_painting_is_recoloured_once_to_the_first_frame(
    name: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours, seen = COLOURS[name], list[jax.Array]()
    painting = colours.painting

    def recorded(self: Colours, style_image: jax.Array, content_image: jax.Array) -> jax.Array:
        seen.append(content_image)
        return painting(self, style_image, content_image)

    monkeypatch.setattr(colours, "painting", recorded)
    painted(f"colour={name}", f"content={video}", "video.start=1", *QUICK, folder=tmp_path)
    (content,) = seen
    np.testing.assert_array_equal(to_uint8(content), source_frames(video)[1])


def test_videos_in_a_batch(video: Path, tmp_path: Path) -> None:
    grid = ("-m", "colour=painting,photograph,matched", "style_weight=0.1,0.3", f"content={video}", *QUICK)
    for size in (8, 1):
        painted(
            *grid,
            f"hydra.launcher.max_batch_size={size}",
            "registry=null",
            f"hydra.sweep.dir=of_{size}",
            folder=tmp_path,
        )
    for ours, theirs in zip(run_folders(tmp_path / "of_8"), run_folders(tmp_path / "of_1"), strict=True):
        assert ours.result.batch_size == (2 if ours.record.params["colour"] == "photograph" else 4)
        for one, other in zip(frames_in(ours.path), frames_in(theirs.path), strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize("mode", ["flow", "independent"])
def test_a_camera_keeps_the_chroma_of_each_frame(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Levels, Levels]] = []
    pair = camera._pair

    def recorded(content: Levels, pastiche: Levels) -> Levels:
        shown.append((content, pastiche))
        return pair(content, pastiche)

    monkeypatch.setattr(camera, "_pair", recorded)
    painted(*CAMERA, "camera.seconds=0.3", f"video={mode}", "colour=photograph", folder=tmp_path)
    count = RunFolder(tmp_path / OUT).result.frames
    assert count
    frames = shown[-count:]
    for content, pastiche in frames:
        np.testing.assert_allclose(chroma_of(pastiche), chroma_of(content), atol=1.0)
    np.testing.assert_array_equal(levels_of(tmp_path / OUT / "pastiche.png"), frames[-1][1])
    assert json.loads((tmp_path / OUT / "record.json").read_text())["params"]["colour"] == "photograph"
