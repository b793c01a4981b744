"""Checks on tensors before they become params: all there, exact shapes, floating point, finite.

Batch normalisation is folded into kernels and biases here.

References:
    Ioffe, Szegedy (2015), Batch Normalization.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nst_exp.errors import InputError
from nst_exp.networks import Network
from nst_exp.params.tensor_names import tensor_names

Shapes = dict[str, tuple[int, ...]]


@runtime_checkable
class Tensor(Protocol):
    """What NumPy's arrays and the lazy ones of h5py have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def tensor_shapes(network: Network, layers: Sequence[str], library: str | None = None) -> Shapes:
    """Of all tensors that the files of `library` have for `layers`; None: kernels and biases only."""
    normalised = library is not None and bool(tensor_names(network).norm_epsilon)
    biased = not (normalised and library == "torch")
    vectors = (*(("bias",) if biased else ()), *(NORM_PARTS if normalised else ()))
    shapes: Shapes = {}
    for name, kernel in network.kernels(layers).items():
        shapes[f"{name}/kernel"] = kernel
        shapes |= {f"{name}/{vector}": (kernel[-1],) for vector in vectors}
    return shapes


NORM_PARTS = ("scale", "shift", "mean", "variance")  # of batch normalisation


def folded(arrays: Mapping[str, np.ndarray], epsilon: float) -> dict[str, np.ndarray]:
    """Kernels and biases that do what convolution and batch normalisation did, of whatever is complete.

    `scale (K x + b - mean) / sqrt(variance + epsilon) + shift`, in float64.
    """
    folded: dict[str, np.ndarray] = {}
    for name in [name.removesuffix("/kernel") for name in arrays if name.endswith("/kernel")]:
        parts = [arrays.get(f"{name}/{part}") for part in NORM_PARTS]
        if any(part is None for part in parts):
            continue
        scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
        if (variance < 0).any():
            raise InputError(f"{name}/variance has negative values")
        factor = scale / np.sqrt(variance + epsilon)
        folded[f"{name}/kernel"] = (arrays[f"{name}/kernel"] * factor).astype(np.float32)
        folded[f"{name}/bias"] = ((arrays.get(f"{name}/bias", 0.0) - mean) * factor + shift).astype(np.float32)
    return folded


def checked(name: str, tensor: Tensor, shape: tuple[int, ...], network: Network) -> np.ndarray:
    """The tensor as a float32 array; its shape is looked at before any memory is taken for it."""
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, {network.name} needs {shape}")
    if not np.issubdtype(tensor.dtype, np.floating):
        raise InputError(f"{name} has dtype {tensor.dtype}, {network.name} needs floating point")
    with np.errstate(over="ignore"):  # a float64 too large becomes infinite and is found below
        array = np.ascontiguousarray(tensor[...], dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{name} has values that are not finite as float32")
    return array


@contextmanager
def as_input_error(label: str, what: str) -> Iterator[None]:
    """Makes one line that names the file of whatever goes wrong inside.

    Everything is caught because damaged files make the libraries raise nearly everything.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    except Exception as error:
        raise InputError(f"{label}: not {what}, or damaged ({reason(error)})") from error


def reason(error: Exception) -> str:
    """The error's kind and text in one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
