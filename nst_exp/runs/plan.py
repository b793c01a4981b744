"""The plan of a run: the settings that determine its result, checked before slow inputs are read."""

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
from nst_exp.transfer.colour import COLOURS, Colours
from nst_exp.transfer.methods import METHODS, Method
from nst_exp.transfer.objective import Objective


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that determines the result of a run, checked; pixels and params have not been read yet.

    Attributes:
        config: the settings; `precision` is no longer `auto`.
        source: the picture, video or camera to paint.
        objective: the network, its layers and how features are compared.
        method: the optimisation method.
        style_layer_weights: the weight of each style layer by its canonical name, in the order of the objective.
        files: the files of `content` and `style`; a camera has no `content`.
        hashes: the SHA-256 of each of these files, and of the params as `params`.
    """

    config: RunConfig
    source: Source
    objective: Objective
    method: Method
    style_layer_weights: Mapping[str, float]
    files: Mapping[str, Path]
    hashes: Mapping[str, str]

    @property
    def colours(self) -> Colours:
        """Whose colours the result has."""
        return colours_of(self.config)

    @property
    def params(self) -> dict[str, Any]:
        """Every setting under its readable name; see `nst_exp.records.record.params`."""
        return record.params(self.config, self.source.kind, self.objective.content_layers, self.style_layer_weights)


def make_plan(config: RunConfig, overrides: Sequence[str]) -> Plan:
    """Check everything that can be checked without reading pixels, and hash the files that will be read.

    Args:
        config: the settings, whose types and ranges have been checked.
        overrides: the Hydra overrides of the run; those that would have no effect are refused.

    Raises:
        InputError: if the network has no such layer, the layer weights do not fit the layers, an override has no
            effect, the device cannot be used, or a file or camera cannot be read.
    """
    config = _of_this_device(config)
    network = get_network(
        config.network.name,
        pooling=config.pooling,
        padding=config.padding,
        precision=config.precision,
        smoothing=config.network.smoothing,
        pooling_gain=config.pooling_gain,
    )
    content_layers = _canonical(network, "content_layer", config.content_layers)
    style_layer_weights = _style_layer_weights(config, network)
    _refuse_idle_weights(overrides, config, network, style_layer_weights)
    losses = (config.loss.name, config.style_loss.name, config.content_loss.name)
    grey = colours_of(config).grey
    objective = Objective(network, content_layers, tuple(style_layer_weights), *losses, grey=grey)
    files = _files(config)
    source = open_source(config, files.get("content"))
    _refuse_idle(overrides, source.kind)
    hashes = {name: sha256_of(path) for name, path in files.items()}
    layers = network.truncated(objective.layers)
    hashes["params"] = params_sha256(params_source(config), network, layers, cache_folder(config.cache_dir))
    method = solver_method(config.solver)
    return Plan(config, source, objective, method, style_layer_weights, files, hashes)


def params_source(config: RunConfig) -> ParamsSource:
    """Return the source of the network's params.

    Raises:
        InputError: if `params.path` begins with `~` and there is no such home folder.
    """
    path = home_expanded(config.params.path) if config.params.path else None
    return ParamsSource(config.params.source, path, config.params.preprocessing, config.params.seed)


def colours_of(config: RunConfig) -> Colours:
    """Return the option of `colour=` that the settings describe."""
    return COLOURS[config.colour.name].of(config.colour.match)


def solver_method(solver: SolverConfig) -> Method:
    """Return the optimisation method that the settings describe.

    Raises:
        InputError: if the method does not accept the value of an option.
    """
    options = dataclasses.asdict(solver)
    method = METHODS[options.pop("name")]
    return method(**{name: value for name, value in options.items() if value is not None})


def _of_this_device(config: RunConfig) -> RunConfig:
    """Replace `precision=auto` by the precision of this device.

    The device is looked up even if a precision is given, so that a device that JAX cannot use is always refused.
    """
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
    """Return the weight of each style layer by its canonical name, in the order of `style_layers`."""
    layers = _canonical(network, "style_layers", config.style_layers)
    if config.layer_weights.ratio is not None:
        weights = _geometric(sorted(layers, key=network.layers.index), config.layer_weights.ratio)
        weights = {layer: weights[layer] for layer in layers}
    elif config.style_layer_weights is not None:
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


def _geometric(layers: Sequence[str], ratio: float) -> dict[str, float]:
    """Return weights whose sum is 1, and each of which is `ratio` times the one before."""
    powers = [ratio**position for position in range(len(layers))]
    return {layer: power / sum(powers) for layer, power in zip(layers, powers, strict=True)}


def _refuse_idle(overrides: Sequence[str], kind: str) -> None:
    """Refuse overrides that have no effect on this kind of source; the choice of a group is accepted."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if record.is_idle(key, kind):
            raise InputError(f"{override} has no effect: the source is {kind}")


def _refuse_idle_weights(
    overrides: Sequence[str], config: RunConfig, network: Network, style_layer_weights: Mapping[str, float]
) -> None:
    """Refuse the weight of a layer that is not in use, because a sweep over it would repeat the same run."""
    for override in overrides:
        table, _, layer = override.lstrip("+").partition("=")[0].partition(".")
        if table != "style_layer_weight":
            continue
        if network.canonical_layer(layer) not in style_layer_weights:
            used = ", ".join(style_layer_weights)
            raise InputError(f"{override} has no effect: {layer} is not among style_layers ({used})")
        if config.style_layer_weights is not None:
            raise InputError(f"{override} has no effect: style_layer_weights={config.style_layer_weights} is given")
        if config.layer_weights.ratio is not None:
            raise InputError(f"{override} has no effect: layer_weights={config.layer_weights.name} is given")


def _files(config: RunConfig) -> dict[str, Path]:
    """Find the files to read; with `source=camera`, there is no file of `content`."""
    addresses = {"content": config.content, "style": config.style}
    if config.source == "camera":
        del addresses["content"]
    return {name: _locate(name, address) for name, address in addresses.items()}


def _locate(name: str, address: str) -> Path:
    try:
        return locate(address)
    except InputError as error:
        raise InputError(f"{name}={error}") from error
