"""Check a solution in float64 against the KKT conditions, with exact dot products at any size.

A float is an integer times a power of two, so that a row times a vector is a sum of Python integers:
exact, and fast enough for K = 512. Only the final scaling and square roots round. Shares no code
with the library's own certificates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def _array(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _split(values: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write floats as mantissa * 2**exponent with integer mantissas."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(fraction, 53).astype(np.int64), exponent.astype(np.int64) - 53


def _power_of_two(exponent: int) -> Fraction:
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def exact_products(gramian: ArrayLike, x: ArrayLike) -> list[Fraction]:
    """Compute Gx without rounding, for G of shape (rows, K) and x of shape (K,)."""
    mantissas, exponents = _split(_array(gramian))
    factors, shifts = _split(_array(x))
    zero = (mantissas == 0) | (factors == 0)
    powers = np.where(zero, np.iinfo(np.int64).max, exponents + shifts)
    lowest = powers.min(axis=1)
    shift = np.where(zero, 0, powers - lowest[:, None]).tolist()
    column = factors.tolist()
    products = []
    for row, up, low, empty in zip(mantissas.tolist(), shift, lowest.tolist(), zero.all(axis=1), strict=True):
        total = sum((a * b) << c for a, b, c in zip(row, column, up, strict=True))
        products.append(Fraction(0) if empty else total * _power_of_two(low))
    return products


def exact_dot(a: ArrayLike, b: ArrayLike) -> Fraction:
    """Compute a'b without rounding."""
    return exact_products(_array(a)[None, :], b)[0]


def exact_slack(gramian: ArrayLike, linear: ArrayLike, x: ArrayLike) -> list[Fraction]:
    """Compute Gx + q without rounding."""
    products = exact_products(gramian, x)
    return [a + Fraction(b) for a, b in zip(products, _array(linear).tolist(), strict=True)]


def row_norms(gramian: ArrayLike) -> Floats:
    """Compute the norms of the gradients, sqrt(G_ii), with 1 in place of 0."""
    norms = np.sqrt(np.diagonal(_array(gramian)))
    return np.where(norms == 0, 1.0, norms)


def indefiniteness(gramian: ArrayLike) -> float:
    """Compute the size of the negative part of G with rows scaled to norm one: max(0, -lambda_min).

    Where it is positive, as float32 leaves it, KKT points need not exist: a solver that answers for
    the nearest Gramian that is PSD leaves a residual of this size times its weights.
    """
    norms = row_norms(gramian)
    scaled = _array(gramian) / norms[:, None] / norms
    return max(0.0, -float(np.linalg.eigvalsh(scaled)[0]))


def kkt_residual(gramian: ArrayLike, linear: ArrayLike, x: ArrayLike) -> float:
    """Compute max_i |min(x_i / D_i, D_i s_i)| / max_i |D_i q_i| with D_i = 1 / sqrt(G_ii).

    D_i = 1 where G_ii = 0. Zero if both parts of the quotient are zero, infinite if x is not finite
    or only the denominator is zero.
    """
    point = _array(x)
    if not np.isfinite(point).all():
        return math.inf
    norms = row_norms(gramian).tolist()
    slack = [float(s) / norm for s, norm in zip(exact_slack(gramian, linear, point), norms, strict=True)]
    scaled = [value * norm for value, norm in zip(point.tolist(), norms, strict=True)]
    violation = max(abs(min(a, b)) for a, b in zip(scaled, slack, strict=True))
    scale = max(abs(q) / norm for q, norm in zip(_array(linear).tolist(), norms, strict=True))
    if violation == 0.0:
        return 0.0
    return violation / scale if scale else math.inf


def worst_kkt_residual(gramian: ArrayLike, linear: ArrayLike, x: ArrayLike, rows: Iterable[int]) -> float:
    """Compute the worst residual of some rows of a stack of right-hand sides that share G."""
    linears, points = _array(linear), _array(x)
    return max((kkt_residual(gramian, linears[r], points[r]) for r in rows), default=0.0)


def gap(gramian: ArrayLike, linear: ArrayLike, x: ArrayLike) -> float:
    """Compute x's with exact sums."""
    slack = exact_slack(gramian, linear, x)
    return float(sum((Fraction(a) * s for a, s in zip(_array(x).tolist(), slack, strict=True)), Fraction(0)))


def is_ray(gramian: ArrayLike, linear: ArrayLike, ray: ArrayLike, tolerance: float = 1e-9) -> bool:
    """Tell whether z proves that the NNQP is unbounded: z >= 0, Gz = 0 and q'z < 0.

    All three are measured on rows of norm one, z^ = z sqrt(G_ii) divided by its largest entry:
    |J'z| <= tolerance, and q'z < -tolerance max |q^| over the rows that z has a part of: those alone say what
    is small (a row of zeros has any unit). Entries of z must not be negative at all.
    """
    z = _array(ray)
    if not np.isfinite(z).all() or (z < 0).any() or not z.any():
        return False
    norms = row_norms(gramian)
    size = Fraction(float((z * norms).max()))
    products = exact_products(gramian, z)
    curvature = sum((Fraction(a) * b for a, b in zip(z.tolist(), products, strict=True)), Fraction(0))
    descent = exact_dot(linear, z)
    scale = Fraction(float((np.abs(_array(linear)) / norms)[z > 0].max()))
    return curvature <= (Fraction(tolerance) * size) ** 2 and descent < -Fraction(tolerance) * scale * size
