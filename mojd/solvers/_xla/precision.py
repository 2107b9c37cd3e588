"""Float64 in programs that JAX runs in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np


@contextmanager
def double_precision() -> Iterator[None]:
    """Let arrays of float64 be traced, whatever ``jax_enable_x64`` says, and dtypes be mixed."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def has_double_precision() -> bool:
    """Whether arrays can be float64 here: by ``jax_enable_x64``, or in :func:`double_precision`."""
    return bool(jax.dtypes.canonicalize_dtype(np.float64) == np.float64)
