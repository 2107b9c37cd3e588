"""Scale problems by exact powers of two, in plain array-API operations.

Powers of two are found by comparisons and exact products alone: the log2 and exp2 of accelerators
round.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mojd._arrays import Array, Precision
from mojd.solvers._masked import ROUNDINGS, Batch, keep

_HALVINGS = tuple(2**i for i in range(8, -1, -1))


class Scaled(NamedTuple):
    """Problems in units of their own.

    Attributes
    ----------
    batch : Batch
        The scaled problems.
    scale : float64 array, shape (B, K)
        The powers of two that bring the diagonals of the Gramians into [½, 2).
    shrinkage : float64 array, shape (B, R)
        The powers of two that bring the linear terms into [½, 1).
    finite : bool array, shape (B, R)
        Where there is neither NaN nor infinity. Elsewhere, the scaled problem is zero.
    sound : bool array, shape (B, 1)
        Where the Gramian can be one. Elsewhere, the scaled problem is zero.
    """

    batch: Batch
    scale: Array
    shrinkage: Array
    finite: Array
    sound: Array


def power_of_two(xp: Any, values: Array, base: int) -> Array:
    """Return 2ᵏ with values · baseᵏ in [½, base/2), for base 2 or 4, and 1 where a value is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> power_of_two(np, np.array([0.5, 0.9, 24.0, 0.0]), 4).tolist()
    [1.0, 1.0, 0.25, 1.0]
    """
    left = xp.where(values > 0, values, xp.full_like(values, 0.5))
    power, one = xp.ones_like(left), xp.ones_like(left)
    exponents = (256, *_HALVINGS) if base == 4 else (512, *_HALVINGS)
    for exponent in exponents:
        large, small = left >= 0.5 * float(base) ** exponent, left < 0.5 * float(base) ** (1 - exponent)
        up, down = float(base) ** exponent * one, float(base) ** -exponent * one
        left = left * xp.where(large, down, xp.where(small, up, one))
        power = power * xp.where(large, 2.0**-exponent * one, xp.where(small, 2.0**exponent * one, one))
    return power


def equilibrate(xp: Any, gramian: Array, precision: Precision) -> tuple[Array, Array, Array]:
    """Return D·G·D, the diagonal of D and whether each finite G (B, K, K) can be a Gramian.

    The rules are those of :func:`mojd.kernels.equilibrate.equilibrate`.
    """
    diagonal = xp.linalg.diagonal(gramian)
    scale = power_of_two(xp, diagonal, 4)
    scaled = gramian * scale[:, :, None] * scale[:, None, :]
    present = (diagonal > 0)[:, :, None] & (diagonal > 0)[:, None, :]
    transposed = xp.matrix_transpose(scaled)
    mean = keep(xp, present, 0.5 * (scaled + transposed))
    size = xp.linalg.diagonal(mean)
    bound = size[:, :, None] * size[:, None, :]
    difference = keep(xp, present, scaled - transposed)
    asymmetric = difference * difference > precision.tolerance**2 * bound
    excessive = mean * mean > (1 + precision.tolerance) ** 2 * bound
    # Beside a zero on the diagonal, only what has underflowed may be other than zero.
    norms = xp.sqrt(keep(xp, diagonal > 0, diagonal))
    beside = math.sqrt(precision.tiny) * (norms[:, :, None] + norms[:, None, :])
    excessive = excessive | (~present & (xp.abs(gramian) > beside))
    sound = ~xp.any(asymmetric | excessive | (diagonal < 0)[:, :, None], axis=(1, 2))
    return keep(xp, sound[:, None, None], mean), scale, sound


def scale_problems(xp: Any, gramian: Array, linear: Array, precision: Precision) -> Scaled:
    """Scale G (B, K, K) and q (B, R, K), and put zeros for what can't be solved."""
    usable = xp.all(xp.isfinite(gramian), axis=(1, 2))
    matrix, scale, sound = equilibrate(xp, keep(xp, usable[:, None, None], gramian), precision)
    scaled = linear * scale[:, None, :]
    finite = usable[:, None] & xp.all(xp.isfinite(scaled), axis=-1)
    scaled = keep(xp, (finite & sound[:, None])[..., None], scaled)
    shrinkage = power_of_two(xp, xp.max(xp.abs(scaled), axis=-1), 2)
    flat = xp.reshape(scaled * shrinkage[..., None], (-1, scaled.shape[-1]))
    rounding = xp.full_like(flat[:, 0], ROUNDINGS * precision.tolerance**2)
    return Scaled(Batch(xp, matrix, flat, rounding), scale, shrinkage, finite, sound[:, None])
