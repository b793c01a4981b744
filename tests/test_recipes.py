"""The table "Where to add what" of ARCHITECTURE.md, carried out.

Each row is followed in a copy of the code, and only the files that the row names are changed. Then one real search
uses all of the additions together. The kind of fault: a choice that has to be entered in a second place.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos
from command import arguments_of
from PIL import Image

from nst_exp import conf_files
from nst_exp.config import CHOICES
from nst_exp.motion.flow import ESTIMATORS
from nst_exp.networks import ARCHITECTURES
from nst_exp.params.readers import FORMATS
from nst_exp.records.folder import RunFolder
from nst_exp.runs.frame_policy import POLICIES
from nst_exp.transfer.colour import COLOURS, MATCHES
from nst_exp.transfer.feature_losses import CONTENT_LOSSES, STYLE_LOSSES
from nst_exp.transfer.losses import DISTANCES
from nst_exp.transfer.methods import METHODS
from nst_exp.transfer.stylize import INITIAL_PICTURES

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class After:
    """Lines that go below the only line of a file that begins with `line`."""

    line: str
    text: str


@dataclass(frozen=True)
class Before:
    """Lines that go above it."""

    line: str
    text: str


Changes = str | list[After | Before]  # a new file, or insertions

RECIPES: dict[str, dict[str, Changes]] = {
    "a term of the loss": {
        "nst_exp/transfer/terms.py": [
            After('    "temporal": ', '    "darkness": lambda view: jnp.mean(jnp.square(1 - view.image)),\n')
        ],
        "nst_exp/config.py": [After("    temporal_weight: float", "    darkness_weight: float\n")],
        "conf/run.yaml": [After("temporal_weight: ", "darkness_weight: 0.0      # keeps the picture bright\n")],
    },
    "a distance of features": {
        "nst_exp/transfer/losses.py": [
            After(
                "DISTANCES = {",
                '    "absolute": Distance(lambda x, y: jnp.mean(jnp.abs(x - y)), normalise_layers=True),\n',
            )
        ],
        "conf/loss/absolute.yaml": "name: absolute\nstyle_scale: 10.0\n",
    },
    "a style loss": {
        "nst_exp/transfer/feature_losses/contrast.py": (
            '"""The variance of each channel."""\n\n'
            "import jax.numpy as jnp\n"
            "from jaxtyping import Array, Float\n\n"
            "from nst_exp.transfer.losses import Compare\n"
            "from nst_exp.types import FeatureMap, Scalar\n\n\n"
            'def variance(feature_map: FeatureMap) -> Float[Array, "channels"]:\n'
            '    """Return the variance of each channel."""\n'
            "    return jnp.var(feature_map, (0, 1, 2))\n\n\n"
            'def distance(feature_map: FeatureMap, target: Float[Array, "channels"], compare: Compare) -> Scalar:\n'
            '    """Compare the variances."""\n'
            "    return compare(variance(feature_map), target)\n"
        ),
        "nst_exp/transfer/feature_losses/__init__.py": [
            Before("    features,", "    contrast,\n"),
            After("STYLE_LOSSES = {", '    "contrast": FeatureLoss(contrast.variance, contrast.distance),\n'),
        ],
        "conf/style_loss/contrast.yaml": "name: contrast\nscale: 0.5\n",
    },
    "whose colours a result has": {
        "nst_exp/transfer/colour.py": [
            Before(
                "# The values of `colour.match`",
                "@dataclass(frozen=True)\n"
                "class NoColours(ColoursOfPainting):\n"
                '    """Write grey pictures."""\n\n'
                "    def finished(self, pastiche: AnyImage, content_image: Image) -> AnyImage:\n"
                '        """See `Colours`."""\n'
                "        return grey(pastiche)\n\n\n",
            ),
            After("COLOURS: ", '    "none": NoColours,\n'),
        ],
        "conf/colour/none.yaml": "name: none\nmatch: null\n",
    },
    "a solver": {
        "nst_exp/transfer/methods.py": [
            Before(
                "METHODS: ",
                "@dataclasses.dataclass(frozen=True)\n"
                "class Descent(Optax):\n"
                '    """Gradient descent."""\n\n'
                "    learning_rate: float\n\n"
                "    def _transformation(self) -> optax.GradientTransformationExtraArgs:\n"
                "        return optax.with_extra_args_support(optax.sgd(self.learning_rate))\n\n\n",
            ),
            After("METHODS: ", '    "descent": Descent,\n'),
        ],
        "conf/solver/descent.yaml": (
            "name: descent\nhistory_size: null\nlinesearch: null\nfirst_step: null\nlearning_rate: 0.01\n"
        ),
    },
    "a network": {
        "nst_exp/networks/small.py": (
            '"""Two layers."""\n\n'
            "from dataclasses import dataclass\n\n"
            "from nst_exp.networks.blocks import Chain, Conv, Pool, Table\n"
            "from nst_exp.networks.network import Network\n\n\n"
            "@dataclass(frozen=True)\n"
            "class Small(Network):\n"
            '    """A network of two layers."""\n\n'
            "    def table(self, *, strided_first: bool = False) -> Table:\n"
            '        first = Conv("first", 4, (3, 3), padding=(1, 1))\n'
            '        return ("first", first), ("second", Chain((Pool(2, 2), Conv("second", 6))))\n\n\n'
            'SMALL = Small("small")\n'
        ),
        "nst_exp/networks/__init__.py": [
            After("from nst_exp.networks.resnet import", "from nst_exp.networks.small import SMALL\n"),
            After("ARCHITECTURES: ", '    "small": SMALL,\n'),
        ],
        "conf/network/small.yaml": (
            "# @package _global_\n"
            "network: {name: small, smoothing: null, style_scale: null}\n"
            "content_layer: second\n"
            "style_layers: [first, second]\n"
            "style_layer_weights: null\n"
            "style_layer_weight: {first: 1.0, second: 1.0}\n"
        ),
    },
    "a source of params": {
        "nst_exp/params/readers.py": [
            Before(
                "class FileFormat",
                "def _read_npz(path: Path, network: Network, convolutions: Collection[str]) -> Tensors:\n"
                "    with np.load(path) as file:\n"
                "        yield from file.items()\n\n\n",
            ),
            After(
                "FORMATS = {", '    "npz": FileFormat(_read_npz, "a file of numpy.savez", library=None, cached=True),\n'
            ),
        ],
        "conf/params/npz.yaml": "source: npz\npath: null\npreprocessing: null\nseed: 0\n",
    },
    "a codec": {
        "nst_exp/media/codecs.py": [
            After("CODECS = {", '    "mpeg4": Codec("mpeg4", ".mp4", "yuv420p", even=True),\n')
        ],
    },
    "a measure": {
        "nst_exp/evaluation/catalogue.py": [
            After(
                "_TABLE = (",
                "    Measure(\n"
                '        name="brightness",\n'
                '        label="bright",\n'
                '        summary="How bright it is.",\n'
                '        formula="mean of luma",\n'
                '        range="0 to 1",\n'
                '        direction="higher",\n'
                "        best=1.0,\n"
                '        caveat="Bright is not beautiful.",\n'
                '        source="ours",\n'
                "    ),\n",
            )
        ],
        "nst_exp/evaluation/metrics.py": [
            After('        "lpips": ', '        "brightness": float(np.mean(description.luma)),\n')
        ],
    },
    "a search": {
        "conf/search/single.yaml": (
            "# @package _global_\n"
            "defaults: [optuna, _self_]\n"
            "optimized_metric: brightness\n"
            "hydra: {sweeper: {n_trials: 1, params: {darkness_weight: 'interval(0.5, 1.0)'}}}\n"
        ),
    },
}


def changed(text: str, changes: list[After | Before]) -> str:
    for change in changes:
        lines = text.splitlines(keepends=True)
        (place,) = (index for index, line in enumerate(lines) if line.startswith(change.line))
        place += isinstance(change, After)
        text = "".join([*lines[:place], change.text, *lines[place:]])
    return text


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product's code and configuration with all of the additions."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("nst_exp", "conf"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for recipe in RECIPES.values():
        for name, changes in recipe.items():
            path = tree / name
            assert path.exists() != isinstance(changes, str), name
            path.write_text(changes if isinstance(changes, str) else changed(path.read_text(), changes))
    return tree


def rows() -> dict[str, set[str]]:
    """The table's rows: what to add, and the files to touch."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = re.findall(r"^\| (.+?) \| (.+?) \|$", text[text.index("## Where to add what") :], re.MULTILINE)[2:]
    return {what: set(re.findall(r"`((?:nst_exp|conf)/[\w/.]+)`", touch)) for what, touch in table}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_touches_what_its_row_names(recipe: str) -> None:
    files = RECIPES[recipe].items()
    touched = {str(Path(name).with_stem("NAME")) if isinstance(changes, str) else name for name, changes in files}
    assert touched == rows()[recipe]


