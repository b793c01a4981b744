"""The key of a sweep: two commands with the same key are the same sweep, and the second one resumes the first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from nst_exp.errors import InputError
from nst_exp.media.image import locate, sha256_of
from nst_exp.records.folder import RESULTS_VERSION

_WHERE_ONLY = ("hydra", "cache_dir", "registry", "force")  # settings that do not change any result


def sweep_key(config: DictConfig, overrides: Sequence[str]) -> str:
    """Hash the command, the configuration below it, the contents of the inputs, and the version of results.

    Args:
        config: the sweep's composed configuration, Hydra's part included.
        overrides: the overrides of the command.

    Returns:
        32 hexadecimal digits.
    """
    settings = OmegaConf.masked_copy(config, [str(name) for name in config if name not in _WHERE_ONLY])
    plain = OmegaConf.to_container(settings, resolve=True)
    command = [override for override in overrides if override.partition("=")[0].lstrip("+") not in _WHERE_ONLY]
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    text = json.dumps([RESULTS_VERSION, command, plain, sweeper, _input_hashes(config, overrides)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _input_hashes(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the SHA-256 of every picture that the sweep may read; empty for one that cannot be read.

    A picture that cannot be read makes the points that need it fail, not the sweep.
    """
    addresses = [config.content, config.style]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group in ("content", "style") and override.is_discrete_sweep():
            values = (getattr(value, "text", value) for value in override.sweep_iterator())  # a quoted one has a text
            addresses += [str(value).replace("\\${", "${") for value in values]
    hashes = []
    for address in addresses:
        try:
            hashes.append(sha256_of(locate(address)))
        except InputError:
            hashes.append("")
    return hashes
