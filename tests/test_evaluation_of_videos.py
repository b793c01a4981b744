"""Measures of a video depend on its file and its painted frames, not on earlier measurements of the process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import av
import cv2
import jax
import numpy as np
import pytest
import videos
from cachetools import LRUCache
from command import DEFAULTS, run_in_process
from PIL import Image

from nst_exp.evaluation import evaluator, metrics
from nst_exp.media.image import sha256_of
from nst_exp.motion.frame_store import Frames
from nst_exp.records import record
from nst_exp.runs import inputs
from nst_exp.versions import installed_version

QUICK = ("steps=2", "video.steps=1", "video.window=1", "video=independent")


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    evaluator._descriptions.clear()
    yield
    evaluator._descriptions.clear()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos.write(tmp_path_factory.mktemp("video") / "video.mp4", frames=3, size=(96, 64), rate=videos.RATE)


def measured(video: Path, folder: Path, size: int) -> dict[str, float]:
    out = f"{size}-{len(list(folder.iterdir()))}"
    run = run_in_process(
        *QUICK, f"content={video}", f"size={size}", "registry=null", f"hydra.run.dir={out}", folder=folder
    )
    assert run.code == 0, run.stderr
    return json.loads((folder / out / "result.json").read_text())["measures"]


def test_measures_do_not_depend_on_what_was_measured_before(video: Path, tmp_path: Path) -> None:
    """Kind: a cached value whose key leaves out something that the value depends on, such as the size of a frame."""
    alone = measured(video, tmp_path, 64)
    evaluator._descriptions.clear()
    measured(video, tmp_path, 32)
    assert measured(video, tmp_path, 64) == alone


def test_a_frame_is_compared_with_its_source_at_its_own_size(video: Path) -> None:
    """Kind: a run at 32 px is compared with a reference that was reduced to 32 px, and so is blurred."""
    levels = videos.levels_of(video)[0]
    pair = evaluator.Pair(video, video, ("content", "style"), "keep", 0, levels)
    assert evaluator._photograph(pair).shape[2] == 256
    np.testing.assert_allclose(
        np.asarray(evaluator._photograph(pair)[0]) * 255,
        np.asarray(Image.fromarray(levels).resize((256, 171), Image.Resampling.LANCZOS, reducing_gap=3)),
        atol=0.51,
    )


def test_the_painting_is_looked_at_once(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = mock.Mock(wraps=metrics.describe_painting)
    monkeypatch.setattr(metrics, "describe_painting", described)
    measured(video, tmp_path, 32)
    assert described.call_count == 1


def test_what_is_remembered_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: caches that are limited by the number of their entries, so that the memory they hold is unknown."""
    caches = (evaluator._descriptions, evaluator._paintings, inputs._pictures)
    assert all(cache.maxsize <= 256e6 for cache in caches)
    description = metrics.Description({}, {}, {}, np.zeros((32, 256), np.float32), np.zeros((2, 2)))
    assert evaluator._descriptions.getsizeof(description) == 4 * 32 * 256 + 8 * 4

    Image.fromarray(videos.scene(0, 64, 64)).save(tmp_path / "a.png")
    size = 3 * 4 * 64 * 64
    monkeypatch.setattr(inputs, "_pictures", LRUCache(3 * size, getsizeof=inputs._pictures.getsizeof))

    def image(contents: str, side: int = 64) -> jax.Array:
        return inputs._picture("style", contents, tmp_path / "a.png", side, "keep", 16)

    first = image("one")
    assert image("two") is not first is image("one")  # the same path with other contents
    for contents in ("three", "four"):
        image(contents)
        assert image("one") is first  # the one that was used last is kept
    assert image("large", 128).nbytes > inputs._pictures.maxsize >= inputs._pictures.currsize
    assert image("one") is first


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(cv2, "__version__", "0.0.1"), (av, "library_versions", {"libavcodec": (1, 0, 0)})],
)
def test_flows_do_not_outlive_the_code_that_made_them(
    module: ModuleType, name: str, value: object, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind: a cache on disk whose key leaves out the version of the code that computes or decodes its entries."""

    def flows() -> set[str]:
        outcome = run_in_process(*QUICK, f"content={video}", "registry=null", folder=tmp_path)
        assert outcome.code == 0, outcome.stderr
        return {path.name for path in (Path(DEFAULTS["cache_dir"]) / "flow").glob(f"{sha256_of(video)[:32]}-*")}

    before = flows()
    monkeypatch.setattr(module, name, value)
    assert len(flows() - before) == 1


def test_everything_that_takes_part_in_a_result_is_among_the_versions() -> None:
    assert {"opencv-python-headless", "av", "scikit-image", "pillow", "jaxlib", "numpy"} <= set(record._PACKAGES)
    assert "unknown" not in map(installed_version, record._PACKAGES)
    tags = record.tags({})
    assert "libavcodec" in tags["version.ffmpeg"] and "libswscale" in tags["version.ffmpeg"]
    assert re.fullmatch(r".+ \(.+\)", tags["processor"])


def test_a_frame_is_decoded_once_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: pixels are decoded again although they were just decoded, or although only the numbers are needed."""
    kept = Frames(tmp_path)
    levels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    kept.write(1, 7, levels, {"pts": 3})
    opened = mock.Mock(wraps=Image.open)
    monkeypatch.setattr(Image, "open", opened)
    for _ in range(5):
        np.testing.assert_array_equal(kept.levels(1, 7), levels)
    assert opened.call_count == 1
    assert kept.numbers(1, 7) == {"pts": 3}
    kept.write(1, 7, levels[::-1], {"pts": 4})
    np.testing.assert_array_equal(kept.levels(1, 7), levels[::-1])
