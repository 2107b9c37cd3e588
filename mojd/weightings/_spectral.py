"""Pseudo-inverses of Gramians: what methods that solve linear systems share.

Whether gradients depend on each other is a question about their angles, not their lengths. It is put to the
Gramian of the unit gradients, so that a short gradient counts as much as a long one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mojd._arrays import Array, Precision, precision_of
from mojd.certificates import accurate_product, power_of_two
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
    nonzero = (lengths > 0)[..., :, None] & (lengths > 0)[..., None, :]
    values, vectors = xp.linalg.eigh(xp.where(nonzero, units, xp.zeros_like(units)))
    tolerance = relative_tolerance(gramian.size, precision_of(gramian.original))
    present = values > tolerance * values[..., -1:]
    rough = UnitGramian(products, lengths, divisors, values, vectors, present, tolerance)
    rows = xp.matrix_transpose(vectors)
    for _ in range(_REFINEMENTS):
        # Null vectors of the Gramian itself, and not of what rounding made of it.
        error = _divide(xp, rough, _project(xp, rough, _apply(xp, rough, rows)))
        rows = xp.where(present[..., :, None], rows, rows - error)
    return rough._replace(vectors=xp.matrix_transpose(rows))


def apply_inverse(xp: Any, units: UnitGramian, right: Array, given: Array) -> Array:
    """Multiply `right` (..., K) by the pseudo-inverse of the Gramian of the unit gradients.

    `right` came from `given`, and has its rounding errors. If those explain all of `right` outside of the
    null space, the result is 0: a method that rescales it would make a direction of the noise.
    """
    rows = right[..., None, :]
    coefficients = _project(xp, units, rows)
    # An eigenvector is as uncertain as its eigenvalue is small.
    doubt = units.tolerance * units.values[..., -1:] / _eigenvalues(xp, units)
    noise = 8.0 * doubt * xp.sqrt(xp.sum(given * given, axis=-1, keepdims=True))
    known = xp.any(abs(coefficients[..., 0, :]) > noise, axis=-1)
    solution = _divide(xp, units, coefficients)
    # The eigenvalues are those of rounded unit gradients. With residuals of the Gramian itself, each step
    # divides the error by what that costs, however nearly the gradients depend on each other.
    for _ in range(_REFINEMENTS):
        residual = rows - _apply(xp, units, solution)
        solution = solution + _divide(xp, units, _project(xp, units, residual))
    return xp.where(known[..., None], solution[..., 0, :], xp.zeros_like(right))


def _project(xp: Any, units: UnitGramian, rows: Array) -> Array:
    """Return rows (..., R, K) in the basis of the eigenvectors, without the null space."""
    products = rows @ units.vectors
    return xp.where(units.present[..., None, :], products, xp.zeros_like(products))


def _eigenvalues(xp: Any, units: UnitGramian) -> Array:
    """Return the eigenvalues, and 1 for those that are 0."""
    return xp.where(units.present, units.values, xp.ones_like(units.values))


def _divide(xp: Any, units: UnitGramian, coefficients: Array) -> Array:
    """Divide (..., R, K) by the eigenvalues, and go back from the basis of the eigenvectors."""
    return (coefficients / _eigenvalues(xp, units)[..., None, :]) @ xp.matrix_transpose(units.vectors)


def _apply(xp: Any, units: UnitGramian, rows: Array) -> Array:
    """Multiply rows (..., R, K) by the Gramian of the unit gradients, with about 80 bits in between."""
    count, size = rows.shape[-2:]
    powers = power_of_two(xp, units.divisors)
    factors = (powers / units.divisors)[..., None, :]
    scaled = units.gramian / powers[..., :, None] / powers[..., None, :]
    matrices = xp.reshape(scaled, (-1, size, size))
    vectors = xp.reshape(rows * factors, (-1, count, size))
    products = accurate_product(xp, matrices, vectors, xp.zeros_like(vectors))
    return xp.reshape(products, rows.shape) * factors
