"""What the measures mean, and which runs are worth a look; for what compares runs without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan


@dataclass(frozen=True)
class Measure:
    """What there is to know about one measure.

    Args:
        label: short, for the head of a column.
        summary: one sentence.
        formula: how it is computed.
        range: its values, with what some of them mean.
        direction: "lower" or "higher", whichever is better.
        best: the value nothing surpasses.
        caveat: what it is not.
        source: of the definition.
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


_STYLE_RANGE = "0 to about 1; 0 = the painting, 1 = the untouched photograph, more = further away than it"
_TABLE = (
    Measure(
        name="score",
        label="score",
        summary="One number to pick by: content lost times style missed, each plus one, style counting twice.",
        formula="(1 + lpips) (1 + style_distance)^2",
        range="1 to about 8; 4 = the untouched photograph",
        direction="lower",
        best=1.0,
        caveat="No judgement of beauty: how much content a style is worth is a matter of taste, for which see the "
        "Pareto front. Compare it for one photograph and painting only; differences below 0.05 mean little. The square "
        "was chosen by eye: without it double exposures and mere tints win.",
        source="after ArtFID (Wright, Ommer 2022), whose style term is an FID over many pictures",
    ),
    Measure(
        name="lpips",
        label="LPIPS",
        summary="How different from the photograph it looks, by a distance learnt from people's judgements.",
        formula="sum over layers of mean over pixels of sum over channels of w (u - v)^2; u, v: VGG-16 features of "
        "pastiche and photograph at relu1_2, 2_2, 3_3, 4_3, 5_3, of length 1 at each pixel; w: learnt",
        range="0 to about 1; 0 = the photograph, 0.7 and more = nothing in common with it",
        direction="lower",
        best=0.0,
        caveat="Learnt from distorted photographs: every stroke counts as a loss, wanted or not.",
        source="Zhang et al. 2018, LPIPS version 0.1, VGG",
    ),
    Measure(
        name="content_distance",
        label="content",
        summary="How far the objects of the photograph are lost, to a deep layer.",
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
        "less. The more alike photograph and painting are, the larger are fractions of the little that lies between "
        "them: where they are the same picture, style is often above 4 and the score above 40.",
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
        caveat="What most runs optimise. A blurred photograph comes close to a smooth painting.",
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
        caveat="Follows from the same products as Gram matrices, so it seldom disagrees with style_gram.",
        source="Huang, Belongie 2017 (means and deviations); Li et al. 2017 (covariances)",
    ),
    Measure(
        name="style_swd",
        label="SWD",
        summary="How far the whole distribution of features is from the painting's; no run optimises it.",
        formula="as style_gram, D: mean of (W(F, A) / W(0, A))^2; W: sliced Wasserstein-1 distance of features, "
        "along 32 fixed random directions; squared as the other two are",
        range=_STYLE_RANGE,
        direction="lower",
        best=0.0,
        caveat="Knows nothing of where features are, nor of what 32 directions do not show.",
        source="Heitz et al. 2021, who use Wasserstein-2 squared",
    ),
    Measure(
        name="colour_distance",
        label="colour",
        summary="How far the palette is from the painting's.",
        formula="2 x sliced Wasserstein-1 distance of the pixels' CIELAB colours, along 32 directions; the 2 makes it "
        "the difference itself, within 4%, where all colours differ by the same",
        range="0 to about 100, in Delta E*ab; 0 = the same palette, 2 = barely seen",
        direction="lower",
        best=0.0,
        caveat="To be ignored where the photograph's colours are to be kept.",
        source="Bonneel et al. 2015 (sliced Wasserstein); CIE 1976 (L*a*b*)",
    ),
    Measure(
        name="noise",
        label="noise",
        summary="How much pixels jump, as a multiple of the busier of photograph and painting.",
        formula="V(pastiche) / max(V(photograph), V(painting)); V: mean squared difference of neighbouring pixels, at "
        "the size of the run",
        range="0 up; 1 = as busy as the busier input, far above = noisy, far below = blurred",
        direction="lower",
        best=0.0,
        caveat="Low is no merit as such: crisp strokes count like noise. Not comparable between sizes.",
        source="Mahendran, Vedaldi 2015 (total variation, beta = 2)",
    ),
)
_VIDEO_TABLE = (
    Measure(
        name="warping_error",
        label="warping error",
        summary="How far a video flickers: how each frame differs from the one before, carried along by the motion.",
        formula="mean over frames and pixels of sum over RGB of (x_t - w(x_{t-1}))^2, pixels in [0, 1]; w: along the "
        "source's optical flow (DIS), where that can be trusted",
        range="0 up; warping_error_source is the source's own, the floor",
        direction="lower",
        best=0.0,
        caveat="A blurred video is steady, too: look at style and content beside it.",
        source="Lai et al. 2018, section 3; masks as in Ruder et al. 2016",
    ),
    Measure(
        name="warping_error_source",
        label="source's warping error",
        summary="The warping error of the source: noise of the camera, and of the flow.",
        formula="as warping_error, of the source's frames",
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
        summary="The flicker of the source.",
        formula="as flicker, of the source's frames",
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
        formula="|sum over frames of mean over pixels of Y_t - w(Y_{t-1})|, luma in [0, 1]; w, and which pixels: as "
        "warping_error",
        range="0 to 1; 0.004 = one level of 255",
        direction="lower",
        best=0.0,
        caveat="A drift that turns back is missed.",
        source="ours",
    ),
    Measure(
        name="brightness_drift_source",
        label="source's drift",
        summary="The drift of the source, such as a camera's that adjusts its exposure.",
        formula="as brightness_drift, of the source's frames",
        range="0 to 1",
        direction="lower",
        best=0.0,
        caveat="The same for all runs over one video at one size.",
        source="ours",
    ),
)
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _TABLE}
VIDEO_MEASURES: dict[str, Measure] = {measure.name: measure for measure in _VIDEO_TABLE}  # besides the others
ALL_MEASURES: dict[str, Measure] = MEASURES | VIDEO_MEASURES


def pareto_front(content: Sequence[float], style: Sequence[float]) -> list[bool]:
    """Which points (content, style) no other point beats, both being better when lower.

    A point beats another that is no better in either and worse in one: equal points stand or fall together. A
    point with NaN is never on the front and beats none.
    """
    points = [(x, y, index) for index, (x, y) in enumerate(zip(content, style, strict=True)) if not isnan(x + y)]
    on_front = [False] * len(content)
    lowest: float | None = None  # style of the points with less content than those at hand
    for _, group in groupby(sorted(points), key=lambda point: point[0]):
        members = list(group)
        first = members[0][1]
        if lowest is None or first < lowest:
            lowest = first
            for _, y, index in members:
                on_front[index] = y == first
    return on_front
