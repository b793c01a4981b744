"""Optical flow, warping, occlusion, propagation between frames and steadiness, compared with known motions."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import videos

from nst_exp.evaluation.temporal import FramePair, Steadiness
from nst_exp.motion import flow_cache
from nst_exp.motion.flow import dense_inverse_search, hidden, motion_edges, still, warp
from nst_exp.motion.flow_cache import Flows
from nst_exp.motion.propagation import FlowBetween, PreviousFrame, blended, propagate


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture, in levels."""
    small = np.random.default_rng(seed).uniform(0, 255, (height // 4, width // 4, 3)).astype(np.float32)
    return np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def constant(height: int, width: int, x: float, y: float) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.float32), (height, width, 2)).copy()


def test_a_translation_is_found() -> None:
    wide = texture(80, 120)
    before, after = wide[:, 8:104], wide[:, 5:101]  # 3 px to the right
    found = dense_inverse_search(before, after)
    assert np.abs(found[10:-10, 10:-10] - (3, 0)).mean() < 0.1


def test_warping_by_whole_and_half_pixels() -> None:
    ramp = np.repeat(np.linspace(0.2, 0.8, 31, dtype=np.float32)[None, :, None], 9, axis=0).repeat(3, axis=2)
    whole = warp(ramp, constant(9, 31, 4, 0))
    np.testing.assert_allclose(whole[:, :20], ramp[:, 4:24], atol=1e-6)
    half = warp(ramp, constant(9, 31, 0.5, 0))
    np.testing.assert_allclose(half[:, 8:20], (ramp[:, 8:20] + ramp[:, 9:21]) / 2, atol=1e-4)


def test_what_flows_agree_on_is_visible_and_the_outside_is_not() -> None:
    backward, forward = constant(12, 20, -3, 0), constant(12, 20, 3, 0)
    gone = hidden(backward, forward)
    assert gone[:, :3].all()  # these columns came in from the left
    assert not gone[:, 3:].any()
    assert hidden(backward, constant(12, 20, -3, 0))[:, 3:].all()  # the flows disagree


def test_what_a_moving_square_uncovers_is_hidden() -> None:
    """A square of 8 px moves 4 px to the right over a background that stands still; the flows are exact."""
    backward, forward = constant(24, 40, 0, 0), constant(24, 40, 0, 0)
    forward[8:16, 10:18], backward[8:16, 14:22] = (4, 0), (-4, 0)
    gone = hidden(backward, forward)
    assert gone[8:16, 10:14].all()
    gone[8:16, 10:14] = False
    assert not gone.any()
    edges = motion_edges(backward)
    assert edges[8:16, 13:15].all()
    assert not edges[:6].any()
    assert still(backward).sum() == 24 * 40 - 64


def test_flows_are_the_same_remembered_or_not(tmp_path: Path) -> None:
    one, other = (0, texture(32, 48)), (1, texture(32, 48, seed=1))
    fresh = Flows("dis", None, 0).between(one, other)
    remembering = Flows("dis", tmp_path / "flows", 10)
    np.testing.assert_array_equal(remembering.between(one, other), fresh)
    assert [path.name for path in (tmp_path / "flows").iterdir()] == ["0-1.npy"]
    np.testing.assert_array_equal(remembering.between((0, one[1] * 0), (1, other[1] * 0)), fresh)  # from the cache
    (tmp_path / "flows" / "0-1.npy").write_bytes(b"damaged")
    np.testing.assert_array_equal(remembering.between(one, other), fresh)


def test_no_more_is_remembered_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_cache, "_used", {})
    limited = Flows("dis", tmp_path / "flows", 32 * 48 * 4 * 1.5 / 1e6)
    for index in range(3):
        limited.between((index, texture(32, 48)), (index + 1, texture(32, 48, seed=1)))
    assert len(list((tmp_path / "flows").iterdir())) == 1


