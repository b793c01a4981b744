"""Checks on tensors before they become params: all are there, have exact shapes and are finite floating-point numbers.

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
    """What NumPy's arrays and the lazy datasets of h5py have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def tensor_shapes(network: Network, layers: Sequence[str], library: str | None = None) -> Shapes:
    """Return the shapes of all tensors that a file needs to have for `layers`.

    Args:
        network: The network that the tensors belong to.
        layers: Canonical names of layers.
        library: The library whose files are meant, `torch` or `keras`, which may store batch normalisation in tensors
            of its own; None for kernels and biases only.

    Returns:
        Shapes by names such as `block1_conv1/kernel`.
    """
    normalised = library is not None and bool(tensor_names(network).norm_epsilon)
    biased = not (normalised and library == "torch")
    vectors = (*(("bias",) if biased else ()), *(NORM_PARTS if normalised else ()))
    shapes: Shapes = {}
    for name, kernel in network.kernels(layers).items():
        shapes[f"{name}/kernel"] = kernel
        shapes |= {f"{name}/{vector}": (kernel[-1],) for vector in vectors}
    return shapes


NORM_PARTS = ("scale", "shift", "mean", "variance")  # the vectors of batch normalisation


def folded(arrays: Mapping[str, np.ndarray], epsilon: float) -> dict[str, np.ndarray]:
    """Fold batch normalisation into kernels and biases.

    The new params compute `scale (K x + b - mean) / sqrt(variance + epsilon) + shift`. The arithmetic is done in
    float64.

    Args:
        arrays: Tensors by names such as `conv1/kernel` and `conv1/variance`. A convolution without all four vectors of
            batch normalisation is left out; one without a bias has a bias of 0.
        epsilon: Number that batch normalisation adds to the variance.

    Returns:
        Kernels and biases, float32, by name.

    Raises:
        InputError: If a variance is negative.
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
    """Check a tensor and convert it to a float32 array.

    The shape is checked before any memory is allocated.

    Args:
        name: Name of the tensor, for messages.
        tensor: An array, or a lazy dataset of h5py.
        shape: The shape that the tensor must have.
        network: The network that needs the tensor, for messages.

    Raises:
        InputError: If the tensor has another shape, is not floating point, or has values that are not finite as
            float32.
    """
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
    """Turn any exception into an InputError with one line that names the file.

    Every exception is caught, because damaged files make libraries raise exceptions of nearly every kind.

    Args:
        label: The file's name in messages.
        what: Description of the format that the file should have, for messages.

    Raises:
        InputError: If anything is raised inside.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    except Exception as error:
        raise InputError(f"{label}: not {what}, or damaged ({reason(error)})") from error


def reason(error: Exception) -> str:
    """Return the error's kind and text on one line, with at most 300 characters of the text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
