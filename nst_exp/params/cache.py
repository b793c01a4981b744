"""Converted params in files of their own: later runs read them quickly, in whatever format they came."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import save_file

from nst_exp.errors import InputError
from nst_exp.networks import Network
from nst_exp.params.checks import as_input_error, reason, tensor_shapes
from nst_exp.params.preprocessing import fixed_preprocessing
from nst_exp.params.readers import CONVERTED, FileFormat, metadata_of, read_file

_log = logging.getLogger(__name__)


def read_through_cache(
    cache: Path, file_format: FileFormat, path: Path, network: Network, layers: Sequence[str]
) -> dict[str, np.ndarray]:
    """`layers` from the converted file; if there is none, or it is damaged, it is made from the source."""
    arrays = _read_cache(cache, file_format, network, layers)
    if arrays is not None:
        return arrays
    with _locked(cache):
        arrays = _read_cache(cache, file_format, network, layers)  # made by another process meanwhile?
        if arrays is None:
            arrays = read_file(file_format, path, network, network.layers, needed=layers)
            _write_cache(cache, file_format, network, arrays)
    return {name: arrays[name] for name in tensor_shapes(network, layers)}


def _read_cache(
    cache: Path, file_format: FileFormat, network: Network, layers: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """None unless the cache has all of it, sound, and made from this format."""
    try:
        with as_input_error(str(cache), CONVERTED.what):
            if metadata_of(cache) != _cache_metadata(file_format, network):
                return None
            return read_file(CONVERTED, cache, network, layers, needed=layers)
    except InputError as error:
        _log.debug("no params from the cache: %s", error)
        return None


def _cache_metadata(file_format: FileFormat, network: Network) -> dict[str, str]:
    """With its preprocessing the cached file is one that `params.source=safetensors` takes as it is."""
    return {"preprocessing": str(fixed_preprocessing(file_format, network)), "format": file_format.what}


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Lets one process at a time make `cache`; where no lock can be had, all of them go on."""
    lock = FileLock(cache.with_suffix(".lock"), timeout=300)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
        _log.debug("no lock for the cache of params: %s", reason(error))
    try:
        yield
    finally:
        lock.release()


def _write_cache(cache: Path, file_format: FileFormat, network: Network, arrays: dict[str, np.ndarray]) -> None:
    """All or nothing; failing is no reason to stop a run."""
    half = cache.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(arrays, half, metadata=_cache_metadata(file_format, network))
        os.replace(half, cache)
    except (OSError, SafetensorError) as error:
        _log.warning("params are not cached in %s: %s", cache.parent, reason(error))
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)
