"""UPGrad: the mean of the projections of all gradients onto the dual cone."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import Array, FloatArray, as_array, is_on_device, precision_of
from mojd.qp import NNQP
from mojd.solvers import cuda, fused, solve
from mojd.weightings._optimality import lengths, relative_maximum, slopes
from mojd.weightings._registry import QuadraticWeighting, register
from mojd.weightings._shared import (
    View,
    check_statuses,
    check_values,
    finish,
    is_ordinary_call,
    like_plain,
    minimisers,
    plain_gramian,
    preference_of,
    solved,
    unseen,
    view,
    without_underflow,
)
from mojd.weightings._traced import traceable


@functools.lru_cache(maxsize=64)
def uniform(size: int) -> FloatArray:
    """Return the preference 1/K for all; not to be modified."""
    return np.full(size, 1.0 / size)


def upgrad_problem(gramian: Any, pref_vector: Any = None) -> NNQP:
    r"""Build UPGrad's K problems per Gramian: NNQP(G, uᵢ·G·eᵢ), i = 1, …, K.

    Parameters
    ----------
    gramian, pref_vector
        As for :func:`upgrad`.

    Returns
    -------
    NNQP
        Of batch shape (..., K); all K problems of a Gramian share it. The minimisers x⁽ⁱ⁾ are how
        much the projection of uᵢ·gᵢ takes of the other gradients: weights are u + Σᵢ x⁽ⁱ⁾.

    Examples
    --------
    >>> import mojd
    >>> problem = mojd.upgrad_problem([[18.0, -22.0], [-22.0, 38.0]])
    >>> problem.batch_shape
    (2,)
    >>> mojd.solve(problem).x.sum(axis=0) + 0.5
    array([1.11111111, 0.78947368])
    """
    matrix = view(gramian)
    preference = preference_of(pref_vector, matrix)
    squares = matrix.xp.linalg.diagonal(matrix.values)[..., None, :]
    linear = without_underflow(preference[..., :, None] * matrix.values, squares, matrix.xp)
    return NNQP(matrix.original[..., None, :, :], linear)


def upgrad_lift(x: Array, gramian: View, pref_vector: Any = None) -> Array:
    """Turn minimisers x (..., K, K) of :func:`upgrad_problem` into weights (..., K)."""
    return preference_of(pref_vector, gramian) + gramian.xp.sum(x, axis=-2)


def upgrad(
    gramian: Any, pref_vector: Any = None, *, solver: str = "auto", threads: int = 1, nonfinite: str = "raise"
) -> Array:
    r"""Compute the UPGrad weights: project every gradient onto the dual cone, and add up.

    .. math:: w = \sum_i v^{(i)}, \qquad
       v^{(i)} = \operatorname*{arg\,min}_{v \in \mathbb{R}^K,\; v \ge u_i e_i} v^\top G v

    The direction :math:`d = J^\top w` conflicts with no objective (:math:`J d \ge 0`), and grows
    linearly with each row of J.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients, positive semi-definite up to rounding in its own dtype.
    pref_vector : array, shape (..., K), optional
        Preferences u ≥ 0. Default: 1/K each.
    solver : str, default 'auto'
        One of :func:`mojd.available_solvers`.
    threads : int, default 1
        How many threads share the work. The result does not depend on it.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity on the CPU: an error, or NaN weights.

    Returns
    -------
    array, shape (..., K)
        Weights w ≥ u, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is asymmetric or no Gramian, or a preference is negative.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    Nothing is regularised. Scaling all of J scales d and leaves w; tiny, huge and rank-deficient
    Gramians are solved as they are. Cost: K non-negative least-squares problems that share G, a few
    Cholesky factorisations of their passive blocks each. Float64 inside.

    Properties: non-conflicting ✓, linear under scaling ✓, weighted ✓.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, §3.1 and Proposition 1.

    Examples
    --------
    Two gradients in conflict, and the worked value (10/9, 15/19) of the paper:

    >>> import mojd, numpy as np
    >>> J = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> w = mojd.upgrad(J @ J.T)
    >>> w
    array([1.11111111, 0.78947368])
    >>> bool((J @ (J.T @ w) >= -1e-12).all())
    True
    """
    if pref_vector is None and is_ordinary_call(solver, threads, nonfinite):
        plain = plain_gramian(gramian)
        weights = None if plain is None else fused.upgrad_plain(plain[0], uniform(len(plain[0])), plain[1])
        if weights is not None:
            return like_plain(weights, gramian)
    return _upgrad(gramian, pref_vector, solver=solver, threads=threads, nonfinite=nonfinite)


@traceable
def _upgrad(gramian: Any, pref_vector: Any, *, solver: str, threads: int, nonfinite: str) -> Array:
    """Compute the weights of whatever :func:`upgrad` takes."""
    _checks.check_nonfinite(nonfinite)
    _checks.check_threads(threads)
    if is_on_device(gramian) and cuda.is_wanted(gramian, solver):
        return _upgrad_on_cuda(gramian, pref_vector)
    matrix = view(gramian)
    if solver != "auto" or matrix.xp is not np:
        # Here, and not on the way to the solver, so that an error shows the caller's own shape.
        check_values(matrix, nonfinite)
        solution = solved(upgrad_problem(matrix.original, pref_vector), solver, threads, nonfinite)
        return finish(upgrad_lift(solution.x_float64, matrix, pref_vector), matrix)
    preference = preference_of(pref_vector, matrix)
    weights, status = fused.upgrad(matrix.values, preference, threads, precision_of(matrix.original))
    check_statuses(status, matrix, nonfinite)
    return finish(weights, matrix)


def _upgrad_on_cuda(gramian: Array, pref_vector: Any) -> Array:
    """Compute the weights of Gramians on a GPU by a kernel of their own."""
    _checks.check_gramian_shape(as_array(gramian, "gramian"))
    batch, preference = tuple(gramian.shape[:-2]), None
    if pref_vector is not None:
        preference = preference_of(pref_vector, unseen(gramian))
        batch = np.broadcast_shapes(batch, tuple(preference.shape[:-1]))
    return cuda.upgrad(gramian, batch, preference)


def _residual(weights: FloatArray, gramian: FloatArray, pref_vector: Any = None) -> FloatArray:
    """Return the error of the direction as the gradients see it, or the residual of the K projections.

    Weights show the sum of the projections alone, so it is compared with that of certified solutions, by
    G·(w − w*)/‖gᵢ‖ relative to max wᵢ·‖gᵢ‖: where gradients depend on each other, weights are not unique but
    Gw is. The other number says how far those solutions can be trusted.
    """
    matrix = View(gramian, gramian, np)
    solution = solve(upgrad_problem(gramian, pref_vector))
    expected = preference_of(pref_vector, matrix) + np.sum(minimisers(solution, matrix), axis=-2)
    norms = lengths(gramian)
    size = np.maximum(np.abs(weights), np.abs(expected)) * norms
    trust = np.max(np.nan_to_num(solution.kkt_residual), axis=-1)
    error: FloatArray = relative_maximum(slopes(gramian, weights - expected), size)
    found: FloatArray = np.maximum(error, trust)
    return found


register(
    QuadraticWeighting(
        name="upgrad",
        title="UPGrad",
        weights=upgrad,
        residual=_residual,
        problem=upgrad_problem,
        lift=upgrad_lift,
        summary="mean of the projections of all gradients onto the dual cone",
        source="arXiv 2406.16232, section 3.1",
    )
)