def test_every_row_is_carried_out() -> None:
    assert set(rows()) == set(RECIPES)


def test_one_search_uses_all_additions(tree: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shapes = {"first/kernel": (3, 3, 3, 4), "first/bias": (4,), "second/kernel": (1, 1, 4, 6), "second/bias": (6,)}
    arrays: dict[str, Any] = {name: random.normal(size=shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "params.npz", **arrays)
    videos.write(tmp_path / "source.mp4", frames=2)
    outcome = command(
        tree,
        tmp_path,
        *("search=single", "network=small", "params=npz", "params.path=params.npz", "solver=descent", "loss=absolute"),
        *("style_loss=contrast", "colour=none"),
        *("content=source.mp4", "video=independent", "video.codec=mpeg4"),
    )
    assert outcome.returncode == 0, outcome.stderr
    run = RunFolder(tmp_path / "out" / "0")
    losses, measures, params = run.result.losses, run.result.measures, run.record.params
    groups = ("network", "params", "solver", "loss", "style_loss", "colour")
    assert [params[group] for group in groups] == ["small", "npz", "descent", "absolute", "contrast", "none"]
    with Image.open(run.path / run.result.pastiche) as picture:
        assert np.ptp(np.asarray(picture).astype(int), axis=-1).max() == 0  # grey
    assert 0.5 <= float(params["darkness_weight"]) <= 1
    assert losses["darkness"] > 0
    with av.open(str(run.path / "pastiche.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "mpeg4"
        levels = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
    assert measures["brightness"] == pytest.approx(np.mean(levels) / 255, abs=0.05)
    assert "brightness" in (tmp_path / "out" / "report.html").read_text()


def test_a_mistyped_addition_is_explained(tree: Path, tmp_path: Path) -> None:
    outcome = command(tree, tmp_path, "darknes_weight=1")
    assert (outcome.returncode, outcome.stderr) == (
        1,
        "nst_exp: 'darknes_weight' is no key; did you mean 'darkness_weight'?\n",
    )


def command(tree: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nst_exp.run", *arguments_of(*arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (ARCHITECTURES, "network.name"),
        ({*FORMATS, "random"}, "params.source"),
        (DISTANCES, "loss.name"),
        (STYLE_LOSSES, "style_loss.name"),
        (CONTENT_LOSSES, "content_loss.name"),
        (COLOURS, "colour.name"),
        (MATCHES, "colour.match"),
        (METHODS, "solver.name"),
        (POLICIES, "video.mode"),
        (ESTIMATORS, "video.estimator"),
        (INITIAL_PICTURES, "init"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_chosen_is_what_there_is(table: set[str], key: str) -> None:
    """The kind: an option of conf/, or an allowed value, that no code is behind; or code that cannot be chosen."""
    assert set(CHOICES[key]) == set(table)
    group = key.partition(".")[0]
    for name in conf_files.options(group) if "." in key and key not in ("video.estimator", "colour.match") else ():
        value = conf_files.option(group, name)
        value = value.get(group, value)  # a network's file sets other keys, too
        assert value[key.partition(".")[2]] == name


def diff(recipe: str) -> str:
    """What a recipe changes, for people to read."""
    parts: list[str] = []
    for name, changes in RECIPES[recipe].items():
        before = "" if isinstance(changes, str) else (ROOT / name).read_text()
        after = changes if isinstance(changes, str) else changed(before, changes)
        lines = (before.splitlines(keepends=True), after.splitlines(keepends=True))
        parts += difflib.unified_diff(*lines, f"a/{name}", f"b/{name}")
    return "".join(parts)


if __name__ == "__main__":
    print("\n".join(diff(recipe) for recipe in sys.argv[1:] or RECIPES))
