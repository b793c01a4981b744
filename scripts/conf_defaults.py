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


def choice(group: str) -> dict[str, Any]:
    """The contents of the file of a group that the defaults list names."""
    (chosen,) = (entry[group] for entry in read("run")["defaults"] if isinstance(entry, dict) and group in entry)
    return read(f"{group}/{chosen}")


def weights() -> tuple[dict[str, float], dict[str, float]]:
    """The weight of each term of the loss, and the scales of the weights of style and content."""
    run = read("run")
    scales = {"style": choice("loss")["style_scale"] * choice("style_loss")["scale"]}
    scales |= {"content": choice("content_loss")["scale"]}
    return {name: float(run[name]) for name in run if name.endswith("_weight")}, scales


def losses() -> tuple[str, str, str]:
    """The distance of features, the style loss and the content loss, as arguments of `Objective`."""
    distance, style, content = (str(choice(group)["name"]) for group in ("loss", "style_loss", "content_loss"))
    return distance, style, content


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
