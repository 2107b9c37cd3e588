"""Pseudo-inverses of Gramians: what methods that solve linear systems share.

Whether gradients depend on each other is a question about their angles, not their lengths. It is put to the
Gramian of the unit gradients, so that a short gradient counts as much as a long one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mojd._arrays import Array, Precision, precision_of
from mojd.weightings._shared import View


class UnitGramian(NamedTuple):
    """Gradients as lengths and directions, with the eigenvectors of the Gramian of the directions.

    Attributes
    ----------
    lengths : float64 array, shape (..., K)
        ‖gᵢ‖.
    divisors : float64 array, shape (..., K)
        ‖gᵢ‖, and 1 where that is 0.
    values, vectors : float64 arrays, shapes (..., K) and (..., K, K)
        Eigenvalues in ascending order, and the eigenvectors in columns.
    present : bool array, shape (..., K)
        Which eigenvalues rounding does not explain.
    tolerance : float
        What rounding explains, relative to the largest.
    """

    lengths: Array
    divisors: Array
    values: Array
    vectors: Array
    present: Array
    tolerance: float


def relative_tolerance(size: int, precision: Precision) -> float:
    """Return K·ε, below which eigenvalues are rounding errors relative to the largest."""
    return size * precision.tolerance**2


def symmetric(xp: Any, matrices: Array) -> Array:
    """Return the mean of matrices (..., K, K) and their transposes."""
    return 0.5 * matrices + 0.5 * xp.matrix_transpose(matrices)


def decompose(gramian: View) -> UnitGramian:
    """Decompose the Gramian of the unit gradients; zero gradients have zero rows there."""
    xp = gramian.xp
    lengths = xp.sqrt(xp.linalg.diagonal(gramian.values))
    divisors = xp.where(lengths > 0, lengths, xp.ones_like(lengths))
    units = symmetric(xp, gramian.values / divisors[..., :, None] / divisors[..., None, :])
    present = (lengths > 0)[..., :, None] & (lengths > 0)[..., None, :]
    values, vectors = xp.linalg.eigh(xp.where(present, units, xp.zeros_like(units)))
    tolerance = relative_tolerance(gramian.size, precision_of(gramian.original))
    return UnitGramian(lengths, divisors, values, vectors, values > tolerance * values[..., -1:], tolerance)


def apply_inverse(xp: Any, units: UnitGramian, right: Array, given: Array) -> Array:
    """Multiply `right` (..., K) by the pseudo-inverse of the Gramian of the unit gradients.

    `right` came from `given`, and has its rounding errors. If those explain all of `right` outside of the
    null space, the result is 0: a method that rescales it would make a direction of the noise.
    """
    zeros = xp.zeros_like(units.values)
    coefficients = xp.sum(units.vectors * right[..., :, None], axis=-2)
    coefficients = xp.where(units.present, coefficients, zeros)
    noise = (8.0 * units.tolerance) ** 2 * xp.sum(given * given, axis=-1, keepdims=True)
    known = xp.sum(coefficients * coefficients, axis=-1, keepdims=True) > noise
    divisors = xp.where(units.present, units.values, xp.ones_like(zeros))
    ratios = xp.where(known, coefficients / divisors, zeros)
    return xp.sum(units.vectors * ratios[..., None, :], axis=-1)
