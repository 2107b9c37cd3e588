"""Mean: the plain average of the gradients."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula
from mojd.weightings._traced import traceable


@traceable
def mean(gramian: Any, *, nonfinite: str = "raise") -> Array:
    r"""Compute the weights of the mean gradient: 1/K for each objective.

    .. math:: w = \tfrac{1}{K}\, \mathbf{1}, \qquad d = \tfrac{1}{K} \sum_i g_i

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: raise an error, or return NaN for the problems concerned. On a
        device, always the latter.

    Returns
    -------
    array, shape (..., K)
        1/K everywhere, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, or the Gramian is no Gramian.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    The direction grows with every gradient in proportion, and the longest gradient dominates it. Nothing
    but the size of the Gramian matters, so that there are no special cases. Cost: none.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    The gradient of the mean loss; Table 1 of Jacobian descent, arXiv 2406.16232.

    Examples
    --------
    >>> import mojd
    >>> mojd.mean([[4.0, 0.0], [0.0, 1.0]])
    array([0.5, 0.5])
    """
    return by_formula(gramian, nonfinite, _weights)


def _weights(matrix: View) -> Array:
    return matrix.full((*matrix.batch_shape, matrix.size), 1.0 / matrix.size)


register(
    Weighting(
        name="mean",
        title="Mean",
        weights=mean,
        summary="the mean of the gradients",
        source="arXiv 2406.16232, Table 1",
    )
)
