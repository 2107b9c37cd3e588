"""Constant: weights that the caller has chosen once and for all."""

from __future__ import annotations

from typing import Any

from mojd import _checks
from mojd._arrays import Array, as_array, is_on_device, to_float64
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, beside, by_formula
from mojd.weightings._traced import traceable


@traceable
def constant(gramian: Any, weights: Any, *, nonfinite: str = "raise") -> Array:
    r"""Return fixed weights, whatever the gradients.

    .. math:: d = \sum_i w_i\, g_i \quad \text{for given } w

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    weights : float or array, shape (..., K)
        w. One number serves all objectives. Weights may be 0 or negative.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: raise an error, or return NaN for the problems concerned. On a
        device, always the latter.

    Returns
    -------
    array, shape (..., K)
        `weights`, in the namespace, dtype and device of `gramian`, with the leading axes of both.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or the Gramian is no Gramian.
    NonFiniteError
        If there is NaN or infinity in `weights`, or in the Gramian and `nonfinite` is 'raise'.

    Notes
    -----
    The direction grows with every gradient in proportion. Nothing but the size of the Gramian matters,
    so that there are no special cases. Cost: none.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    The gradient of a weighted sum of losses, as in Section 2 of GradNorm, arXiv 1711.02257.

    Examples
    --------
    >>> import mojd
    >>> mojd.constant([[4.0, 0.0], [0.0, 1.0]], [0.25, 0.75])
    array([0.25, 0.75])
    """

    def formula(matrix: View) -> Array:
        fixed = as_array(weights, "weights")
        if fixed.ndim:
            _checks.check_rows(fixed, matrix.size, "weights", "one number per objective, or be one number")
        if not is_on_device(fixed):
            _checks.check_finite(to_float64(fixed), "weights", "every weight must be a finite number")
        leading = tuple(fixed.shape[:-1])
        shape = _checks.broadcast_batch(matrix.batch_shape, leading, "gramian and weights")
        return matrix.xp.broadcast_to(beside(fixed, matrix), (*shape, matrix.size))

    return by_formula(gramian, nonfinite, formula)


register(
    Weighting(
        name="constant",
        title="Constant",
        weights=constant,
        example_options={"weights": 0.5},
        summary="weights fixed by the caller",
        source="arXiv 1711.02257, Section 2",
    )
)
