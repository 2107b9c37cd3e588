"""Surgery on gradients: each is corrected by the others in turn. PCGrad and GradVac share this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import Array, device_of
from mojd.certificates import power_of_two
from mojd.weightings._shared import View


class Visit(NamedTuple):
    """One visit of every corrected gradient g'_i = Σ_k c_ik·g_k to one g_j each, in units of norm ≈ 1.

    Attributes
    ----------
    xp : namespace
        Of the arrays.
    gramian : array, shape (..., K, K)
        In these units, where ‖g_j‖ lies in [1, 2) or is 0.
    coefficients : array, shape (..., K, K)
        c.
    rows : array, shape (..., K, K)
        Row i is row j(i) of the Gramian.
    product, square : array, shape (..., K)
        g'_i · g_j and ‖g_j‖².
    chosen : array of bool, shape (..., K, K)
        Where k = j(i).
    """

    xp: Any
    gramian: Array
    coefficients: Array
    rows: Array
    product: Array
    square: Array
    chosen: Array


def operate(matrix: View, orders: Array, amounts: Callable[[Visit], Array]) -> Array:
    """Visit in the given orders, add ``amounts(visit)`` (..., K) times g_j to g'_i; return Σ_i of all g'_i.

    The rows are scaled by exact powers of two, so that neither products nor coefficients depend on the
    units of the losses. All rows and problems go through a visit together.
    """
    xp, size = matrix.xp, matrix.size
    norm = power_of_two(xp, xp.sqrt(xp.linalg.diagonal(matrix.values)))
    gramian = matrix.values / norm[..., :, None] / norm[..., None, :]
    gramian = xp.broadcast_to(gramian, tuple(orders.shape[:-1]) + (size,))
    squares = xp.linalg.diagonal(gramian)
    indices = np.arange(size) if xp is np else xp.arange(size, device=device_of(matrix.original))
    zeros, ones = xp.zeros_like(gramian), xp.ones_like(gramian)
    coefficients = xp.where(indices == indices[:, None], ones, zeros)
    for step in range(size - 1):
        others = orders[..., step]
        rows = xp.take_along_axis(gramian, others[..., None], axis=-2)
        chosen = indices == others[..., None]
        product = xp.sum(coefficients * rows, axis=-1)
        square = xp.take_along_axis(squares, others, axis=-1)
        amount = amounts(Visit(xp, gramian, coefficients, rows, product, square, chosen))
        coefficients = coefficients + xp.where(chosen, amount[..., None], zeros)
    return xp.sum(norm[..., :, None] * coefficients / norm[..., None, :], axis=-2)
