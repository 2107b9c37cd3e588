"""Exact solutions of mojd's problems by enumeration in rational arithmetic.

Every float is taken as the rational number that it is, and every subset of the K objectives is
tried, so that an answer has no error at all. The cost grows as 2**K K**3: meant for K <= 6. The
methods are solved on their own primal problems (the feasible candidate with the least objective
wins), not through the reductions to the NNQP that the library uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np

from . import rational as ra
from .nnqp import ExactSolution, checked_gramian, solve_nnqp, squared_distance
from .rational import ONE, ZERO, Matrix, Vector

__all__ = [
    "ExactPCD",
    "ExactSolution",
    "block_condition",
    "direction_error",
    "dualproj",
    "mgda",
    "pcd",
    "project",
    "residual_floor",
    "rounding_floor",
    "solve_nnqp",
    "upgrad",
]


def _least(candidates: Iterable[tuple[Fraction, Vector]]) -> Vector:
    """Return the candidate with the least objective, the first of equals."""
    best: tuple[Fraction, Vector] | None = None
    for objective, x in candidates:
        if best is None or objective < best[0]:
            best = objective, x
    assert best is not None
    return best[1]


def project(u: Iterable[Any], gramian: Iterable[Iterable[Any]]) -> Vector:
    """Minimise v'Gv over v >= u exactly: the dual-cone projection of J'u is J'v."""
    g, lower = checked_gramian(gramian), ra.vector(u)
    size = len(lower)

    def candidates() -> Iterable[tuple[Fraction, Vector]]:
        for free in ra.supports(size):
            fixed = [i for i in range(size) if i not in free]
            pull = ra.matvec(ra.block(g, free, fixed), [lower[i] for i in fixed])
            values = ra.solve_nonsingular(ra.block(g, free, free), [-value for value in pull])
            if values is None:
                continue
            v = list(lower)
            for index, value in zip(free, values, strict=True):
                v[index] = value
            if all(a >= b for a, b in zip(v, lower, strict=True)):
                yield ra.quadratic(g, v), v

    return _least(candidates())


def _preference(u: Iterable[Any] | None, size: int) -> Vector:
    return [Fraction(1, size)] * size if u is None else ra.vector(u)


def upgrad(gramian: Iterable[Iterable[Any]], u: Iterable[Any] | None = None) -> Vector:
    """Sum the projections of u_i e_i (u_i = 1/K by default)."""
    g = ra.matrix(gramian)
    size = len(g)
    parts = [
        project([value if j == i else ZERO for j in range(size)], g)
        for i, value in enumerate(_preference(u, size))
    ]
    return [sum(column, ZERO) for column in zip(*parts, strict=True)]


def dualproj(gramian: Iterable[Iterable[Any]], u: Iterable[Any] | None = None) -> Vector:
    """Project u (1/K in every entry by default)."""
    g = ra.matrix(gramian)
    return project(_preference(u, len(g)), g)


def mgda(gramian: Iterable[Iterable[Any]]) -> Vector:
    """Minimise w'Gw over the simplex: the min-norm point of the hull of the gradients is J'w."""
    g = checked_gramian(gramian)
    size = len(g)

    def candidates() -> Iterable[tuple[Fraction, Vector]]:
        for support in ra.supports(size):
            if not support:
                continue
            bordered = [[*row, ONE] for row in ra.block(g, support, support)]
            bordered.append([ONE] * len(support) + [ZERO])
            values = ra.solve_nonsingular(bordered, [ZERO] * len(support) + [ONE])
            if values is None or any(value < 0 for value in values[:-1]):
                continue
            w = ra.scatter(values[:-1], support, size)
            yield ra.quadratic(g, w), w

    return _least(candidates())


@dataclass(frozen=True)
class ExactPCD:
    """The exact answer of PCD's QP.

    Attributes
    ----------
    weights : list of Fraction
        S (1, mu); S (1, 0), the constraints dropped, where the QP is infeasible.
    feasible : bool
        Whether any direction meets all constraints.
    ray : list of Fraction
        Farkas certificate over the secondaries (empty if feasible): mu >= 0, the scaled secondaries
        cancel, and b'mu > 0.
    """

    weights: Vector
    feasible: bool
    ray: Vector


