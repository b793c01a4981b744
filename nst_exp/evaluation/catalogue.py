"""Describe the measures, and find the runs that no other run beats.

Nothing is computed from pictures here, so importing this module does not import JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan


@dataclass(frozen=True)
class Measure:
    """The description of one measure, as reports show it.

    Attributes:
        name: the key of the measure in result.json, in filters and in tables.
        label: a short name for the head of a column.
        summary: one sentence on what is measured.
        formula: how the value is computed.
        range: the values that occur, and the meaning of some of them.
        direction: `lower` or `higher`, whichever is better.
        best: the best value that is possible.
        caveat: what the measure does not tell, and how it can mislead.
        source: where the definition comes from.
    """

    name: str
    label: str
    summary: str
    formula: str
    range: str
    direction: str
    best: float
    caveat: str
    source: str


_STYLE_RANGE = "0 to about 1; 0 = the painting, 1 = the untouched photograph, more = further away than the photograph"
_TABLE = (
    Measure(
        name="score",
        label="score",
        summary="One number for choosing a run: content lost times style missed, each plus one; style counts twice.",
        formula="(1 + lpips) (1 + style_distance)^2",
        range="1 to about 8; 4 = the untouched photograph",
        direction="lower",
        best=1.0,
        caveat="Not a judgement of beauty: how much content a style is worth is a matter of taste; the Pareto front "
        "shows the choices. Compare scores only for the same photograph and painting; differences below 0.05 mean "
        "little. The square was chosen by eye: without it, double exposures and mere tints win.",
        source="after ArtFID (Wright, Ommer 2022), whose style term is an FID over many pictures",
    ),
    Measure(
        name="lpips",
        label="LPIPS",
        summary="How different the picture looks from the photograph, by a distance learnt from people's judgements.",
        formula="sum over layers of mean over pixels of sum over channels of w (u - v)^2; u, v: VGG-16 features of "
        "pastiche and photograph at relu1_2, 2_2, 3_3, 4_3, 5_3, scaled to length 1 at each pixel; w: learnt",
        range="0 to about 1; 0 = the photograph, 0.7 and more = nothing in common with it",
        direction="lower",
        best=0.0,
        caveat="Learnt from distorted photographs: every stroke counts as a loss, wanted or not.",
        source="Zhang et al. 2018, LPIPS version 0.1, VGG",
    ),
    Measure(
        name="content_distance",
        label="content",
        summary="How far the objects of the photograph are lost, as a deep layer describes them.",
        formula="||F - P||^2 / ||P||^2; F, P: features of pastiche and photograph at block4_conv2",
        range="0 up; 0 = the photograph, above 1 = next to nothing in common with it",
        direction="lower",
        best=0.0,
        caveat="Close to what most runs optimise, so it flatters those that use this very layer.",
        source="the content loss of Gatys et al. 2016, relative",
    ),
    Measure(
        name="ssim",
        label="SSIM",
        summary="How well the photograph's pattern of light and dark is kept, pixel by pixel.",
        formula="mean over 11x11 Gaussian windows (sigma 1.5) of (2 m n + C)(2 c + D) / "
        "((m^2 + n^2 + C)(s^2 + t^2 + D)); m, n: means, s^2, t^2: variances, c: covariance of luma; "
        "C = 0.01^2, D = 0.03^2",
        range="-1 to 1; 1 = the photograph, 0 = unrelated",
        direction="higher",
        best=1.0,
        caveat="Texture in a flat area counts as a loss, wanted or not; a change of colour alone does not count.",
        source="Wang et al. 2004",
    ),
    Measure(
        name="style_distance",
        label="style",
        summary="How far the painting's style is missed: the mean of the three measures that follow.",
        formula="(style_gram + style_moments + style_swd) / 3",
        range=_STYLE_RANGE,
        direction="lower",
        best=0.0,
        caveat="Texture and colour, not composition. Strokes of another size than the painting's at the evaluator's "
        "fixed zoom count as missed. A part of the painting is itself about 0.1 away from the whole, so expect little "
        "less. The more alike photograph and painting are, the smaller is the distance between them, and the larger "
        "are fractions of it: where they are the same picture, style is often above 4 and the score above 40.",
        source="ours: a run reaches the one statistic that it optimises more easily than the style",
    ),
    Measure(
        name="style_gram",
        label="Gram",
        summary="How far the correlations of features are from the painting's.",
        formula="D(pastiche) / D(photograph), or D(pastiche) where D(photograph) < 1e-6; D: mean over block1_conv1 .. "
        "block5_conv1, at full size (maximum pooling) and half (average), of "
        "||G - A||^2 / ||A||^2; G, A: Gram matrices of the picture and of the painting",
        range=_STYLE_RANGE,
        direction="lower",
        best=0.0,
        caveat="What style_loss=gram optimises. A blurred photograph comes close to a smooth painting.",
        source="Gatys et al. 2016",
    ),
    Measure(
        name="style_moments",
        label="moments",
        summary="How far mean and covariance of features are from the painting's.",
        formula="as style_gram, D: mean of ||m - a||^2 / ||a||^2 and ||S - T||^2 / ||T||^2; m, a: means, "
        "S, T: covariances of channels",
        range=_STYLE_RANGE,
        direction="lower",
        best=0.0,
        caveat="What runs optimise by default. It follows from the same products as Gram matrices, so it seldom "
        "disagrees with style_gram.",
        source="Huang, Belongie 2017 (means and deviations); Li et al. 2017 (covariances)",
    ),
    Measure(
        name="style_swd",
        label="SWD",
        summary="How far the whole distribution of features is from the painting's; only "
        "style_loss=sliced_wasserstein optimises it.",
        formula="as style_gram, D: mean of (W(F, A) / W(0, A))^2; W: sliced Wasserstein-1 distance of features, "
        "along 32 fixed random directions; squared as the other two are",
        range=_STYLE_RANGE,
        direction="lower",
        best=0.0,
        caveat="Ignores where features are, and differences that the 32 directions do not show.",
        source="Heitz et al. 2021, who use Wasserstein-2 squared",
    ),
    Measure(
        name="colour_distance",
        label="colour",
        summary="How far the palette is from the painting's.",
        formula="2 x sliced Wasserstein-1 distance of the pixels' CIELAB colours, along 32 directions; the factor 2 "
        "makes it equal to the difference itself, within 4%, where all colours differ by the same amount",
        range="0 to about 100, in Delta E*ab; 0 = the same palette, 2 = barely visible",
        direction="lower",
        best=0.0,
        caveat="Ignore it where the photograph's colours are to be kept.",
        source="Bonneel et al. 2015 (sliced Wasserstein); CIE 1976 (L*a*b*)",
    ),
    Measure(
        name="noise",
        label="noise",
        summary="How much neighbouring pixels differ, as a multiple of the busier of photograph and painting.",
        formula="V(pastiche) / max(V(photograph), V(painting)); V: mean squared difference of neighbouring pixels, at "
        "the size of the run",
        range="0 up; 1 = as busy as the busier input, far above = noisy, far below = blurred",
        direction="lower",
        best=0.0,
        caveat="A low value is no merit in itself: crisp strokes count as noise. Not comparable between sizes.",
        source="Mahendran, Vedaldi 2015 (total variation, beta = 2)",
    ),
)
_VIDEO_TABLE = (
    Measure(
        name="warping_error",
        label="warping error",
        summary="How much a video flickers: how far each frame differs from the previous one, moved by the motion.",
        formula="mean over frames and pixels of sum over RGB of (x_t - w(x_{t-1}))^2, pixels in [0, 1]; w: along the "
        "source's optical flow (DIS), where that can be trusted",
        range="0 up; warping_error_source is the source's own, the floor",
        direction="lower",
        best=0.0,
        caveat="A blurred video is steady, too: look at style and content as well.",
        source="Lai et al. 2018, section 3; masks as in Ruder et al. 2016",
    ),
    Measure(
        name="warping_error_source",
        label="source's warping error",
        summary="The warping error of the source itself, which comes from noise of the camera and of the flow.",
        formula="as warping_error, for the source's frames",
        range="0 up",
        direction="lower",
        best=0.0,
        caveat="The same for all runs over one video at one size.",
        source="Lai et al. 2018",
    ),
    Measure(
        name="flicker",
        label="flicker",
        summary="How much brightness changes from frame to frame where nothing moves.",
        formula="mean over frames and pixels of |Y_t - Y_{t-1}|, luma in [0, 1], where the source's flow is below "
        "0.25 px",
        range="0 up; 0.004 = one level of 255",
        direction="lower",
        best=0.0,
        caveat="Unknown for a video in which everything moves.",
        source="ours",
    ),
    Measure(
        name="flicker_source",
        label="source's flicker",
        summary="The flicker of the source itself.",
        formula="as flicker, for the source's frames",
        range="0 up",
        direction="lower",
        best=0.0,
        caveat="The same for all runs over one video at one size.",
        source="ours",
    ),
    Measure(
        name="brightness_drift",
        label="drift",
        summary="How much brighter or darker the same things become from the first to the last frame.",
        formula="|sum over frames of mean over pixels of Y_t - w(Y_{t-1})|, luma in [0, 1]; w and the pixels "
        "as for warping_error",
        range="0 to 1; 0.004 = one level of 255",
        direction="lower",
        best=0.0,
        caveat="A drift that reverses is missed.",
        source="ours",
    ),
    Measure(
        name="brightness_drift_source",
        label="source's drift",
        summary="The drift of the source itself, for example from a camera that adjusts its exposure.",
        formula="as brightness_drift, for the source's frames",
        range="0 to 1",
        direction="lower",
        best=0.0,
        caveat="The same for all runs over one video at one size.",
        source="ours",
    ),
)
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _TABLE}
VIDEO_MEASURES: dict[str, Measure] = {measure.name: measure for measure in _VIDEO_TABLE}  # in addition to MEASURES
ALL_MEASURES: dict[str, Measure] = MEASURES | VIDEO_MEASURES


def pareto_front(content: Sequence[float], style: Sequence[float]) -> list[bool]:
    """Tell which points (content, style) are on the Pareto front, where lower is better in both.

    A point is on the front if no other point beats it. One point beats another if it is at least as good in both
    values and better in one; equal points are therefore either all on the front or all off it. A point with NaN is
    never on the front and beats no other.

    Args:
        content: the first value of each point.
        style: the second value of each point, of the same length.

    Returns:
        For each point, whether it is on the front.

    Raises:
        ValueError: if the lengths differ.

    Example:
        >>> from nst_exp.evaluation.catalogue import pareto_front
        >>> pareto_front(content=[0.2, 0.3, 0.4], style=[0.6, 0.4, 0.5])  # the second point beats the third
        [True, True, False]
    """
    points = [(x, y, index) for index, (x, y) in enumerate(zip(content, style, strict=True)) if not isnan(x + y)]
    on_front = [False] * len(content)
    lowest: float | None = None  # the lowest style of all points with a lower content than this group
    for _, group in groupby(sorted(points), key=lambda point: point[0]):
        members = list(group)
        first = members[0][1]
        if lowest is None or first < lowest:
            lowest = first
            for _, y, index in members:
                on_front[index] = y == first
    return on_front
