"""PCGrad: each gradient loses what conflicts with the others, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd._arrays import Array
from mojd.weightings._draws import visiting_orders
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula
from mojd.weightings._surgery import Visit, operate
from mojd.weightings._traced import traceable


@traceable
def pcgrad(gramian: Any, *, seed: int | np.random.Generator | Array, nonfinite: str = "raise") -> Array:
    r"""Compute the PCGrad weights: each gradient is projected off those that it conflicts with.

    For every i, starting from :math:`g_i' = g_i`, and for all :math:`j \ne i` in random order,

    .. math:: g_i' \leftarrow g_i' - \frac{\min(0,\, g_i' \cdot g_j)}{\|g_j\|^2}\, g_j,
              \qquad d = \sum_i g_i'

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    seed : int, numpy.random.Generator or key of JAX
        An integer gives the same draws whenever it is passed with the same shape. A generator moves on,
        and is what a training loop passes. Every problem of a batch has draws of its own. Under ``jax.jit``
        and the like it is a key, ``jax.random.key(0)``, split at every step.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: raise an error, or return NaN for the problems concerned. On a
        device, always the latter.

    Returns
    -------
    array, shape (..., K)
        w ≥ 1 with Jᵀw = Σ g'_i, a sum and not a mean, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, the Gramian is no Gramian, or `seed` is negative.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    InvalidTypeError
        If `seed` is neither an integer nor a generator nor a key.

    Notes
    -----
    Given the orders, d grows with every gradient in proportion; rows are scaled by exact powers of two
    inside. A gradient of 0 corrects none. Opposite gradients cancel each other. Where a product is exactly
    0, rounding may see a conflict; what is then subtracted is a rounding error too, as the correction is
    continuous in the product. For K ≤ 2 there is nothing to draw, and the weights are K times those of
    :func:`mojd.upgrad`. Cost: K³ multiplications in K − 1 steps.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    Yu, Kumar, Gupta, Levine, Hausman and Finn, arXiv 2001.06782, Algorithm 1.

    Examples
    --------
    >>> import mojd
    >>> mojd.pcgrad([[1.0, -1.0], [-1.0, 2.0]], seed=0)
    array([2. , 1.5])
    """

    def formula(matrix: View) -> Array:
        return operate(matrix, visiting_orders(seed, matrix.batch_shape, matrix), _projection)

    return by_formula(gramian, nonfinite, formula)


def _projection(visit: Visit) -> Array:
    """Return what has to be added of g_j for g'_i and g_j to be orthogonal, if they conflict."""
    xp, product, square = visit.xp, visit.product, visit.square
    conflict = (product < 0) & (square > 0)
    safe = xp.where(conflict, square, xp.ones_like(square))
    return xp.where(conflict, -product / safe, xp.zeros_like(product))


register(
    Weighting(
        name="pcgrad",
        title="PCGrad",
        weights=pcgrad,
        is_stochastic=True,
        example_options={"seed": 0},
        summary="each gradient is projected off those that it conflicts with, in random order",
        source="arXiv 2001.06782, Algorithm 1",
    )
)
