"""A run's plan: all that determines its result, checked before anything is read that costs time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nst_exp.config import RunConfig, SolverConfig
from nst_exp.devices import backend
from nst_exp.errors import InputError
from nst_exp.files import cache_folder, home_expanded
from nst_exp.media.image import locate, sha256_of
from nst_exp.networks import Network, get_network
from nst_exp.params.sources import ParamsSource, params_sha256
from nst_exp.records import record
from nst_exp.runs.source import Source, open_source
from nst_exp.transfer.methods import METHODS, Method
from nst_exp.transfer.objective import Objective


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that determines the result, checked, but nothing read yet that costs time.

    Attributes:
        files: content (but for a camera's) and style.
        hashes: SHA-256 of these and of the params.
    """

    config: RunConfig
    source: Source
    objective: Objective
    method: Method
    style_layer_weights: Mapping[str, float]
    files: Mapping[str, Path]
    hashes: Mapping[str, str]

    @property
    def params(self) -> dict[str, Any]:
        """Every setting under its readable name."""
        return record.params(self.config, self.source.kind, self.objective.content_layers, self.style_layer_weights)


def make_plan(config: RunConfig, overrides: Sequence[str]) -> Plan:
    """Check all that can be checked without reading pixels, and hash what will be read.

    Args:
        config: of the right types and ranges.
        overrides: Hydra's; those that would have no effect are refused.

    Raises:
        InputError: on a layer that is not there, layer weights that do not fit, a file that cannot be read.
    """
    config = _of_this_device(config)
    network = get_network(
        config.network.name,
        pooling=config.pooling,
        padding=config.padding,
        precision=config.precision,
        smoothing=config.network.smoothing,
    )
    content_layers = _canonical(network, "content_layer", config.content_layers)
    style_layer_weights = _style_layer_weights(config, network)
    _refuse_idle_weights(overrides, config, network, style_layer_weights)
    objective = Objective(network, content_layers, tuple(style_layer_weights), config.loss.name)
    files = _files(config)
    source = open_source(config, files.get("content"))
    _refuse_idle(overrides, source.kind)
    hashes = {name: sha256_of(path) for name, path in files.items()}
    layers = network.truncated(objective.layers)
    hashes["params"] = params_sha256(params_source(config), network, layers, cache_folder(config.cache_dir))
    method = solver_method(config.solver)
    return Plan(config, source, objective, method, style_layer_weights, files, hashes)


def params_source(config: RunConfig) -> ParamsSource:
    """Where the network's params come from."""
    path = home_expanded(config.params.path) if config.params.path else None
    return ParamsSource(config.params.source, path, config.params.preprocessing, config.params.seed)


def solver_method(solver: SolverConfig) -> Method:
    """The method that `solver` describes.

    Raises:
        InputError: if the method does not take one of its options.
    """
    options = dataclasses.asdict(solver)
    method = METHODS[options.pop("name")]
    return method(**{name: value for name, value in options.items() if value is not None})


def _of_this_device(config: RunConfig) -> RunConfig:
    """With the precision that `auto` stands for here; a device that JAX cannot use is refused whatever is given."""
    automatic = "float32" if backend() == "cpu" else "tf32"
    return dataclasses.replace(config, precision=automatic) if config.precision == "auto" else config


def _canonical(network: Network, name: str, layers: Iterable[str]) -> tuple[str, ...]:
    try:
        canonical = tuple(network.canonical_layer(layer) for layer in layers)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    twice = {layer for layer in canonical if canonical.count(layer) > 1}
    if twice:
        raise InputError(f"{name}: {', '.join(sorted(twice))} is named twice")
    return canonical


def _style_layer_weights(config: RunConfig, network: Network) -> dict[str, float]:
    """The weight of each style layer by its canonical name, in the order of `style_layers`."""
    layers = _canonical(network, "style_layers", config.style_layers)
    if config.style_layer_weights is not None:
        weights = dict(zip(layers, config.style_layer_weights, strict=True))
    else:
        table = config.style_layer_weight
        named = dict(zip(_canonical(network, "style_layer_weight", table), table.values(), strict=True))
        missing = [layer for layer in layers if layer not in named]
        if missing:
            raise InputError(f"style_layer_weight names no weight for {', '.join(missing)}, among style_layers")
        weights = {layer: named[layer] for layer in layers}
    if sum(weights.values()) == 0:
        raise InputError(f"all weights of style_layers are 0 ({', '.join(layers)}): use style_weight=0")
    return weights


def _refuse_idle(overrides: Sequence[str], kind: str) -> None:
    """Refuse what says nothing of this kind of source; a group's choice may stand."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if record.is_idle(key, kind):
            raise InputError(f"{override} has no effect: the source is {kind}")


def _refuse_idle_weights(
    overrides: Sequence[str], config: RunConfig, network: Network, style_layer_weights: Mapping[str, float]
) -> None:
    """Refuse a weight for a layer that is not in use: a sweep over it would be the same run many times."""
    for override in overrides:
        table, _, layer = override.lstrip("+").partition("=")[0].partition(".")
        if table != "style_layer_weight":
            continue
        if network.canonical_layer(layer) not in style_layer_weights:
            used = ", ".join(style_layer_weights)
            raise InputError(f"{override} has no effect: {layer} is not among style_layers ({used})")
        if config.style_layer_weights is not None:
            raise InputError(f"{override} has no effect: style_layer_weights={config.style_layer_weights} is given")


def _files(config: RunConfig) -> dict[str, Path]:
    """What will be read; a camera stands in for `content`."""
    addresses = {"content": config.content, "style": config.style}
    if config.source == "camera":
        del addresses["content"]
    return {name: _locate(name, address) for name, address in addresses.items()}


def _locate(name: str, address: str) -> Path:
    try:
        return locate(address)
    except InputError as error:
        raise InputError(f"{name}={error}") from error