def pcd(gramian: Iterable[Iterable[Any]], tau: Any, scales: Iterable[Any] | None = None) -> ExactPCD:
    """Minimise |d - g_0|**2 subject to g_j'd >= tau_j |g_j|**2 exactly (j >= 1, rows scaled by S).

    For every set of secondaries, the point nearest to g_0 that meets their constraints with
    equality is formed; the nearest of those that meet all constraints is the answer. Multipliers of
    either sign are allowed while searching, so that their sign in the result is a finding.
    """
    g = checked_gramian(gramian)
    size = len(g)
    s = [ONE] * size if scales is None else ra.vector(scales)
    g = [[s[i] * g[i][j] * s[j] for j in range(size)] for i in range(size)]
    taus = [ra.exact(tau)] * (size - 1) if np.ndim(tau) == 0 else ra.vector(tau)
    target = [ZERO] + [t * g[j][j] for j, t in enumerate(taus, start=1)]
    best: tuple[Fraction, Vector] | None = None
    for subset in ra.supports(size - 1):
        active = [j + 1 for j in subset]
        right = [target[j] - g[j][0] for j in active]
        values = ra.solve_nonsingular(ra.block(g, active, active), right)
        if values is None:
            continue
        mu = ra.scatter(values, active, size)
        products = ra.matvec(g, [ONE, *mu[1:]])
        if all(products[j] >= target[j] for j in range(1, size)):
            distance = ra.quadratic(g, mu)
            # At equal distance the direction is the same, but only mu >= 0 is a set of multipliers.
            nonnegative = all(value >= 0 for value in mu)
            better = best is None or distance < best[0]
            if better or (best is not None and distance == best[0] and min(best[1]) < 0 and nonnegative):
                best = distance, mu
    if best is not None:
        mu = best[1]
        assert min(mu) >= 0, "the nearest feasible direction has non-negative multipliers"
        return ExactPCD([s[0], *(a * b for a, b in zip(s[1:], mu[1:], strict=True))], True, [])
    gains = [target[j] - g[j][0] for j in range(1, size)]
    secondaries = range(1, size)
    rays = [ray for _, ray in ra.extreme_null_rays(ra.block(g, secondaries, secondaries))]
    ray = next(ray for ray in rays if ra.dot(gains, ray) > 0)
    return ExactPCD([s[0]] + [ZERO] * (size - 1), False, ray)


def direction_error(w: Iterable[Any], w_exact: Iterable[Any], gramian: Iterable[Iterable[Any]]) -> float:
    """Compute |J'(w - w*)| / |J'w*|, exactly up to the last square root.

    Where the exact direction is zero, the scale is max_i |w*_i| |g_i|: the size of what cancels.
    """
    g, target = ra.matrix(gramian), ra.vector(w_exact)
    distance = squared_distance(w, target, g)
    scale = ra.quadratic(g, target) or max(value**2 * g[i][i] for i, value in enumerate(target))
    if not scale:
        return float("inf") if distance else 0.0
    return ra.square_root(distance / scale)


def rounding_floor(w_exact: Iterable[Any], gramian: Iterable[Iterable[Any]]) -> float:
    """Compute the direction error of the exact weights once rounded to float64.

    Weights that nearly cancel cannot represent their direction any better than this.
    """
    target = ra.vector(w_exact)
    return direction_error([float(value) for value in target], target, gramian)


def residual_floor(gramian: Iterable[Iterable[Any]], linear: Iterable[Any]) -> float:
    """Compute the least scale-free residual that any x >= 0, however large, leaves of s >= 0.

    A Gramian that rounding made indefinite may have no KKT point at all, and no solver can beat this
    floor. By duality it is the maximum of -y'q over y >= 0 with Gy <= 0 and sum_i y_i |g_i| = 1,
    relative to max |q_i| / |g_i|. Found over all vertices of that polytope: meant for K <= 6.
    """
    g, q = ra.matrix(gramian), ra.vector(linear)
    size = len(q)
    norms = [ra.exact(ra.square_root(g[i][i])) or ONE for i in range(size)]
    bounds = [[ONE if i == j else ZERO for j in range(size)] for i in range(size)]
    bounds += [[-value for value in row] for row in g]
    worst = ZERO
    for tight in combinations(range(2 * size), size - 1):
        y = ra.solve_nonsingular([*(bounds[i] for i in tight), norms], [ZERO] * (size - 1) + [ONE])
        if y is not None and all(ra.dot(bound, y) >= 0 for bound in bounds):
            worst = max(worst, -ra.dot(q, y))
    scale = max(abs(value) / norm for value, norm in zip(q, norms, strict=True))
    return float(worst / scale) if worst else 0.0


def block_condition(gramian: Iterable[Iterable[Any]], active: Iterable[Any]) -> float:
    """Compute the spectral condition number of the block of a boolean mask (inf if singular).

    The inverse is exact, so that a condition number far beyond 1e16 is still right.
    """
    g = ra.matrix(gramian)
    support = [index for index, value in enumerate(active) if value]
    if not support:
        return 1.0
    chosen = ra.block(g, support, support)
    columns = []
    for k in range(len(support)):
        column = ra.solve_nonsingular(chosen, [ONE if i == k else ZERO for i in range(len(support))])
        if column is None:
            return float("inf")
        columns.append(column)
    return _largest_eigenvalue(chosen) * _largest_eigenvalue(columns)


def _largest_eigenvalue(a: Matrix) -> float:
    return float(np.linalg.eigvalsh(np.array([[float(value) for value in row] for row in a]))[-1])