def by_hand(shifts: dict[tuple[int, int], float]) -> FlowBetween:
    """Exact flows, given as the constant shift along x for each pair of frame indices."""
    return lambda one, other: constant(one[1].shape[0], one[1].shape[1], shifts[one[0], other[0]], 0)


def test_a_frame_is_held_to_the_nearest_that_shows_it() -> None:
    """Frame 2 shows all of frame 1 except its left 3 columns, which only frame 0 shows."""
    content = np.full((10, 24, 3), 40, np.uint8)
    first, second = (
        PreviousFrame(0, content, np.full_like(content, 100)),
        PreviousFrame(1, content, np.full_like(content, 200)),
    )
    flows = by_hand({(2, 1): -3, (1, 2): 3, (2, 0): 0, (0, 2): 0})
    found = propagate(flows, 2, content, [second, first], [1, 2])
    assert found.mask.all()
    np.testing.assert_allclose(found.anchor[:, :3], 100 / 255, atol=1e-6)
    np.testing.assert_allclose(found.anchor[:, 3:], 200 / 255, atol=1e-6)
    alone = propagate(flows, 2, content, [second, first], [1])
    assert not alone.mask[:, :3].any()
    np.testing.assert_allclose(alone.init[:, 0], 200 / 255, atol=1e-5)  # as the last frame painted the same colour
    np.testing.assert_allclose(alone.init[:, 14:], 200 / 255, atol=1e-6)
    later = blended(alone, np.full_like(content, 60))
    np.testing.assert_allclose(later.init[:, 14:], 130 / 255, atol=1e-6)
    np.testing.assert_allclose(later.init[:, 0], 60 / 255, atol=1e-6)


def test_steadiness() -> None:
    """Source and pastiche stand still; the pastiche gets 2 levels brighter with each frame, plus or minus 1."""
    levels, steadiness = [100, 103, 104, 107], Steadiness()
    content = np.full((8, 8, 3), 50, np.uint8)
    seen = [FramePair(content, np.full_like(content, level)) for level in levels]
    nothing, everywhere = constant(8, 8, 0, 0), np.ones((8, 8), bool)
    for before, after in itertools.pairwise(seen):
        steadiness.add(before, after, nothing, everywhere, everywhere)
    measures = steadiness.measures()
    steps = np.diff(levels) / 255
    assert measures["warping_error"] == pytest.approx(np.mean(3 * steps**2), rel=1e-4)
    assert measures["flicker"] == pytest.approx(np.mean(steps), rel=1e-4)
    assert measures["warping_error_source"] == measures["flicker_source"] == 0
    assert measures["brightness_drift"] == pytest.approx(7 / 255, rel=1e-4)
    assert measures["brightness_drift_source"] == 0


def test_a_moving_scene_is_as_steady_as_its_source() -> None:
    frames = [videos.scene(index, 96, 64) for index in range(2)]
    flows, steadiness = Flows("dis", None, 0), Steadiness()
    backward, forward = flows.between((1, frames[1]), (0, frames[0])), flows.between((0, frames[0]), (1, frames[1]))
    held = ~hidden(backward, forward) & ~motion_edges(backward)
    steadiness.add(FramePair(frames[0], frames[0]), FramePair(frames[1], frames[1]), backward, held, still(backward))
    measures = steadiness.measures()
    assert measures["warping_error"] == measures["warping_error_source"] < 1e-3
    assert measures["brightness_drift"] == measures["brightness_drift_source"] < 0.01


def test_what_is_new_comes_in_the_colours_of_the_last_picture() -> None:
    """The last picture swapped red and blue and halved the rest; no part of the new frame was visible before."""
    before, now = texture(16, 24), texture(16, 24, seed=1)
    painted = np.rint(before[..., ::-1] * 0.5 + 20).astype(np.uint8)
    far = by_hand({(1, 0): 100, (0, 1): -100})
    found = propagate(far, 1, now, [PreviousFrame(0, before, painted)], [1])
    assert not found.mask.any()
    np.testing.assert_allclose(found.init, (now[..., ::-1] * 0.5 + 20) / 255, atol=0.01)
