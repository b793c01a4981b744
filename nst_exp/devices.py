"""The devices that JAX computes on, and the settings of JAX that results depend on."""

from __future__ import annotations

import functools
import os

from nst_exp.errors import InputError

# Settings of JAX that change results or that the code does not support. Pictures are computed in float32 with JAX's
# default promotion and random numbers, whatever other programs in the same shell need.
_IGNORED = (
    *("JAX_ENABLE_X64", "JAX_DEFAULT_DTYPE_BITS", "JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION"),
    *("JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL", "JAX_ENABLE_CUSTOM_PRNG", "JAX_THREEFRY_PARTITIONABLE"),
    *("JAX_DEBUG_NANS", "JAX_DEBUG_INFS", "JAX_DISABLE_JIT", "JAX_CHECK_TRACER_LEAKS"),
)


def ignore_settings() -> list[str]:
    """Remove the settings of JAX from the environment that results must not depend on; call it before importing JAX.

    Returns:
        Those that were set, as NAME=VALUE.
    """
    return [f"{name}={os.environ.pop(name)}" for name in _IGNORED if os.environ.get(name)]


@functools.cache
def backend() -> str:
    """The platform of JAX's default device: `cpu`, `gpu` or `tpu`.

    Raises:
        InputError: if JAX finds no device, such as with `JAX_PLATFORMS=cuda` on a machine without one.
    """
    import jax

    try:
        return jax.default_backend()
    except Exception as error:  # RuntimeError or AssertionError, by the platform
        reason = " ".join(str(error).split())[:200] or "there is none here"
        raise InputError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: JAX cannot use this device: {reason}; "
            "unset it, or choose among cpu, cuda, rocm, tpu"
        ) from error
