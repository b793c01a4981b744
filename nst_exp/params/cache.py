"""A cache for params in converted files.

Whatever format the params came in, later runs read them quickly.
"""

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
    """Read params from the cache; if they are not there, read the source file and cache them.

    The source file is also read if the cached file is damaged, lacks a layer, or was made from another format.

    Args:
        cache: The cached file.
        file_format: The format of the source file.
        path: The source file.
        network: The network that the params belong to.
        layers: Canonical names of the layers whose params are needed.

    Returns:
        Kernels and biases, float32, by names such as `block1_conv1/kernel`.

    Raises:
        InputError: If the source file does not fit the network.
        Exception: Of many kinds, if the source file is damaged; see `checks.as_input_error`.
    """
    arrays = _read_cache(cache, file_format, network, layers)
    if arrays is not None:
        return arrays
    with _locked(cache):
        arrays = _read_cache(cache, file_format, network, layers)  # another process may have made it by now
        if arrays is None:
            arrays = read_file(file_format, path, network, network.layers, needed=layers)
            _write_cache(cache, file_format, network, arrays)
    return {name: arrays[name] for name in tensor_shapes(network, layers)}


def _read_cache(
    cache: Path, file_format: FileFormat, network: Network, layers: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """Return the cached params; None unless all of them are there, valid, and made from this format."""
    try:
        with as_input_error(str(cache), CONVERTED.what):
            if metadata_of(cache) != _cache_metadata(file_format, network):
                return None
            return read_file(CONVERTED, cache, network, layers, needed=layers)
    except InputError as error:
        _log.debug("no params from the cache: %s", error)
        return None


def _cache_metadata(file_format: FileFormat, network: Network) -> dict[str, str]:
    """Return the metadata of the cached file, with which `params.source=safetensors` accepts it, too."""
    return {"preprocessing": str(fixed_preprocessing(file_format, network)), "format": file_format.what}


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Let one process at a time make `cache`; where no lock is available, all processes do."""
    lock = FileLock(cache.with_suffix(".lock"), timeout=300)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # NotImplementedError: the file system has no locks
        _log.debug("no lock for the cache of params: %s", reason(error))
    try:
        yield
    finally:
        lock.release()


def _write_cache(cache: Path, file_format: FileFormat, network: Network, arrays: dict[str, np.ndarray]) -> None:
    """Write the cache atomically; a failure is logged and does not stop the run."""
    half = cache.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(arrays, half, metadata=_cache_metadata(file_format, network))
        os.replace(half, cache)
    except (OSError, SafetensorError) as error:
        _log.warning("params are not cached in %s: %s", cache.parent, reason(error))
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)
