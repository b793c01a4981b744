"""The moving average of the iterates: against NumPy in float64, in batches, and through the real command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_stylize as pictures
import videos
import yaml
from command import OUT, run_in_process
from compilations import compilations
from test_camera import recorded
from test_solver import METHODS, SHAPE, Formula, bowl

from nst_exp.outcome import Outcome
from nst_exp.transfer.methods import Iterate, LossFunction, Method
from nst_exp.transfer.solver import CHUNK, Average, Problems, SolverState, advance, begin, conclude
from nst_exp.transfer.stylize import BatchEntry, Progress, Schedule, Solution, Stop
from nst_exp.types import Image, Scalar

START = jnp.full(SHAPE, 0.5)
PROBLEMS = Problems.of([None])


def averaged(images: list[np.ndarray], decay: float) -> np.ndarray:
    """Kingma & Ba 2015, algorithm 1, in float64: m = decay m + (1 - decay) x, divided by 1 - decay^n."""
    moving = np.zeros(images[0].shape)
    for image in images:
        moving = decay * moving + (1 - decay) * image.astype(np.float64)
    return moving / (1 - decay ** len(images))


@pytest.mark.parametrize("decay", [1e-3, 0.5, 0.9, 0.99, 0.999999])
def test_the_average_is_adam_s(decay: float) -> None:
    images = list(np.random.default_rng(0).uniform(size=(200, *SHAPE)).astype(np.float32))
    average = Average.of(jnp.asarray(images[0]), jnp.float32(decay))
    for count, image in enumerate(images[1:], start=2):
        average = average.including(jnp.asarray(image))
        if count in (2, 10, 200):
            np.testing.assert_allclose(average.image, averaged(images[:count], decay), atol=1e-5)


def test_the_average_of_one_picture_again_and_again_is_that_picture() -> None:
    average = Average.of(START, jnp.float32(0.99))
    for _ in range(5):
        average = average.including(START)
    np.testing.assert_array_equal(average.image, START)


# --- the solver ------------------------------------------------------------------------------------------------------


def walked(method: Method, loss: Formula, decay: float, steps: int) -> tuple[SolverState, list[np.ndarray]]:
    """The state after steps of a single entry, one at a time, and the pictures that it went through."""
    state, images = begin(loss, method, PROBLEMS, START[None], jnp.array([decay])), [np.asarray(START)]
    for _ in range(steps):
        restarts = int(state.restarts[0])
        state, _ = advance(loss, method, PROBLEMS, state, jnp.array([1]))
        if int(state.restarts[0]) == restarts:
            images.append(np.array(state.at.image[0]))
    return state, images


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_every_method_is_averaged(name: str, decay: float) -> None:
    state, images = walked(METHODS[name], Formula(bowl), decay, 12)
    np.testing.assert_allclose(state.average.image[0], averaged(images, decay), atol=1e-5)
    whole = begin(Formula(bowl), METHODS[name], PROBLEMS, START[None], jnp.array([decay]))
    for steps in (CHUNK, 12 - CHUNK):
        whole, _ = advance(Formula(bowl), METHODS[name], PROBLEMS, whole, jnp.array([steps]))
    np.testing.assert_allclose(whole.average.image, state.average.image, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Walk:
    """A method that goes along a known way, whatever the loss is."""

    def start(self, function: LossFunction, image: Image) -> Iterate:
        total, losses = function(image)
        return Iterate(image, total, losses, jnp.ones_like(image), jnp.int32(1), jnp.int32(0))

    def step(self, function: LossFunction, at: Iterate) -> Iterate:
        step = at.memory + 1
        image = START + 0.1 * jnp.sin(step.astype(jnp.float32))
        total, losses = function(image)
        return Iterate(image, total, losses, jnp.ones_like(image), jnp.int32(1), step)

    def restart(self, at: Iterate, shrink: Scalar) -> Iterate:
        return dataclasses.replace(at, memory=at.memory + 1)


def test_a_rejected_step_is_not_averaged() -> None:
    """The fifth step of the way is far below the start, where the loss is not finite."""

    def guarded(image: jax.Array) -> jax.Array:
        return jnp.where(jnp.mean(image) < 0.5 - 0.0958, jnp.nan, 1 + bowl(image))

    state, images = walked(Walk(), Formula(guarded), 0.8, 9)
    way = [np.asarray(START) + 0.1 * np.sin(step) for step in range(10)]
    assert int(state.restarts[0]) == 1
    np.testing.assert_allclose(state.average.image[0], averaged(way[:5] + way[6:], 0.8), atol=1e-6)
    assert len(images) == 9


def test_the_result_is_the_average_and_its_loss() -> None:
    state, images = walked(METHODS["adam"], Formula(bowl), 0.9, 6)
    evaluations, expected = int(state.evaluations[0]), averaged(images, 0.9)
    done = conclude(Formula(bowl), PROBLEMS, state)
    np.testing.assert_allclose(done.best_image[0], expected, atol=1e-5)
    np.testing.assert_allclose(done.best_total[0], bowl(jnp.asarray(expected, jnp.float32)), rtol=1e-5)
    np.testing.assert_array_equal(done.best_losses["content"], done.best_total)
    assert int(done.evaluations[0]) == evaluations + 1


def test_without_averaging_the_result_is_the_best_iterate() -> None:
    state, _ = walked(METHODS["adam"], Formula(bowl), 0.0, 6)
    before = [np.array(leaf) for leaf in jax.tree.leaves(state)]
    done = jax.tree.leaves(conclude(Formula(bowl), PROBLEMS, state))
    for leaf, other in zip(before, done, strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_an_entry_without_steps_stays_as_it_is() -> None:
    problems = Problems.of([None, None])
    state = begin(Formula(bowl), METHODS["adam"], problems, jnp.stack([START, START]), jnp.array([0.9, 0.9]))
    state, _ = advance(Formula(bowl), METHODS["adam"], problems, state, jnp.array([5, 3]))
    before = np.array(state.average.image)
    state, _ = advance(Formula(bowl), METHODS["adam"], problems, state, jnp.array([0, 3]))
    np.testing.assert_array_equal(state.average.image[0], before[0])
    assert not np.array_equal(state.average.image[1], before[1])


# --- pictures --------------------------------------------------------------------------------------------------------

SCHEDULE = Schedule(((17, 23), (24, 32)), 30, "content", Stop(improvement=0.02, window=5))
ENTRIES = [
    BatchEntry(pictures.weights(content), pictures.CONTENT, pictures.STYLE, averaging=averaging)
    for content, averaging in [(1.0, 0.0), (1.0, 0.7), (4.0, 0.95)]
]


def test_a_batch_agrees_with_one_at_a_time(tmp_path: Path) -> None:
    """The first entry is not averaged, and the others have different decays; all are compiled together."""
    seen: list[Progress] = []
    before = compilations()
    together = pictures.solve_entries(tmp_path, SCHEDULE, seen, ENTRIES)
    assert compilations() == before + 2  # one for each scale
    for index, entry in enumerate(ENTRIES):
        solution, alone = together[index].get(), solved_alone(tmp_path, entry).get()
        assert (solution.steps, solution.evaluations) == (alone.steps, alone.evaluations)
        np.testing.assert_allclose(solution.total_loss, alone.total_loss, rtol=1e-3)
        np.testing.assert_allclose(solution.pastiche, alone.pastiche, atol=1e-2)
        scales = 2 * (2 if entry.averaging else 1)  # each begins with an evaluation, and an average is another one
        assert solution.evaluations == solution.steps + scales


def solved_alone(tmp_path: Path, entry: BatchEntry) -> Outcome[Solution]:
    (outcome,) = pictures.solve_entries(tmp_path, SCHEDULE, [], [entry])
    return outcome


def test_the_next_scale_starts_from_the_average(tmp_path: Path) -> None:
    """The losses of the second scale are those of a solve that is given the average of the first one."""
    entry, stop = ENTRIES[1], Stop()
    both = Schedule(((17, 23), (24, 32)), 12, "content", stop)
    seen: list[Progress] = []
    (outcome,) = pictures.solve_entries(tmp_path, both, seen, [entry])
    average = next(chunk for chunk in seen if chunk.steps_done == 6).image
    assert average.shape == (1, 17, 23, 3)
    again: list[Progress] = []
    second = Schedule(((24, 32),), 6, "content", stop)
    (expected,) = pictures.solve_entries(tmp_path, second, again, [dataclasses.replace(entry, init_image=average)])
    np.testing.assert_allclose(seen[-1].trace.totals, again[-1].trace.totals, rtol=1e-5)
    np.testing.assert_allclose(outcome.get().pastiche, expected.get().pastiche, atol=1e-5)


# --- the command -----------------------------------------------------------------------------------------------------


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_a_sweep_over_averaging_compiles_once(tmp_path: Path) -> None:
    before = compilations()
    done = run_in_process("-m", "averaging=0,0.5,0.9", "size=36", "steps=4", "tracking=sqlite", folder=tmp_path)
    assert done.code == 0, done.stderr
    assert compilations() == before + 1
    points = [tmp_path / OUT / str(number) for number in range(3)]
    assert len({(point / "pastiche.png").read_bytes() for point in points}) == 3
    assert [result_of(point)["evaluations"] for point in points] == [5, 6, 6]
    best, *averages = [result_of(point)["total_loss"] for point in points]
    assert best < min(averages)
    records = [json.loads((point / "record.json").read_text()) for point in points]
    assert [record["params"]["averaging"] for record in records] == [0.0, 0.5, 0.9]


def test_a_configuration_of_an_earlier_version_is_the_same_run(tmp_path: Path) -> None:
    """The settings of this page are not in it. The run has the same identity and the same picture."""
    assert run_in_process(folder=tmp_path).code == 0
    config = yaml.safe_load((tmp_path / OUT / "config.yaml").read_text())
    for name in ("averaging", "pooling_gain", "steps_ratio", "layer_weights"):
        del config[name]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(config))
    arguments = ("--config-dir", ".", "--config-name", "old", "hydra.run.dir=again")
    done = run_in_process(*arguments, folder=tmp_path, defaults={})
    assert done.code == 0, done.stderr
    now, then = result_of(tmp_path / OUT), result_of(tmp_path / "again")
    assert (now["identity"], now["sha256"]) == (then["identity"], then["sha256"])


def test_frames_of_a_video_are_averaged(tmp_path: Path) -> None:
    """Also those that start from another frame; a frame that was painted already is not painted again."""
    videos.write(tmp_path / "video.mp4", frames=3)
    settings = (
        "content=video.mp4",
        "steps=3",
        "video.steps=3",
        "video.window=5",
        "video.write=[frames]",
        "video.codec=ffv1",
    )
    for averaging in (0, 0.8):
        arguments = (*settings, f"averaging={averaging}", f"hydra.run.dir={averaging}")
        done = run_in_process(*arguments, folder=tmp_path)
        assert done.code == 0, done.stderr
    plain, average = (result_of(tmp_path / name) for name in ("0", "0.8"))
    assert (plain["evaluations"], average["evaluations"]) == (3 * 4, 3 * 5)
    assert plain["sha256"]["pastiche"] != average["sha256"]["pastiche"]
    painted = sorted((tmp_path / "0.8" / "frames").rglob("*.png"))
    before = [frame.stat().st_mtime_ns for frame in painted]
    (tmp_path / "0.8" / "result.json").unlink()
    assert run_in_process(*settings, "averaging=0.8", "hydra.run.dir=0.8", folder=tmp_path).code == 0
    assert [frame.stat().st_mtime_ns for frame in painted] == before


def test_a_camera_is_averaged(tmp_path: Path) -> None:
    done = recorded("camera.seconds=0.3", "averaging=0.8", folder=tmp_path)
    assert done.code == 0, done.stderr
    result = result_of(tmp_path / OUT)
    assert result["evaluations"] == result["steps"] + 2 * result["frames"]
