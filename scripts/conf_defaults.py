"""Reads the defaults from the files of conf/, for scripts that must run without Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_CONF = Path(__file__).resolve().parent.parent / "conf"


def read(name: str) -> dict[str, Any]:
    """The contents of a file, such as `loss/relative`."""
    found: dict[str, Any] = yaml.safe_load((_CONF / f"{name}.yaml").read_text())
    return found


def weights() -> tuple[dict[str, float], float]:
    """The weight of each term of the loss, and the scale of the style weight."""
    run, loss = read("run"), read("loss/relative")
    return {name: float(run[name]) for name in run if name.endswith("_weight")}, float(loss["style_scale"])


def layers(network: str = "vgg16") -> tuple[tuple[str, ...], dict[str, float]]:
    """The content layers of a network, and its style layers with their weights."""
    found = read(f"network/{network}")
    content, table = found["content_layer"], found["style_layer_weight"]
    style = found["style_layers"]
    return tuple([content] if isinstance(content, str) else content), {layer: float(table[layer]) for layer in style}


def solver() -> tuple[int, float]:
    """History and first step of L-BFGS."""
    found = read("solver/lbfgs")
    return int(found["history_size"]), float(found["first_step"])
