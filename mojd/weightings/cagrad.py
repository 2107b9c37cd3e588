"""CAGrad: the best worst-case progress within a ball around the mean gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import Array, FloatArray
from mojd._checks import refuse_traced
from mojd.certificates import accurate_slack, equilibrate
from mojd.errors import InvalidInputError
from mojd.weightings._ball_search import Ball, ball_around_mean, best_in_ball
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula
from mojd.weightings._traced import traceable
from mojd.weightings.mgda import mgda


@traceable
def cagrad(gramian: Any, c: float = 0.5, *, nonfinite: str = "raise") -> Array:
    r"""Compute the CAGrad weights: maximise the least progress in a ball around the mean gradient.

    .. math::
        d = \operatorname*{arg\,max}_{\lVert d - g_0 \rVert \le c \lVert g_0 \rVert} \; \min_i g_i^\top d,
        \qquad g_0 = \frac{1}{K} \sum_i g_i

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    c : float, default 0.5
        The radius of the ball, as a fraction of the length of the mean gradient; not negative.
    nonfinite : {'raise', 'propagate'}
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights w ≥ 1/K, in the namespace, dtype and device of `gramian`. They are not unique if
        gradients depend on each other; the direction is.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, the Gramian is no Gramian, or `c` is negative or not finite.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    SolverError
        If a quadratic programme could not be solved.

    Notes
    -----
    The paper solves the dual: with :math:`z` the minimiser of
    :math:`z^\top J g_0 + c \lVert g_0 \rVert \lVert J^\top z \rVert` over the simplex,
    :math:`w = 1/K + c \lVert g_0 \rVert z / \lVert J^\top z \rVert`. Here instead, :math:`w = 1/K + y` where
    :math:`g_0 + J^\top y` is the point nearest to :math:`g_0` that makes progress λ on every objective, and
    λ is such that it lies on the sphere; that takes no division by a length that may vanish.

    Scaling all of J scales d and leaves w. For c = 0, and where rounding explains ‖g₀‖² (below about
    1e-8 of the gradients, ‖g₀‖ is unknown from a Gramian in float64), w = 1/K. If gradients nearly cancel,
    up to δ of their lengths, then float64 weights determine d to about ε/δ and no better.
    Where 0 lies in the convex hull of the gradients, as it does beside a zero gradient, no direction makes
    progress on all. If the ball holds directions without conflict, as it always does for c ≥ 1, they
    are all optimal, and d is the one nearest to the mean gradient, that of :func:`mojd.dualproj`. If it
    doesn't, d lets the worst objective grow least. Cost: some ten solves of NNQP, all problems of a batch
    together; on a device, each of them waits for it.

    Properties: non-conflicting ✗, linear under scaling ✗, weighted ✓.

    References
    ----------
    Liu et al., *Conflict-averse gradient descent for multi-task learning*, arXiv 2110.14048, Algorithm 1.

    Examples
    --------
    >>> import mojd
    >>> mojd.cagrad([[4.0, 0.0], [0.0, 4.0]])
    array([0.75, 0.75])
    """
    refuse_traced(c, "c")
    if isinstance(c, bool) or not isinstance(c, int | float | np.number) or not 0.0 <= c < math.inf:
        raise InvalidInputError(f"c must be a finite number that is not negative, got {c!r}")
    return by_formula(gramian, nonfinite, lambda matrix: 1.0 / matrix.size + best_in_ball(matrix, float(c)))


def cagrad_residual(weights: FloatArray, gramian: FloatArray, c: float = 0.5) -> Any:
    r"""Measure by how much weights (..., K) miss the optimality conditions of CAGrad, without a scale.

    For :math:`y = w - 1/K` and :math:`s = Gw - λ` they are y ≥ 0, s ≥ 0, complementary, and ‖Jᵀy‖ = c‖g₀‖
    with λ one of the entries of Gw; or ‖Jᵀy‖ ≤ c‖g₀‖ with λ = 0 and a convex combination of the
    gradients that vanishes. In units in which gradients have norm 1, and d that of g₀.
    """
    ball = ball_around_mean(View(gramian, gramian, np), float(c))
    unit = np.where(ball.length > 0, ball.length, 1.0)
    norms = np.where(ball.norms > 0, ball.norms, 1.0)
    y = weights - 1.0 / weights.shape[-1]
    image = _accurate_product(ball.view.values, y)
    progress = image + ball.products

    def mismatch(levels: FloatArray) -> FloatArray:
        slack = (progress[..., None, :] - levels[..., :, None]) / norms[..., None, :]
        worst = np.abs(np.minimum((y * norms)[..., None, :], slack)).max(axis=-1)
        pairs: FloatArray = worst.min(axis=-1) / unit
        return pairs

    excess = (np.sqrt(np.maximum(np.sum(y * image, axis=-1), 0.0)) - ball.radius) / unit
    on_sphere = np.maximum(mismatch(progress), np.abs(excess))
    inside = np.maximum(np.maximum(mismatch(0.0 * progress[..., :1]), excess), _shortest_product(ball))
    at_mean = np.abs(y * norms).max(axis=-1) / unit
    return np.where(ball.radius > 0, np.minimum(on_sphere, inside), at_mean)


def _shortest_product(ball: Ball) -> Any:
    """Return the largest entry of Hz for the shortest convex combination z of unit gradients.

    H is their Gramian. Convex combinations of gradients vanish if and only if those of the unit gradients do.
    """
    norms = np.where(ball.norms > 0, ball.norms, 1.0)
    units = ball.view.values / norms[..., :, None] / norms[..., None, :]
    # A Gramian from single precision may be indefinite by more than mgda takes for rounding in float64.
    raised = np.maximum(-2.0 * np.linalg.eigvalsh(units)[..., :1], 0.0)[..., None]
    shortest = mgda(units + raised * np.eye(ball.view.size))
    return np.abs(np.sum(units * shortest[..., None, :], axis=-1)).max(axis=-1)


def _accurate_product(gramian: FloatArray, y: FloatArray) -> FloatArray:
    """Return Gy with twice the working precision, for one y per Gramian."""
    size = y.shape[-1]
    flat = y.reshape(-1, 1, size)
    with np.errstate(all="ignore"):
        scaled = equilibrate(np, gramian.reshape(-1, size, size), np.zeros_like(flat), flat)
        product = accurate_slack(np, scaled) * scaled.magnitude[..., None] / scaled.scale[:, None, :]
    shaped: FloatArray = product.reshape(y.shape)
    return shaped


register(
    Weighting(
        name="cagrad",
        title="CAGrad",
        weights=cagrad,
        residual=cagrad_residual,
        summary="the best worst-case progress within a ball around the mean gradient",
        source="arXiv 2110.14048, Algorithm 1",
    )
)
