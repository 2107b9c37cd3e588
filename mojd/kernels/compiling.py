"""How kernels are compiled.

Only entry points are cached on disk: each holds the code of all it calls, and caching the inner
functions too would generate their code once per caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# Reordering of sums, for speed, where no error-free transformation is at stake.
_FAST = {"reassoc", "contract", "nsz"}

# Inner functions are called by compiled code only: wrappers for Python callers would double the work.
_INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

inner: Callable[..., Any] = njit(**_INNER)
fast_inner: Callable[..., Any] = njit(fastmath=_FAST, **_INNER)


def entry_point(signature: Any) -> Callable[..., Any]:
    """Compile a function for `signature` at import, or load it from the cache; it drops the GIL."""
    decorator: Callable[..., Any] = njit(signature, cache=True, error_model="numpy", nogil=True)
    return decorator
