"""FairGrad: the alpha-fair shares of progress."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import Array, FloatArray
from mojd._checks import refuse_traced
from mojd.errors import InvalidInputError
from mojd.weightings._bargaining import bargain, residual
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula
from mojd.weightings._traced import traceable


@traceable
def fairgrad(gramian: Any, alpha: float = 2.0, *, nonfinite: str = "raise") -> Array:
    r"""Compute the FairGrad weights: those of the direction with alpha-fair gains.

    .. math:: G w = w^{-1/\alpha}, \; w > 0, \quad \text{that is} \quad
       w = \operatorname*{arg\,min}_{w > 0}
           \tfrac12 w^\top G w - \sum_i \frac{w_i^{1 - 1/\alpha}}{1 - 1/\alpha}

    With :math:`\log w_i` in the sum for :math:`\alpha = 1`, which is :func:`mojd.nash_mtl`.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    alpha : float > 0, default 2
        Fairness. Towards 0, weights become 1 unless a gain gᵢᵀd would be negative: the sum of the gains
        counts. 1 is proportional fairness. Towards infinity, gains become equal unless a weight would be
        negative: the least gain counts.
    nonfinite : {'raise', 'propagate'}
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights w > 0 in the namespace, dtype and device of `gramian`; 0 for all where there is no
        solution.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, the Gramian is no Gramian or `alpha` is not positive.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    SolverError
        If the Newton method did not converge on the CPU. That takes an `alpha` far from 1 together with
        gradients whose norms differ by many orders of magnitude.

    Notes
    -----
    Scaling all of J by c scales w by c^(−2α/(α+1)). Where a convex combination of gradients vanishes to
    rounding (the point is weakly Pareto stationary; a gradient of 0 suffices), there is no solution, all
    weights are 0 and the step stops. TorchJD then returns where its least-squares iterations ended.
    Opposite rows are such a case, duplicates are not: they share a weight.

    Cost: one :func:`mojd.mgda` to look for stationarity, and a K × K linear solve for each Newton step,
    about 4 of them for gradients of similar norms, up to 30 next to stationarity.

    Properties: non-conflicting ✓, linear under scaling ✗, weighted ✓.

    References
    ----------
    Ban and Ji, arXiv 2402.15638, equation 4.

    Examples
    --------
    >>> import mojd
    >>> mojd.fairgrad([[8.0, 0.0], [0.0, 0.125]], alpha=2.0)
    array([0.25, 4.  ])
    """
    power = _power(alpha)

    def formula(matrix: View) -> Array:
        return bargain(matrix, matrix.full((matrix.size,), 1.0), power)

    return by_formula(gramian, nonfinite, formula)


def _power(alpha: Any) -> float:
    refuse_traced(alpha, "alpha")
    if (
        isinstance(alpha, bool)
        or not isinstance(alpha, int | float | np.number)
        or not 0.0 < alpha < math.inf
    ):
        raise InvalidInputError(f"alpha must be a positive number, got {alpha!r}")
    return 1.0 / float(alpha)


def _residual(weights: FloatArray, gramian: FloatArray, alpha: float = 2.0) -> FloatArray:
    return residual(weights, gramian, np.ones(gramian.shape[-1]), _power(alpha))


register(
    Weighting(
        name="fairgrad",
        title="FairGrad",
        weights=fairgrad,
        residual=_residual,
        summary="the direction with alpha-fair gains",
        source="arXiv 2402.15638, equation 4",
    )
)
