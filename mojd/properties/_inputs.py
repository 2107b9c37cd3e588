"""What measures check of the Jacobians and directions that they are given."""

from __future__ import annotations

from typing import Any

from mojd._arrays import FloatArray, as_array, to_float64
from mojd._checks import check_jacobian_shape, check_rows
from mojd.errors import InvalidInputError


def one_jacobian(jacobian: Any) -> FloatArray:
    """Return a Jacobian (K, n) in float64; raise if it is anything else, or a batch."""
    array = as_array(jacobian, "jacobian")
    check_jacobian_shape(array)
    rows = to_float64(array)
    if rows.ndim != 2:
        raise InvalidInputError(f"jacobian must have shape (K, n), one problem, got shape {rows.shape}")
    return rows


def with_direction(jacobian: Any, direction: Any) -> tuple[FloatArray, FloatArray]:
    """Return Jacobians (..., K, n) and directions (..., n) in float64; raise if they don't fit."""
    rows, vector = as_array(jacobian, "jacobian"), as_array(direction, "direction")
    check_jacobian_shape(rows)
    check_rows(vector, int(rows.shape[-1]), "direction", "one number per parameter")
    return to_float64(rows), to_float64(vector)
