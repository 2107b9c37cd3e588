"""Float64 in programs that JAX runs in float32."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def double_precision() -> Any:
    """Return a context in which arrays of float64 can be traced, whatever ``jax_enable_x64`` says."""
    return jax.enable_x64(True)


def has_double_precision() -> bool:
    """Whether arrays can be float64 here: by ``jax_enable_x64``, or in :func:`double_precision`."""
    return bool(jax.dtypes.canonicalize_dtype(np.float64) == np.float64)
