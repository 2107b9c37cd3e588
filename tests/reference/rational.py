"""Linear algebra in exact rationals, for matrices of a handful of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np

Vector = list[Fraction]
Matrix = list[Vector]
Support = tuple[int, ...]

ZERO = Fraction(0)
ONE = Fraction(1)


def exact(value: Any) -> Fraction:
    """Convert a real number of any kind without rounding."""
    if isinstance(value, Fraction):
        return value
    if isinstance(value, (int, np.integer)):
        return Fraction(int(value))  # Fraction(np.int64) would keep, and overflow, the int64
    return Fraction(float(value))


def vector(values: Iterable[Any]) -> Vector:
    """Convert a sequence of real numbers without rounding."""
    return [exact(value) for value in values]


def matrix(rows: Iterable[Iterable[Any]]) -> Matrix:
    """Convert rows of real numbers without rounding."""
    return [vector(row) for row in rows]


def dot(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    """Compute a'b."""
    return sum((x * y for x, y in zip(a, b, strict=True) if x and y), ZERO)


def matvec(a: Matrix, x: Sequence[Fraction]) -> Vector:
    """Compute Ax."""
    return [dot(row, x) for row in a]


def quadratic(a: Matrix, x: Sequence[Fraction]) -> Fraction:
    """Compute x'Ax."""
    return dot(x, matvec(a, x))


def supports(size: int) -> Iterator[Support]:
    """Iterate over all subsets of ``range(size)``, the smallest first."""
    for count in range(size + 1):
        yield from combinations(range(size), count)


def block(a: Matrix, rows: Sequence[int], columns: Sequence[int]) -> Matrix:
    """Select rows and columns."""
    return [[a[i][j] for j in columns] for i in rows]


def scatter(values: Sequence[Fraction], support: Sequence[int], size: int) -> Vector:
    """Place values at the indices of a support, zero elsewhere."""
    full = [ZERO] * size
    for index, value in zip(support, values, strict=True):
        full[index] = value
    return full


def affine_solutions(a: Matrix, b: Sequence[Fraction]) -> tuple[Vector, Matrix] | None:
    """Solve Ax = b: one solution and a basis of the null space of A, or None if there is none."""
    size = len(a[0]) if a else 0
    rows = [[*row, right] for row, right in zip(a, b, strict=True)]
    pivots: list[int] = []
    for column in range(size):
        rank = len(pivots)
        found = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if found is None:
            continue
        rows[rank], rows[found] = rows[found], rows[rank]
        pivot = rows[rank][column]
        rows[rank] = [value / pivot if value else value for value in rows[rank]]
        for i, row in enumerate(rows):
            factor = row[column]
            if i != rank and factor:
                rows[i] = [x - factor * y if y else x for x, y in zip(row, rows[rank], strict=True)]
        pivots.append(column)
    if any(row[size] for row in rows[len(pivots) :]):
        return None
    particular = scatter([row[size] for row in rows[: len(pivots)]], pivots, size)
    basis = []
    for free in (j for j in range(size) if j not in pivots):
        null = scatter([-row[free] for row in rows[: len(pivots)]], pivots, size)
        null[free] = ONE
        basis.append(null)
    return particular, basis


def solve_nonsingular(a: Matrix, b: Sequence[Fraction]) -> Vector | None:
    """Solve Ax = b for a square A, or return None if A is singular."""
    if not a:
        return []
    found = affine_solutions(a, b)
    return None if found is None or found[1] else found[0]


def check_psd(a: Matrix) -> None:
    """Raise ValueError unless a matrix is square, symmetric and exactly positive semidefinite."""
    size = len(a)
    if any(len(row) != size for row in a):
        raise ValueError("the Gramian is not square")
    if any(a[i][j] != a[j][i] for i in range(size) for j in range(i)):
        raise ValueError("the Gramian is not symmetric")
    rest = [list(row) for row in a]
    for k in range(size):
        pivot = rest[k][k]
        if pivot < 0 or (pivot == 0 and any(rest[k][k:])):
            raise ValueError(f"the Gramian is not exactly positive semidefinite (pivot {k})")
        for i in range(k + 1, size):
            factor = rest[i][k] / pivot if pivot else ZERO
            if factor:
                for j in range(k, size):
                    rest[i][j] -= factor * rest[k][j]


def extreme_null_rays(a: Matrix) -> list[tuple[Support, Vector]]:
    """List the extreme rays of {z >= 0, Az = 0} of a PSD matrix, scaled to sum one.

    A ray is extreme when the block of its support has a null space of dimension one, spanned by a
    vector that is positive throughout.
    """
    rays = []
    for support in supports(len(a)):
        if not support:
            continue
        found = affine_solutions(block(a, support, support), [ZERO] * len(support))
        if found is None or len(found[1]) != 1:
            continue
        null = found[1][0]
        if all(value > 0 for value in null) or all(value < 0 for value in null):
            total = sum(null, ZERO)
            rays.append((support, scatter([value / total for value in null], support, len(a))))
    return rays


def square_root(value: Fraction) -> float:
    """Compute the square root of a non-negative rational to full double precision."""
    if value == 0:
        return 0.0
    # 2**(2 * shift) brings the quotient to at least 128 bits, so that isqrt keeps 64.
    shift = max(0, 64 + (value.denominator.bit_length() - value.numerator.bit_length()) // 2 + 1)
    root = math.isqrt((value.numerator << (2 * shift)) // value.denominator)
    return float(Fraction(root, 1 << shift))
