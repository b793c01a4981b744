"""How often the solver was compiled."""

from __future__ import annotations

from typing import Any

from nst_exp.transfer import solver


def compilations() -> int:
    """The number of variants of `solver.advance` that this process has compiled so far."""
    advance: Any = solver.advance
    return int(advance._cache_size())
