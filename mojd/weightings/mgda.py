"""MGDA: the shortest vector in the convex hull of the gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import Array, FloatArray, precision_of
from mojd.certificates import power_of_two
from mojd.qp import NNQP
from mojd.solvers import fused
from mojd.weightings._optimality import lengths, relative_maximum, slopes
from mojd.weightings._registry import QuadraticWeighting, register
from mojd.weightings._shared import (
    View,
    are_sound,
    check_values,
    finish,
    is_ordinary_call,
    like_plain,
    plain_gramian,
    solved,
    view,
)
from mojd.weightings._traced import traceable


def mgda_problem(gramian: Any) -> NNQP:
    r"""Build MGDA's problem NNQP(G + c·11ᵀ, −c·1), whose minimisers are proportional to w.

    For x = w/(1 + ‖d‖²/c) with w in the simplex, its KKT conditions are those of the simplex QP,
    for any c > 0. A power of two below the smallest positive ‖gᵢ‖² is taken, so that no row of G
    is drowned in c and G + c·11ᵀ is exact wherever it can be.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        As for :func:`mgda`.

    Returns
    -------
    NNQP
        Of the batch shape of `gramian`.

    Examples
    --------
    >>> import mojd
    >>> mojd.mgda_problem([[4.0, 0.0], [0.0, 2.0]]).gramian
    array([[6., 2.],
           [2., 4.]])
    """
    return _problem(view(gramian))


def _problem(matrix: View) -> NNQP:
    xp, values = matrix.xp, matrix.values
    diagonal = xp.linalg.diagonal(values)
    infinite = xp.full_like(diagonal, float("inf"))
    offset = power_of_two(xp, xp.min(xp.where(diagonal > 0, diagonal, infinite), axis=-1))
    linear = xp.zeros_like(diagonal) - offset[..., None]
    problem = NNQP(values + offset[..., None, None], linear)
    problem.precision = precision_of(matrix.original)
    return problem


def mgda_lift(x: Array, gramian: View) -> Array:
    """Turn minimisers x (..., K) of :func:`mgda_problem` into weights (..., K) that sum to 1."""
    return x / gramian.xp.sum(x, axis=-1, keepdims=True)


def mgda(gramian: Any, *, solver: str = "auto", threads: int = 1, nonfinite: str = "raise") -> Array:
    r"""Compute the MGDA weights: the convex combination of the gradients with the least norm.

    .. math:: w = \operatorname*{arg\,min}_{w \ge 0,\; \sum_i w_i = 1} w^\top G w

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    solver, threads, nonfinite
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights w ≥ 0 that sum to 1, in the namespace, dtype and device of `gramian`. They are not
        unique if gradients depend on each other; the direction is.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, or the Gramian is no Gramian.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    Invariant to the scale of J, dominated by its shortest rows. Where the convex hull of rows that are
    10⁸ times as long as the shortest contains 0, that is lost in rounding. Cost: one pivoting solve.

    Properties: non-conflicting ✓, linear under scaling ✗, weighted ✓.

    References
    ----------
    Désidéri, C. R. Math. 350 (2012); Sener and Koltun, arXiv 1810.04650, eq. 3.

    Examples
    --------
    >>> import mojd
    >>> mojd.mgda([[4.0, 0.0], [0.0, 1.0]])
    array([0.2, 0.8])
    """
    plain = plain_gramian(gramian) if is_ordinary_call(solver, threads, nonfinite) else None
    if plain is not None and fused.is_gramian(*plain):
        values, precision = plain
        shifted = _problem(View(values, values, np))
        x = fused.solve_plain(shifted.gramian, shifted.linear, precision, bounded=True)
        if x is not None:
            return like_plain(x / x.sum(), gramian)
    return _mgda(gramian, solver=solver, threads=threads, nonfinite=nonfinite)


@traceable
def _mgda(gramian: Any, *, solver: str, threads: int, nonfinite: str) -> Array:
    """Compute the weights of whatever :func:`mgda` takes."""
    matrix = view(gramian)
    # Before c is added, so that an error shows the caller's own numbers.
    check_values(matrix, nonfinite)
    problem = mgda_problem(matrix.original)
    solution = solved(problem, solver, threads, nonfinite)
    weights = mgda_lift(solution.x_float64, matrix)
    if matrix.xp is not np:
        # The problem is one of the sum with c·11ᵀ, which may be a Gramian where G is none.
        weights = matrix.xp.where(
            are_sound(matrix)[..., None], weights, matrix.xp.full_like(weights, math.nan)
        )
    return finish(weights, matrix)


def _residual(weights: FloatArray, gramian: FloatArray) -> FloatArray:
    """Return by how much weights miss the simplex, or the conditions of the problem above.

    For x proportional to weights on the simplex those are min(x, s) = 0 with s = Gx − c·(1 − Σx). Units are
    gradients of the shifted problem with norm 1, and its linear term is their size.
    """
    total = np.sum(weights, axis=-1, keepdims=True)
    usable = np.where(total > 0, total, 1.0)
    shifted = _problem(View(gramian, gramian, np))
    offset = -shifted.linear[..., :1]
    w = weights / usable
    norms = lengths(gramian)
    square = np.sum(w * norms * slopes(gramian, w), axis=-1, keepdims=True)
    x = w / (1.0 + np.maximum(square, 0.0) / offset)
    norms = lengths(shifted.gramian)
    gaps = np.minimum(x * norms, slopes(shifted.gramian, x, shifted.linear))
    kkt = relative_maximum(gaps, shifted.linear / norms)
    return np.where(total[..., 0] > 0, np.maximum(kkt, np.abs(total[..., 0] - 1.0)), 1.0)


register(
    QuadraticWeighting(
        name="mgda",
        title="MGDA",
        weights=mgda,
        residual=_residual,
        problem=mgda_problem,
        lift=mgda_lift,
        summary="shortest convex combination of the gradients",
        source="arXiv 1810.04650, equation 3",
    )
)
