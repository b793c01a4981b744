"""The pixels that a network's params were trained on, and the pytree of params with them."""

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
    """The pytree made of flat names; its leaves stay NumPy until somebody computes with them."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, kind = name.split("/")
        layers.setdefault(layer, {})[kind] = array
    pixels = PREPROCESSINGS[preprocessing]
    mean, std = np.asarray(pixels.mean, np.float32), np.asarray(pixels.std, np.float32)
    # Keras' params come from Caffe, and with its pixels their residual networks have its strides
    strided_first = preprocessing == "keras"
    return NetworkParams(
        cast(LayerParams, layers), Preprocessing(mean, std, pixels.value_range, pixels.channel_order), strided_first
    )


def preprocessing_name(asked: str | None, file_format: FileFormat, path: Path, network: Network) -> str:
    """What the format or the file itself says, else what the user says; a contradiction is an error."""
    own = fixed_preprocessing(file_format, network) or metadata_of(path).get("preprocessing")
    for name in (own, asked):
        if name is not None and name not in PREPROCESSINGS:
            raise InputError(f"preprocessing {name[:40]!r} is none of {', '.join(PREPROCESSINGS)}")
    if own and asked and own != asked:
        raise InputError(f"params.preprocessing={asked} contradicts the file's own, {own}")
    return own or asked or tensor_names(network).preprocessing


def fixed_preprocessing(file_format: FileFormat, network: Network) -> str | None:
    """What the params of all files of this format want; None: each file says it."""
    if file_format.library == "any":
        return None
    return "keras" if file_format.library == "keras" else tensor_names(network).preprocessing
