"""Linear scalarisation: weights that the user has chosen."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array
from mojd.weightings._losses import LossView, by_losses, loss_argument
from mojd.weightings._registry import LossWeighting, register
from mojd.weightings._traced import traceable


@traceable
def weighted_sum(losses: Any, weights: Any, *, nonfinite: str = "raise") -> Array:
    r"""Return the given weights for linear scalarisation, one for each loss.

    .. math:: w = u, \qquad d = \nabla \sum_i u_i\, \ell_i

    Parameters
    ----------
    losses : array, shape (..., K)
        The values of the losses. Only their shape, dtype and device count.
    weights : number or array, shape (..., K)
        The weights u, as they are: they need not sum to 1, and a negative one makes its loss grow.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity in losses on the CPU: raise an error, or return NaN. Arrays on
        a device always propagate.

    Returns
    -------
    array, shape (..., K)
        The weights, in the namespace, dtype and device of `losses`; float64 for integers.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or a weight is NaN or infinite.
    NonFiniteError
        If a loss is NaN or infinite and `nonfinite` is 'raise'.

    Notes
    -----
    No weight depends on a loss. The same weights put on gradients give the same direction.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    Boyd and Vandenberghe, *Convex Optimization*, 2004, section 4.7.4.

    Examples
    --------
    >>> import mojd
    >>> mojd.weighted_sum([0.7, 12.0], [1.0, 0.1])
    array([1. , 0.1])
    """

    def formula(seen: LossView) -> Array:
        return loss_argument(weights, "weights", seen) + seen.xp.zeros_like(seen.values)

    return by_losses(losses, nonfinite, formula)


register(
    LossWeighting(
        name="weighted_sum",
        title="Weighted sum",
        weights=weighted_sum,
        summary="weights that the user has chosen",
        source="linear scalarisation",
        example_options={"weights": 1.0},
    )
)
