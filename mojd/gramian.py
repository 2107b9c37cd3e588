"""From gradients to the Gramian."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np

from mojd._arrays import (
    FLOATS,
    Array,
    as_array,
    dtype_name,
    is_on_device,
    is_traced,
    namespace,
    restore,
    to_numpy,
)
from mojd._checks import check_jacobian_shape


def gramian(jacobian: Any) -> Array:
    r"""Compute the Gramian :math:`G = J J^\top` of the gradients that are the rows of J.

    Parameters
    ----------
    jacobian : array, shape (..., K, n)
        One row per objective, one column per parameter; loss per unit of the parameter.

    Returns
    -------
    array, shape (..., K, K)
        Inner products of the gradients, in the namespace, dtype and device of `jacobian` (integers
        become float64; half precision is accumulated in float32).

    Raises
    ------
    InvalidInputError
        If there is no axis for the objectives.

    Notes
    -----
    Cost: K²n multiplications. A float32 Gramian may come out slightly indefinite; solvers expect
    that.

    Examples
    --------
    >>> import mojd
    >>> mojd.gramian([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    array([[ 18., -22.],
           [-22.,  38.]])
    """
    rows = as_array(jacobian, "jacobian")
    check_jacobian_shape(rows)
    half = dtype_name(rows) in ("float16", "bfloat16")
    if not is_on_device(rows):
        values = to_numpy(rows)
        if half or values.dtype.kind in "iu":
            values = values.astype(np.float32 if half else np.float64)
        return restore(values @ np.swapaxes(values, -1, -2), rows)
    xp = namespace(rows)
    wide = xp.astype(rows, xp.float32) if half else rows
    if is_traced(rows) and dtype_name(rows) not in FLOATS:
        wide = rows.astype(float)
    with _full_products(rows):
        return restore(wide @ xp.matrix_transpose(wide), rows)


def _full_products(array: Array) -> Any:
    """Return a context in which JAX multiplies float32 matrices in float32, and not in TF32 or bfloat16."""
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(array, jax.Array):
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()
