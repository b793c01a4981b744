"""Reading of tensors from PyTorch's `.pth` files, without PyTorch and without running code from the file.

Both formats of `torch.save` are read. A `.pth` file is a pickle, that is, a program. Here, the pickle may only build
containers and describe tensors. Everything that describes a tensor is replaced by plain data of this module, and all
other globals are refused. The numbers are stored outside of the pickle in "storages", and only the storages of the
requested tensors are read.

Nothing larger than the file itself is allocated. The returned views are checked against their storage but may repeat it
(stride 0), so check their shapes before you copy them.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nst_exp.errors import InputError

_ZIP_START = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "ByteStorage": "<u1",
    "CharStorage": "<i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "BoolStorage": "?",
}


def read_state_dict(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read the named tensors of a file.

    Args:
        path: The file to read.
        names: Names of tensors; those that the file does not have are left out.

    Returns:
        Read-only views, by name.

    Raises:
        InputError: If the file is damaged, or holds more than tensors. The message does not name the file.
        Exception: Of many kinds, raised by unpickling a file that is not a pickle at all.
    """
    with path.open("rb") as file:
        if file.read(4) == _ZIP_START:
            return _read_zip(path, names)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_legacy(data, names)


class RestrictedUnpickler(pickle._Unpickler):
    """An unpickler that knows no globals but the given ones.

    It derives from the implementation in Python, because the one in C allocates as much memory as a memo index in the
    pickle demands. Bytearrays are not supported, because they, too, are allocated before they are read.

    Args:
        file: The pickle, with the methods of a binary file.
        globals_: Stand-ins for globals, by dotted name.
    """

    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]

    def __init__(self, file: Any, globals_: Mapping[str, Callable[..., object]]) -> None:
        super().__init__(file)
        self._globals = globals_

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a global, wrapped anew each time because pickles can set attributes of it.

        Raises:
            InputError: If there is no stand-in for this global.
        """
        stand_in = self._globals.get(f"{module}.{name}")
        if stand_in is None:
            raise InputError(f"refused: its pickle names {f'{module}.{name}'[:100]!r}, no part of a tensor")
        return lambda *args: stand_in(*args)


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype:
        if self.kind not in _DTYPES:
            raise InputError(f"tensors of {self.kind[:100]!r} are not supported; save them as float32")
        return np.dtype(_DTYPES[self.kind])


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    def view(self, numbers: np.ndarray) -> np.ndarray:
        """Return the tensor as a view of the numbers of its storage."""
        if min((self.offset, *self.shape, *self.strides)) < 0 or self._end() > numbers.size:
            raise InputError(f"a tensor of shape {self.shape} lies outside of its storage")
        steps = [stride * numbers.itemsize for stride in self.strides]
        return as_strided(numbers[self.offset :], self.shape, steps, writeable=False)

    def _end(self) -> int:
        if math.prod(self.shape) == 0:
            return self.offset
        steps = zip(self.shape, self.strides, strict=True)
        return self.offset + 1 + sum((size - 1) * stride for size, stride in steps)


class _StateDict(dict[str, object]):
    """Stands in for OrderedDict, and drops the versions of modules that PyTorch attaches to it."""

    def __setstate__(self, state: object) -> None:
        pass


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: object
) -> _Tensor:
    """Stands in for `torch._utils._rebuild_tensor_v2`; the remaining arguments are gradients, hooks and metadata."""
    if not isinstance(storage, _Storage) or not _integers(offset, *shape, *strides):
        raise InputError("a tensor is described by something else than a storage and integers")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _integers(*values: object) -> bool:
    return all(type(value) is int for value in values)


_GLOBALS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _StateDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_rest: tensor,
}


class _TorchUnpickler(RestrictedUnpickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file, _GLOBALS)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return name  # only a label, which `_Storage` interprets
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage for ('storage', type, key, device, count), which legacy files extend by a view or None."""
        tag, kind, key, _device, count, *view = pid
        if tag != "storage" or not isinstance(kind, str) or not isinstance(key, str) or not _integers(count):
            raise InputError("its pickle refers to something else than storages")
        if any(view):
            raise InputError("views of storages, as PyTorch before 0.4 wrote them, are not supported")
        return self.storages.setdefault(key, _Storage(kind, key, count))


