"""AuxiNash: Nash-MTL with unequal bargaining power, learnt from a second batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import Array, FloatArray, as_array, is_on_device, to_float64
from mojd.errors import InvalidInputError
from mojd.weightings._bargaining import bargain, residual
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import (
    View,
    beside,
    by_formula,
    check_values,
    finish,
    preference_of,
    vector,
    view,
)
from mojd.weightings._traced import as_before, traceable


@traceable
def auxinash(gramian: Any, pref_vector: Any = None, *, nonfinite: str = "raise") -> Array:
    r"""Compute the AuxiNash weights: those of the bargain of objectives with unequal power.

    .. math:: G w = p / w, \; w > 0, \quad \text{that is} \quad
       w = \operatorname*{arg\,min}_{w > 0} \tfrac12 w^\top G w - \sum_i p_i \log w_i

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    pref_vector : array, shape (..., K), optional
        Bargaining power p ≥ 0. Default: 1/K each. :func:`mojd.update_preferences` learns it.
    nonfinite : {'raise', 'propagate'}
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights w ≥ 0 in the namespace, dtype and device of `gramian`. 0 for all where there is no bargain.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is no Gramian or a preference is negative.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    SolverError
        If the Newton method did not converge on the CPU.

    Notes
    -----
    An objective with pᵢ = 0 is left out of the bargain and has the weight 0; d may oppose it. (That is
    not the limit of small pᵢ, in which an objective keeps its veto.) Scaling row i of J by c divides wᵢ by
    c and leaves d as it is, and ‖d‖² = Σ p. Where a convex combination of the gradients with pᵢ > 0
    vanishes to rounding (the point is weakly Pareto stationary; a gradient of 0 suffices), there is no
    solution, all weights are 0 and the step stops.

    Cost: as for :func:`mojd.nash_mtl`.

    Properties: non-conflicting ✓, linear under scaling ✗, weighted ✓.

    References
    ----------
    Shamsian et al., arXiv 2301.13501, Claim 4.1.

    Examples
    --------
    >>> import mojd
    >>> mojd.auxinash([[4.0, 0.0], [0.0, 0.25]], [0.25, 0.75])
    array([0.25      , 1.73205081])
    """

    def formula(matrix: View) -> Array:
        return bargain(matrix, preference_of(pref_vector, matrix), 1.0)

    return by_formula(gramian, nonfinite, formula)


@traceable
def auxinash_derivative(gramian: Any, weights: Any, pref_vector: Any = None) -> Array:
    r"""Compute how the AuxiNash weights change with the preferences.

    .. math:: \frac{\partial w}{\partial p} =
       (G + \operatorname{diag}(p / w^2))^{-1} \operatorname{diag}(1 / w)

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    weights : array, shape (..., K)
        w from :func:`mojd.auxinash`.
    pref_vector : array, shape (..., K), optional
        p, as given to :func:`mojd.auxinash`.

    Returns
    -------
    array, shape (..., K, K)
        Row i, column j: ∂wᵢ/∂pⱼ, in the namespace, dtype and device of `gramian`. 0 in the rows and columns
        of objectives whose weight is 0.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or a weight or a preference is negative.

    Notes
    -----
    Computed as W·(W·G·W + diag p)⁻¹ with W = diag w, in which nothing depends on the units of the losses.
    Cost: one K × K linear solve.

    References
    ----------
    Shamsian et al., arXiv 2301.13501, Proposition 4.2.

    Examples
    --------
    >>> import mojd
    >>> gramian, p = [[4.0, 0.0], [0.0, 0.25]], [0.25, 0.75]
    >>> mojd.auxinash_derivative(gramian, mojd.auxinash(gramian, p), p)
    array([[0.5       , 0.        ],
           [0.        , 1.15470054]])
    """
    matrix = view(gramian)
    bargained = vector(weights, "weights", matrix.size, matrix, "one weight per objective")
    return finish(_derivative(matrix, bargained, preference_of(pref_vector, matrix)), matrix)


def _derivative(matrix: View, weights: Array, preference: Array) -> Array:
    xp = matrix.xp
    kept = (weights > 0) & (preference > 0)
    both = kept[..., :, None] & kept[..., None, :]
    one = xp.ones_like(weights + preference)
    # W·G·W in units of √p, whose diagonal is that of a Gramian of bargaining power.
    root = xp.sqrt(xp.where(kept, preference, one))
    factor = xp.where(kept, weights, one) / root
    scaled = factor[..., :, None] * matrix.values * factor[..., None, :]
    identity = xp.eye(matrix.size, dtype=weights.dtype, device=getattr(weights, "device", None))
    system = xp.where(both, scaled, xp.zeros_like(scaled)) + identity
    inverse = xp.linalg.solve(system, identity + xp.zeros_like(system))
    found = factor[..., :, None] * inverse / root[..., None, :]
    return xp.where(both, found, xp.zeros_like(found))


@traceable
def update_preferences(
    pref_vector: Any,
    gramian: Any,
    weights: Any,
    products: Any,
    *,
    learning_rate: float,
    step_size: float = 5e-3,
    smallest: float = 1e-4,
    nonfinite: str = "raise",
) -> Array:
    r"""Move AuxiNash's preferences to where a second batch gains more from the step just taken.

    .. math:: \nabla_p L_V = -\eta \left(\frac{\partial w}{\partial p}\right)^{\!\top} J g_V, \qquad
       p \leftarrow \frac{\tilde p}{\sum_i \tilde p_i}, \quad
       \tilde p = \max(p - \eta_p \nabla_p L_V, \; \epsilon)

    Parameters
    ----------
    pref_vector : array, shape (..., K)
        p, the preferences of the step.
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the step.
    weights : array, shape (..., K)
        w of the step, from :func:`mojd.auxinash`.
    products : array, shape (..., K)
        J·g_V, the inner products of the step's gradients with the gradient of the main loss on the
        second batch.
    learning_rate : float
        η, by which the step went: θ ← θ − η·Jᵀw.
    step_size : float, default 0.005
        η_p, the step of the preferences.
    smallest : float, default 1e-4
        ε, the least preference before normalisation: one of 0 would never come back.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity in `gramian`, `weights` and `products` on the CPU: raise an error,
        or leave the preferences of the problems concerned as they were. On a device, always the latter.

    Returns
    -------
    array, shape (..., K)
        The new p > 0 with sum 1, in the namespace, dtype and device of `gramian`; in programs of JAX in the
        dtype of `pref_vector`, so that it can be carried through ``lax.scan``.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is no Gramian, an entry of `pref_vector` or `weights` is negative,
        or a number is out of range.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise', or any in `pref_vector`.
    InvalidTypeError
        If `learning_rate`, `step_size` or `smallest` is no number.

    Notes
    -----
    The paper differentiates the optimum of the training loss, with an inverse Hessian that it replaces by a
    few terms of Neumann's series; here the derivative is that of the one step that was taken,
    ∂θ/∂w = −η·Jᵀ, the series' first term. The paper updates every 25 steps, by gradient descent with a
    momentum of 0.9. It requires p > 0 and Σ p = 1 and does not say how they are kept: the clipping and
    division here follow its authors' code.

    References
    ----------
    Shamsian et al., arXiv 2301.13501, equation 6, Algorithm 1 and Appendix D.

    Examples
    --------
    The second batch agrees with the first gradient and opposes the second:

    >>> import mojd
    >>> gramian, p = [[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5]
    >>> w = mojd.auxinash(gramian, p)
    >>> mojd.update_preferences(p, gramian, w, [1.0, -1.0], learning_rate=0.1, step_size=1.0)
    array([0.57071068, 0.42928932])
    """
    rate = _checks.number(learning_rate, "learning_rate", "the length of the step that the parameters went")
    step = _checks.number(step_size, "step_size", "the step of the preferences")
    least = _checks.number(smallest, "smallest", "the least preference before normalisation")
    for name, value in (("learning_rate", rate), ("step_size", step)):
        if not 0.0 <= value < math.inf:
            raise InvalidInputError(f"{name} must be finite and not negative, got {value!r}")
    matrix = view(gramian)
    if not 0.0 < least < 1.0 / matrix.size:
        raise InvalidInputError(
            f"smallest must lie between 0 and 1/K = {1.0 / matrix.size:.3g}, got {least!r}"
        )
    check_values(matrix, nonfinite)
    xp = matrix.xp
    preference = preference_of(pref_vector, matrix)
    bargained = _row(weights, "weights", "one weight per objective", matrix, nonfinite)
    gains = _row(products, "products", "one inner product per objective", matrix, nonfinite)
    finite = xp.all(xp.isfinite(bargained) & xp.isfinite(gains), axis=-1)
    finite = (finite & xp.all(xp.isfinite(matrix.values), axis=(-2, -1)))[..., None]
    bargained = xp.where(finite, bargained, xp.zeros_like(bargained))
    if xp is np:
        _checks.check_nonnegative(bargained, "weights", "it must be >= 0")
    gains = xp.where(finite, gains, xp.zeros_like(gains))
    clean = xp.where(finite[..., None], matrix.values, xp.zeros_like(matrix.values))
    derivative = _derivative(View(matrix.original, clean, xp), bargained, preference)
    descent = rate * xp.sum(derivative * gains[..., :, None], axis=-2)
    moved = xp.maximum(preference + step * descent, xp.zeros_like(descent) + least)
    moved = moved / xp.sum(moved, axis=-1, keepdims=True)
    return as_before(finish(xp.where(finite, moved, preference), matrix), pref_vector)


def _row(value: Any, name: str, meaning: str, gramian: View, nonfinite: str) -> Array:
    """Return numbers of any sign (..., K) in float64 beside the Gramian."""
    array = as_array(value, name)
    _checks.check_rows(array, gramian.size, name, meaning)
    _checks.broadcast_batch(gramian.batch_shape, tuple(array.shape[:-1]), f"gramian and {name}")
    if nonfinite == "raise" and not is_on_device(array):
        _checks.check_finite(to_float64(array), name)
    return beside(array, gramian)


def _residual(weights: FloatArray, gramian: FloatArray, pref_vector: Any = None) -> FloatArray:
    return residual(weights, gramian, preference_of(pref_vector, View(gramian, gramian, np)), 1.0)


register(
    Weighting(
        name="auxinash",
        title="AuxiNash",
        weights=auxinash,
        residual=_residual,
        summary="Nash-MTL with preferences, which can be learnt",
        source="arXiv 2301.13501, claim 4.1",
    )
)
