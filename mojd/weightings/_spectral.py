"""Pseudo-inverses of Gramians: what methods that solve linear systems share.

Whether gradients depend on each other is a question about their angles, not their lengths. It is put to the
Gramian of the unit gradients, so that a short gradient counts as much as a long one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mojd._arrays import Array, Precision, precision_of
from mojd.certificates import Equilibrated, accurate_slack, power_of_two
from mojd.weightings._shared import View

# Steps of iterative refinement.
_REFINEMENTS = 3


class UnitGramian(NamedTuple):
    """Gradients as lengths and directions, with the eigenvectors of the Gramian of the directions.

    Attributes
    ----------
    gramian : float64 array, shape (..., K, K)
        The Gramian of the gradients themselves, symmetric.
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

    gramian: Array
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
    products = symmetric(xp, gramian.values)
    units = products / divisors[..., :, None] / divisors[..., None, :]
    present = (lengths > 0)[..., :, None] & (lengths > 0)[..., None, :]
    values, vectors = xp.linalg.eigh(xp.where(present, units, xp.zeros_like(units)))
    tolerance = relative_tolerance(gramian.size, precision_of(gramian.original))
    return UnitGramian(
        products, lengths, divisors, values, vectors, values > tolerance * values[..., -1:], tolerance
    )


def apply_inverse(xp: Any, units: UnitGramian, right: Array, given: Array) -> Array:
    """Multiply `right` (..., K) by the pseudo-inverse of the Gramian of the unit gradients.

    `right` came from `given`, and has its rounding errors. If those explain all of `right` outside of the
    null space, the result is 0: a method that rescales it would make a direction of the noise.
    """
    coefficients = _coefficients(xp, units, right)
    noise = (8.0 * units.tolerance) ** 2 * xp.sum(given * given, axis=-1, keepdims=True)
    known = xp.sum(coefficients * coefficients, axis=-1, keepdims=True) > noise
    solution = _combine(xp, units, coefficients)
    # The eigenvectors are those of rounded unit gradients. With residuals of the Gramian itself, each step
    # divides the error by what that costs, however nearly the gradients depend on each other.
    for _ in range(_REFINEMENTS):
        residual = right - _apply(xp, units, solution)
        solution = solution + _combine(xp, units, _coefficients(xp, units, residual))
    return xp.where(known, solution, xp.zeros_like(solution))


def _coefficients(xp: Any, units: UnitGramian, rows: Array) -> Array:
    """Return rows (..., K) in the basis of the eigenvectors, without the null space."""
    products = xp.sum(units.vectors * rows[..., :, None], axis=-2)
    return xp.where(units.present, products, xp.zeros_like(products))


def _combine(xp: Any, units: UnitGramian, coefficients: Array) -> Array:
    """Divide by the eigenvalues, and go back from the basis of the eigenvectors."""
    divisors = xp.where(units.present, units.values, xp.ones_like(units.values))
    return xp.sum(units.vectors * (coefficients / divisors)[..., None, :], axis=-1)


def _apply(xp: Any, units: UnitGramian, rows: Array) -> Array:
    """Multiply rows (..., K) by the Gramian of the unit gradients, with about 80 bits in between."""
    size = rows.shape[-1]
    powers = power_of_two(xp, units.divisors)
    scaled = units.gramian / powers[..., :, None] / powers[..., None, :]
    vectors = xp.broadcast_to(rows / units.divisors * powers, units.divisors.shape[:-1] + (size,))
    flat = xp.reshape(vectors, (-1, 1, size))
    empty = xp.zeros_like(flat)
    matrices = xp.reshape(xp.broadcast_to(scaled, (*vectors.shape, size)), (-1, size, size))
    products = accurate_slack(xp, Equilibrated(matrices, empty, flat, flat[:, 0, :], empty))
    return xp.reshape(products, vectors.shape) * powers / units.divisors
