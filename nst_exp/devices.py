"""The devices that JAX computes on, and the settings of JAX that results depend on."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nst_exp.errors import InputError

# Settings of JAX that change results or that the code does not support. Pictures are computed in float32 with JAX's
# default promotion and random numbers, regardless of other programs in the same shell.
_IGNORED = (
    *("JAX_ENABLE_X64", "JAX_DEFAULT_DTYPE_BITS", "JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION"),
    *("JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL", "JAX_ENABLE_CUSTOM_PRNG", "JAX_THREEFRY_PARTITIONABLE"),
    *("JAX_RANDOM_SEED_OFFSET", "JAX_DEBUG_NANS", "JAX_DEBUG_INFS", "JAX_DISABLE_JIT", "JAX_CHECK_TRACER_LEAKS"),
    *("JAX_TRANSFER_GUARD", "JAX_TRANSFER_GUARD_HOST_TO_DEVICE", "JAX_TRANSFER_GUARD_DEVICE_TO_HOST"),
    *("JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE", "JAX_ARRAY_GARBAGE_COLLECTION_GUARD", "JAX_NO_EXECUTION"),
)
_CHOOSE_DEVICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")

# XLA generates and times many Triton kernels for each new matrix product; cuBLAS needs none of them. On an NVIDIA H200
# (JAX 0.11.2), a first picture of 320 px took 31 s with this flag, including compilation, and 58 s or more without it.
_WITHOUT_TRITON = "--xla_gpu_enable_triton_gemm"
_GPU_PLUGINS = "jax_plugins"  # the namespace package in which JAX looks for CUDA and ROCm


def ignore_settings() -> list[str]:
    """Remove settings of JAX from the environment on which results must not depend.

    Call this before JAX is imported.

    Returns:
        The removed settings, as NAME=VALUE.
    """
    return [f"{name}={os.environ.pop(name)}" for name in _IGNORED if os.environ.get(name)]


def set_cpu_defaults() -> None:
    """Give LAPACK a single thread, which XLA calls from threads of its own for each eigendecomposition.

    Threads of OpenBLAS wait for each other in busy loops, and so hold up those of XLA: on two busy CPU cores, an
    evaluation of `style_loss=wasserstein` took 3.6 times as long as one of `gram` with two threads, and 1.05 times as
    long with one. Rounding errors do not depend on the number of cores any more either. Call this before SciPy is
    imported.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


def set_gpu_defaults() -> None:
    """Set XLA's options for GPUs, unless the environment sets them.

    Matrix products are left to the vendor's library, which compiles faster, and XLA's warnings are not printed into the
    progress of a run. Nothing is set if JAX has no plugin for GPUs. Call this before JAX is imported.
    """
    if importlib.util.find_spec(_GPU_PLUGINS) is None:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if _WITHOUT_TRITON not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_WITHOUT_TRITON}=false".strip()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only


def keep_compiled_code(folder: Path) -> None:
    """Let JAX cache compiled code in a folder, and not report devices that it does not find.

    This imports JAX.

    Args:
        folder: The cache folder.
    """
    logging.getLogger("jax").setLevel(logging.WARNING)
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many short ones take seconds


def refuse_bad_settings() -> None:
    """Check the values of the remaining settings of JAX; JAX is only imported if there are any.

    Raises:
        InputError: If JAX does not accept one, such as `JAX_LOG_COMPILES=maybe`.
    """
    names = sorted(name for name in os.environ if name.startswith("JAX_") and name not in _CHOOSE_DEVICES)
    if not names:
        return
    try:
        import jax  # noqa: F401  # JAX reads its settings on import
    except ValueError as error:
        raise InputError(f"JAX does not accept its settings ({_as_assignments(names)}): {error}") from error


@functools.cache
def backend() -> str:
    """Return the platform of JAX's default device: `cpu`, `gpu` or `tpu`.

    Raises:
        InputError: If JAX finds no device, for instance with `JAX_PLATFORMS=cuda` on a machine without one, or if XLA
            does not know a flag in XLA_FLAGS.
    """
    _refuse_unknown_flags()
    import jax

    try:
        return jax.default_backend()
    except Exception as error:  # RuntimeError or AssertionError, depending on the platform
        reason = " ".join(str(error).split())[:200] or "there is none here"
        named = _as_assignments([name for name in _CHOOSE_DEVICES if os.environ.get(name)] or ["JAX_PLATFORMS"])
        raise InputError(
            f"{named}: JAX cannot use this device: {reason}; unset it, or choose among cpu, cuda, rocm, tpu"
        ) from error


def _refuse_unknown_flags() -> None:
    """Try XLA_FLAGS in another process, since XLA ends the whole process for a flag that it does not know."""
    if os.environ.get("XLA_FLAGS", "") in ("", f"{_WITHOUT_TRITON}=false"):
        return
    command = [sys.executable, "-c", "import jaxlib.xla_client as xla; xla.CompileOptions()"]  # sooner than all of JAX
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ended the process"])[-1].partition("] ")
        raise InputError(f"XLA_FLAGS={os.environ['XLA_FLAGS']}: XLA does not accept this: {reason[2] or reason[0]}")


def _as_assignments(names: Sequence[str]) -> str:
    """Return variables of the environment as NAME=VALUE, separated by commas."""
    return ", ".join(f"{name}={os.environ.get(name, '')}" for name in names)
