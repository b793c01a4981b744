"""The preprocessing that a network's params need, and the pytree that holds both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from nst_exp.errors import InputError
from nst_exp.networks import Network
from nst_exp.params.pixels import PREPROCESSINGS
from nst_exp.params.readers import FileFormat, metadata_of
from nst_exp.params.tensor_names import tensor_names
from nst_exp.types import LayerParams, NetworkParams, Preprocessing


def params_of(arrays: Mapping[str, np.ndarray], preprocessing: str) -> NetworkParams:
    """Build the pytree of params from arrays with flat names.

    Its leaves remain NumPy arrays until they are used in a computation.

    Args:
        arrays: Kernels and biases, by names such as `block1_conv1/kernel`.
        preprocessing: A key of `PREPROCESSINGS`.
    """
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, kind = name.split("/")
        layers.setdefault(layer, {})[kind] = array
    pixels = PREPROCESSINGS[preprocessing]
    mean, std = np.asarray(pixels.mean, np.float32), np.asarray(pixels.std, np.float32)
    # Keras' params come from Caffe: its residual networks have Caffe's strides as well as Caffe's pixels
    strided_first = preprocessing == "keras"
    return NetworkParams(
        cast(LayerParams, layers), Preprocessing(mean, std, pixels.value_range, pixels.channel_order), strided_first
    )


def preprocessing_name(asked: str | None, file_format: FileFormat, path: Path, network: Network) -> str:
    """Return the name of the preprocessing that the params in a file need.

    It is fixed by the format, or stated by the file's metadata, or given by the user; failing all of these, it is the
    network's usual one.

    Args:
        asked: The value of `params.preprocessing`; None if the user does not set it.
        file_format: The format of the file.
        path: The file.
        network: The network that the params belong to.

    Returns:
        A key of `PREPROCESSINGS`.

    Raises:
        InputError: If there is no preprocessing of that name, or the user contradicts the format or the file.
    """
    own = fixed_preprocessing(file_format, network) or metadata_of(path).get("preprocessing")
    for name in (own, asked):
        if name is not None and name not in PREPROCESSINGS:
            raise InputError(f"preprocessing {name[:40]!r} is none of {', '.join(PREPROCESSINGS)}")
    if own and asked and own != asked:
        raise InputError(f"params.preprocessing={asked} contradicts the file's own, {own}")
    return own or asked or tensor_names(network).preprocessing


def fixed_preprocessing(file_format: FileFormat, network: Network) -> str | None:
    """Return the preprocessing that all files of a format need for a network; None if each file states its own."""
    if file_format.library == "any":
        return None
    return "keras" if file_format.library == "keras" else tensor_names(network).preprocessing