def _chosen(content: object, names: Collection[str]) -> dict[str, _Tensor]:
    """Return the tensors in `names` that the unpickled `content` has."""
    if not isinstance(content, dict):
        raise InputError("holds no state dict; write it with torch.save(model.state_dict(), FILE)")
    chosen = {name: content[name] for name in names if name in content}
    for name, tensor in chosen.items():
        if not isinstance(tensor, _Tensor):
            raise InputError(f"{name} is not a tensor")
    return chosen


def _numbers(storage: _Storage, raw: bytes) -> np.ndarray:
    wanted = storage.count * storage.dtype.itemsize
    if len(raw) != wanted:
        raise InputError(f"storage {storage.key[:40]!r} has {len(raw)} bytes instead of {wanted}")
    return np.frombuffer(raw, storage.dtype)


def _read_zip(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read the format of PyTorch 1.6 and later: `FOLDER/data.pkl` and `FOLDER/data/KEY`, uncompressed."""
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError("a zip archive, but not of torch.save: it has no single data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and _record(archive, f"{folder}byteorder") != b"little":
            raise InputError("byte order is not little endian")
        tensors = _chosen(_TorchUnpickler(io.BytesIO(_record(archive, pickles[0]))).load(), names)
        storages = {tensor.storage for tensor in tensors.values()}
        numbers = {s.key: _numbers(s, _record(archive, f"{folder}data/{s.key}")) for s in storages}
    return {name: tensor.view(numbers[tensor.storage.key]) for name, tensor in tensors.items()}


def _record(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return one record, which is never larger than the file, since it must not be compressed."""
    if name not in archive.namelist():
        raise InputError(f"the archive lacks {name[:100]!r}")
    info = archive.getinfo(name)
    size = Path(str(archive.filename)).stat().st_size
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size > size:
        raise InputError(f"{name[:100]!r} is compressed or damaged; torch.save does not write it so")
    return archive.read(info)


def _read_legacy(data: mmap.mmap, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read the format before PyTorch 1.6: five pickles in a row, then the storages, each after its length.

    The file is read through `mmap`, because its `read(n)` never allocates more than is left of the file.
    """
    if data[:1] != pickle.PROTO:
        raise InputError("not a file of torch.save")
    head = (_TorchUnpickler(data).load(), _TorchUnpickler(data).load())
    if head != (_LEGACY_MAGIC, _LEGACY_VERSION):
        raise InputError("not a file of torch.save")
    system = _TorchUnpickler(data).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("byte order is not little endian")
    unpickler = _TorchUnpickler(data)
    tensors = _chosen(unpickler.load(), names)
    keys = _TorchUnpickler(data).load()
    wanted = {tensor.storage.key for tensor in tensors.values()}
    numbers = _legacy_numbers(data, [unpickler.storages[key] for key in keys], wanted)
    return {name: tensor.view(numbers[tensor.storage.key]) for name, tensor in tensors.items()}


def _legacy_numbers(data: mmap.mmap, storages: list[_Storage], wanted: set[str]) -> dict[str, np.ndarray]:
    """Read the storages in `wanted`, and skip the others."""
    numbers = {}
    for storage in storages:
        count = int.from_bytes(data.read(8), "little", signed=True)
        size = count * storage.dtype.itemsize
        if count != storage.count or not 0 <= size <= len(data) - data.tell():
            raise InputError(f"storage {storage.key[:40]!r} is cut short or damaged")
        if storage.key in wanted:
            numbers[storage.key] = _numbers(storage, data.read(size))
        else:
            data.seek(size, io.SEEK_CUR)
    return numbers
