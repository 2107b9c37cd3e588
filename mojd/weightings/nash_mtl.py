"""Nash-MTL: the bargain in which all objectives gain, by Nash's product."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import Array, FloatArray
from mojd._checks import number
from mojd.errors import InvalidInputError
from mojd.weightings._bargaining import bargain, residual
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula
from mojd.weightings._traced import traceable


@traceable
def nash_mtl(gramian: Any, *, max_norm: float | None = None, nonfinite: str = "raise") -> Array:
    r"""Compute the Nash-MTL weights: those of the direction with the largest product of gains.

    .. math:: G w = 1 / w, \; w > 0, \quad \text{that is} \quad
       w = \operatorname*{arg\,min}_{w > 0} \tfrac12 w^\top G w - \sum_i \log w_i

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    max_norm : float > 0, optional
        The largest ‖d‖: longer directions are shortened to it, as in the paper's code and TorchJD,
        where it is 1. Default: no limit.
    nonfinite : {'raise', 'propagate'}
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights w > 0 in the namespace, dtype and device of `gramian`; 0 for all where there is no bargain.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, the Gramian is no Gramian or `max_norm` is not positive.
    InvalidTypeError
        If `max_norm` is no number.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    SolverError
        If the Newton method did not converge on the CPU.

    Notes
    -----
    Scaling row i of J by c divides wᵢ by c and leaves d as it is: only the directions of gradients count.
    ‖d‖² = Σ wᵢ·(Gw)ᵢ = K, whatever J is. Where a convex combination of gradients vanishes to rounding (the
    point is weakly Pareto stationary; a gradient of 0 suffices), there is no solution, all weights are 0 and
    the step stops. TorchJD then returns what its conic solver left, or the weights of an earlier step.
    Opposite rows are such a case, duplicates are not: they share a weight.

    Cost: one :func:`mojd.mgda` to look for stationarity, and a K × K linear solve for each Newton step,
    about 4 of them, up to 30 next to stationarity.

    Properties: non-conflicting ✓, linear under scaling ✗, weighted ✓.

    References
    ----------
    Navon et al., arXiv 2202.01017, Claim 3.1 and Algorithm 1.

    Examples
    --------
    >>> import mojd
    >>> mojd.nash_mtl([[4.0, 0.0], [0.0, 0.25]])
    array([0.5, 2. ])
    """
    largest = math.inf if max_norm is None else number(max_norm, "max_norm", "the largest norm of d")
    if max_norm is not None and not 0.0 < largest < math.inf:
        raise InvalidInputError(f"max_norm must be a positive number or None for no limit, got {max_norm!r}")

    def formula(matrix: View) -> Array:
        # ‖d‖² = K at the solution.
        shortening = min(1.0, largest / math.sqrt(matrix.size))
        return shortening * bargain(matrix, matrix.full((matrix.size,), 1.0), 1.0)

    return by_formula(gramian, nonfinite, formula)


def _residual(weights: FloatArray, gramian: FloatArray, *, max_norm: float | None = None) -> FloatArray:
    size = gramian.shape[-1]
    longest = math.sqrt(size)
    lengthening = 1.0 if max_norm is None else max(1.0, longest / max_norm)
    return residual(lengthening * weights, gramian, np.ones(size), 1.0)


register(
    Weighting(
        name="nash_mtl",
        title="Nash-MTL",
        weights=nash_mtl,
        residual=_residual,
        summary="the direction with the largest product of gains",
        source="arXiv 2202.01017, claim 3.1",
    )
)
