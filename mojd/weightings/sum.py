"""Sum: all gradients added up."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula
from mojd.weightings._traced import traceable


@traceable
def sum(gramian: Any, *, nonfinite: str = "raise") -> Array:  # noqa: A001
    r"""Compute the weights of the sum of the gradients: 1 for each objective.

    .. math:: w = \mathbf{1}, \qquad d = \sum_i g_i

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
        1 everywhere, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, or the Gramian is no Gramian.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    K times :func:`mojd.mean`: the direction grows with every gradient in proportion, and the longest
    gradient dominates it. Nothing but the size of the Gramian matters, so that there are no special
    cases. Cost: none.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    The gradient of the sum of the losses, as in Section 2 of PCGrad, arXiv 2001.06782.

    Examples
    --------
    >>> import mojd
    >>> mojd.sum([[4.0, 0.0], [0.0, 1.0]])
    array([1., 1.])
    """
    return by_formula(gramian, nonfinite, _weights)


def _weights(matrix: View) -> Array:
    return matrix.full((*matrix.batch_shape, matrix.size), 1.0)


register(
    Weighting(
        name="sum",
        title="Sum",
        weights=sum,
        summary="the sum of the gradients",
        source="arXiv 2001.06782, Section 2",
    )
)
