"""Vectors, row spaces and cones without units: what an audit measures with.

Everything is float64 NumPy. Vectors are scaled by powers of two first, so that no square over- or
underflows and products of integers stay exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mojd._arrays import FloatArray
from mojd.certificates import power_of_two
from mojd.qp import NNQP
from mojd.solvers import solve


class Measured(NamedTuple):
    """Vectors (..., n) as ``parts * scale``, with the lengths of the parts, and of length 1 (or 0)."""

    parts: FloatArray
    scale: FloatArray
    length: FloatArray
    unit: FloatArray

    @property
    def norm(self) -> FloatArray:
        """The lengths in their own units."""
        return self.length * self.scale


def measure(values: FloatArray) -> Measured:
    """Scale and measure vectors along the last axis."""
    scale = power_of_two(np, np.max(np.abs(values), axis=-1, initial=0.0))
    parts = values / scale[..., None]
    length = np.sqrt(np.sum(parts * parts, axis=-1))
    divisor = np.where(length == 0.0, 1.0, length)
    return Measured(parts, scale, length, parts / divisor[..., None])


def rates(rows: Measured, vector: Measured) -> FloatArray:
    """Return the cosines between rows and a vector, exactly 0 for integers at right angles."""
    lengths = rows.length * vector.length
    return (rows.parts @ vector.parts) / np.where(lengths == 0.0, 1.0, lengths)


def angle(first: Measured, second: Measured) -> float:
    """Return the angle in degrees between two vectors, as exact for 0° and 180° as for 90°; NaN at 0."""
    if not (first.length > 0 and second.length > 0):
        return float("nan")
    difference, total = first.unit - second.unit, first.unit + second.unit
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(difference), np.linalg.norm(total))))


class Combination(NamedTuple):
    """A weighted sum of rows, and the rate that its rounding errors may feign."""

    vector: Measured
    tolerance: float
    cancels: bool


def noise(size: int, eps: float) -> float:
    """Return the relative rounding errors to expect in weighted sums of K gradients."""
    return 4 * (size + 8) * eps


def combine(weights: FloatArray, rows: Measured, eps: float) -> Combination:
    """Add up rows; a sum that is no longer than its own rounding errors becomes 0."""
    terms = weights * rows.scale
    scale = power_of_two(np, np.max(np.abs(terms), initial=0.0))
    terms = terms / scale
    vector = measure(terms @ rows.parts)
    size = float(np.sum(np.abs(terms) * rows.length))
    relative = noise(len(terms), eps)
    length = float(vector.norm)
    if length <= relative * size:
        return Combination(measure(np.zeros_like(vector.parts)), relative, size > 0)
    return Combination(vector._replace(scale=vector.scale * scale), relative * size / length, False)


class RowSpace(NamedTuple):
    """The singular value decomposition of gradients of length 1, without what is rounding."""

    left: FloatArray
    values: FloatArray
    right: FloatArray

    def outside(self, unit: FloatArray) -> float:
        """Return the distance of a vector of length 1 from the row space."""
        return float(np.linalg.norm(unit - (self.right @ unit) @ self.right))

    def weights(self, unit: FloatArray) -> FloatArray:
        """Return the smallest weights for gradients of length 1 that come nearest to a vector."""
        weights: FloatArray = self.left @ ((self.right @ unit) / self.values)
        return weights


def row_space(rows: Measured, eps: float) -> RowSpace:
    """Decompose rows; NaN gives NaN."""
    if not np.isfinite(rows.unit).all():
        size, count = rows.unit.shape
        return RowSpace(np.full((size, 1), np.nan), np.ones(1), np.full((1, count), np.nan))
    left, values, right = np.linalg.svd(rows.unit, full_matrices=False)
    rank = int(np.sum(values > noise(len(values), eps) * np.max(values, initial=0.0)))
    return RowSpace(left[:, :rank], values[:rank], right[:rank])


def cone_distance(rows: Measured, unit: FloatArray) -> float:
    """Return the distance of a vector of length 1 from the sums of gradients with weights ≥ 0.

    The squares in the Gramian cost half of the digits where gradients nearly depend on each other.
    Least squares on the gradients with positive weights, and on all, get them back; any weights ≥ 0 give
    an upper bound.
    """
    if not (np.isfinite(rows.unit).all() and np.isfinite(unit).all()):
        return float("nan")
    problem = NNQP(rows.unit @ rows.unit.T, -(rows.unit @ unit))
    x = np.nan_to_num(np.asarray(solve(problem).x))
    distance = float(np.linalg.norm(unit - x @ rows.unit))
    for support in (rows.unit[x > 0], rows.unit):
        weights = np.maximum(np.linalg.lstsq(support.T, unit, rcond=None)[0], 0.0)
        distance = min(distance, float(np.linalg.norm(unit - weights @ support)))
    return distance


def ray_distance(ray: FloatArray, unit: FloatArray) -> float:
    """Return the distance of a vector of length 1 from a ray."""
    return float(np.linalg.norm(unit - max(0.0, float(ray @ unit)) * ray))
