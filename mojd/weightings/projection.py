"""Projection onto the dual cone, and DualProj: the projection of the mean gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import Array, FloatArray, as_array, plain_values
from mojd.qp import NNQP
from mojd.solvers import fused
from mojd.weightings._optimality import lengths, relative_maximum, slopes
from mojd.weightings._registry import QuadraticWeighting, register
from mojd.weightings._shared import (
    View,
    beside,
    check_values,
    finish,
    is_ordinary_call,
    like_plain,
    minimisers,
    plain_gramian,
    preference_of,
    solved,
    view,
    without_underflow,
)
from mojd.weightings._traced import traceable


def project_problem(U: Any, G: Any) -> NNQP:
    """Build the problems NNQP(G, G·u) whose minimisers x give the projections u + x.

    Parameters
    ----------
    U, G
        As for :func:`project`.

    Returns
    -------
    NNQP
        Of batch shape (..., R), or (...) for one vector u; the rows of U share G.

    Examples
    --------
    >>> import mojd
    >>> mojd.project_problem([[1.0, 0.0]], [[1.0, -1.0], [-1.0, 2.0]]).linear
    array([[ 1., -1.]])
    """
    matrix = view(G)
    return _problem(_rows(U, matrix), matrix)


def _rows(U: Any, gramian: View) -> Array:
    rows = as_array(U, "U")
    _checks.check_rows(rows, gramian.size, "U", "one vector of weights per row")
    _checks.broadcast_batch(gramian.batch_shape, tuple(rows.shape[:-2]), "G and U")
    return beside(rows, gramian)


def _problem(rows: Array, gramian: View) -> NNQP:
    shared = gramian.original if rows.ndim == 1 else gramian.original[..., None, :, :]
    return NNQP(shared, _linear(rows, gramian))


def _linear(rows: Array, gramian: View) -> Array:
    """Return G·u for every row u."""
    # Infinity propagates without a word: 0·∞ is NaN.
    squares = gramian.xp.linalg.diagonal(gramian.values)
    with np.errstate(invalid="ignore"):
        if rows.ndim == 1:
            terms = rows * gramian.values
            linear = _without_noise(gramian, gramian.xp.sum(terms, axis=-1), abs(terms))
            return without_underflow(linear, squares, gramian.xp)
        sizes = abs(rows) @ abs(gramian.values)
        linear = _without_noise(gramian, rows @ gramian.values, sizes[..., None])
        return without_underflow(linear, squares[..., None, :], gramian.xp)


def _without_noise(gramian: View, linear: Array, sizes: Array) -> Array:
    """Replace entries of G·u that rounding alone explains by 0.

    Where the gradients cancel, what rounding leaves of G·u need not lie in the range of G, and the
    problem would be unbounded for no reason. `sizes` holds the sizes of the terms of the sums.
    """
    noise = (gramian.size + 2) * 2.0**-52 * gramian.xp.sum(sizes, axis=-1)
    return gramian.xp.where(abs(linear) <= noise, gramian.xp.zeros_like(linear), linear)


def project(U: Any, G: Any, *, solver: str = "auto", threads: int = 1, nonfinite: str = "raise") -> Array:
    r"""Compute the weights of the projections of Jᵀu onto the dual cone, for every row u of U.

    .. math:: \operatorname*{arg\,min}_{v \in \mathbb{R}^K,\; v \ge u} v^\top G v

    :math:`J^\top v` is the direction nearest to :math:`J^\top u` that conflicts with no row of J.

    Parameters
    ----------
    U : array, shape (..., R, K) or (K,)
        Weights of the directions to project.
    G : array, shape (..., K, K)
        The Gramian; the leading axes broadcast against those of U.
    solver, threads, nonfinite
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, of the shape of U with the batch axes of G
        v ≥ u, in the namespace, dtype and device of `G`.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or G is no Gramian.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    Cost: one pivoting solve per row; G is prepared once. Scale-free.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, Proposition 1.

    Examples
    --------
    >>> import mojd
    >>> mojd.project([[1.0, 0.0], [0.0, 1.0]], [[1.0, -1.0], [-1.0, 2.0]])
    array([[1. , 0.5],
           [1. , 1. ]])
    """
    if is_ordinary_call(solver, threads, nonfinite):
        projected = _plain(U, G)
        if projected is not None:
            return projected
    return _project(U, G, solver=solver, threads=threads, nonfinite=nonfinite)


@traceable
def _project(U: Any, G: Any, *, solver: str, threads: int, nonfinite: str) -> Array:
    """Compute the weights of whatever :func:`project` takes."""
    matrix = view(G)
    check_values(matrix, nonfinite)
    rows = _rows(U, matrix)
    if nonfinite == "raise" and matrix.xp is np:
        _checks.check_finite(rows, "U")
    solution = solved(_problem(rows, matrix), solver, threads, nonfinite)
    return finish(rows + minimisers(solution, matrix), matrix)


def _plain(U: Any, G: Any) -> Array | None:
    """Project ordinary rows with one ordinary Gramian; return None if anything is unusual."""
    plain, rows = plain_gramian(G), plain_values(U)
    if plain is None or rows is None or not 1 <= rows[0].ndim <= 2 or rows[0].shape[-1] != len(plain[0]):
        return None
    linear = _linear(rows[0], View(plain[0], plain[0], np))
    x = fused.solve_plain(plain[0], linear, plain[1], bounded=True)
    return None if x is None else like_plain(rows[0] + x, G)


def dualproj_problem(gramian: Any, pref_vector: Any = None) -> NNQP:
    """Build DualProj's problem NNQP(G, G·u).

    Parameters
    ----------
    gramian, pref_vector
        As for :func:`dualproj`.

    Returns
    -------
    NNQP
        Its minimisers x give the weights u + x. For the default preference, u is 1 for all, and x
        has to be divided by K: the sum of the rows of G is then as exact as G.

    Examples
    --------
    >>> import mojd
    >>> mojd.dualproj_problem([[1.0, -2.0], [-2.0, 5.0]]).linear
    array([-1.,  3.])
    """
    matrix = view(gramian)
    terms = matrix.values
    # Infinities make NaN of a sum, and of a product with 0, without a warning.
    with np.errstate(invalid="ignore"):
        if pref_vector is not None:
            terms = preference_of(pref_vector, matrix)[..., None, :] * terms
        linear = _without_noise(matrix, matrix.xp.sum(terms, axis=-1), abs(terms))
        squares = matrix.xp.linalg.diagonal(matrix.values)
        return NNQP(matrix.original, without_underflow(linear, squares, matrix.xp))


def dualproj_lift(x: Array, gramian: View, pref_vector: Any = None) -> Array:
    """Turn minimisers x (..., K) of :func:`dualproj_problem` into weights (..., K)."""
    if pref_vector is None:
        return (1.0 + x) / gramian.size
    return preference_of(pref_vector, gramian) + x


def dualproj(
    gramian: Any, pref_vector: Any = None, *, solver: str = "auto", threads: int = 1, nonfinite: str = "raise"
) -> Array:
    r"""Compute the DualProj weights: project the preferred (mean) gradient onto the dual cone.

    .. math:: w = \operatorname*{arg\,min}_{v \in \mathbb{R}^K,\; v \ge u} v^\top G v

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    pref_vector : array, shape (..., K), optional
        Preferences u ≥ 0. Default: 1/K each.
    solver, threads, nonfinite
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights w ≥ u, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is no Gramian, or a preference is negative.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    Scaling all of J scales d and leaves w. Cost: one pivoting solve.

    Properties: non-conflicting ✓, linear under scaling ✗, weighted ✓.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, Table 1; Lopez-Paz and Ranzato, arXiv 1706.08840, eq. 8.

    Examples
    --------
    >>> import mojd
    >>> mojd.dualproj([[1.0, -2.0], [-2.0, 5.0]])
    array([1. , 0.5])
    """
    ordinary = pref_vector is None and is_ordinary_call(solver, threads, nonfinite)
    plain = plain_gramian(gramian) if ordinary else None
    if plain is not None:
        # Infinities of both signs are reported, or propagate, without a warning.
        with np.errstate(invalid="ignore"):
            linear = plain[0].sum(axis=-1)
        x = fused.solve_plain(plain[0], linear, plain[1], bounded=True)
        if x is not None:
            return like_plain((1.0 + x) / len(x), gramian)
    return _dualproj(gramian, pref_vector, solver=solver, threads=threads, nonfinite=nonfinite)


@traceable
def _dualproj(gramian: Any, pref_vector: Any, *, solver: str, threads: int, nonfinite: str) -> Array:
    """Compute the weights of whatever :func:`dualproj` takes."""
    matrix = view(gramian)
    solution = solved(dualproj_problem(matrix.original, pref_vector), solver, threads, nonfinite)
    return finish(dualproj_lift(minimisers(solution, matrix), matrix, pref_vector), matrix)


def _residual(weights: FloatArray, gramian: FloatArray, pref_vector: Any = None) -> FloatArray:
    """Return by how much weights miss w ≥ u, Gw ≥ 0 and (w − u)ᵀGw = 0, relative to max wᵢ·‖gᵢ‖."""
    size = gramian.shape[-1]
    preference = np.full(size, 1.0 / size) if pref_vector is None else np.asarray(pref_vector, np.float64)
    norms = lengths(gramian)
    gaps = np.minimum((weights - preference) * norms, slopes(gramian, weights))
    return relative_maximum(gaps, weights * norms)


register(
    QuadraticWeighting(
        name="dualproj",
        title="DualProj",
        weights=dualproj,
        residual=_residual,
        problem=dualproj_problem,
        lift=dualproj_lift,
        summary="projection of the mean gradient onto the dual cone",
        source="arXiv 1706.08840, equation 8",
    )
)
