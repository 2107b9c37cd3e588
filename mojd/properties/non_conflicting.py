"""Non-conflicting: no loss rises to first order."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd._arrays import FloatArray, as_array, to_float64
from mojd._checks import check_gramian_shape, check_rows
from mojd.properties._inputs import with_direction
from mojd.properties._registry import Property, register
from mojd.properties._subject import CANCELLATION, Subject


def conflict(gramian: Any, weights: Any) -> FloatArray | float:
    r"""Measure the worst conflict of the direction with a gradient.

    .. math:: \max_i \frac{-g_i^\top d}{\|g_i\| \sum_j |w_j| \|g_j\|}, \qquad d = J^\top w,

    or 0 if no product is negative.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ.
    weights : array, shape (..., K)

    Returns
    -------
    float, or array of shape (...)
        Between 0 and 1, whatever the units of the losses. Rounding leaves about K·1e-16.

    Notes
    -----
    The denominator is what the direction is a sum of. Relative to ‖d‖, rounding errors would count as
    conflicts wherever gradients nearly cancel. The sum counts up to 10⁶ times max(‖d‖, maxⱼ ‖gⱼ‖): weights so
    large that they cancel further are no excuse for what they leave.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, definition of non-conflicting aggregators.

    Examples
    --------
    >>> import mojd
    >>> G = [[4.0, -8.0], [-8.0, 16.0]]  # gradients −2 and 4
    >>> mojd.properties.conflict(G, [0.5, 0.5])
    0.333...
    >>> mojd.properties.conflict(G, mojd.upgrad(G))
    0.0
    """
    G = as_array(gramian, "gramian")
    check_gramian_shape(G)
    w = as_array(weights, "weights")
    check_rows(w, int(G.shape[-1]), "weights", "one per objective")
    products, values = to_float64(G), to_float64(w)
    norms = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    slack = (products @ values[..., None])[..., 0]
    size = np.sum(np.abs(values) * norms, axis=-1, keepdims=True)
    square = np.sum(values * slack, axis=-1, keepdims=True)
    longest = np.maximum(np.sqrt(np.maximum(square, 0.0)), norms.max(axis=-1, keepdims=True))
    return _worst(slack, norms * np.minimum(size, CANCELLATION * longest))


def conflict_of_direction(jacobian: Any, direction: Any) -> FloatArray | float:
    r"""Measure the worst conflict of a direction that came without weights.

    .. math:: \max_i \frac{-g_i^\top d}{\|g_i\| \max(\|d\|, \max_j \|g_j\|)}

    Parameters
    ----------
    jacobian : array, shape (..., K, n)
    direction : array, shape (..., n)

    Returns
    -------
    float, or array of shape (...)
        As for :func:`conflict`.

    Examples
    --------
    >>> import mojd
    >>> mojd.properties.conflict_of_direction([[-2.0], [4.0]], [1.0])
    0.25
    """
    rows, values = with_direction(jacobian, direction)
    norms = np.linalg.norm(rows, axis=-1)
    size = np.maximum(np.linalg.norm(values, axis=-1), norms.max(axis=-1))[..., None]
    return _worst((rows @ values[..., None])[..., 0], norms * size)


def _worst(slack: FloatArray, scale: FloatArray) -> FloatArray | float:
    relative = np.where(scale > 0, -slack / np.where(scale > 0, scale, 1.0), 0.0)
    found = np.maximum(relative.max(axis=-1), 0.0)
    return float(found) if found.ndim == 0 else found


def _measure(subject: Subject, jacobian: FloatArray, seed: int) -> float:
    step = subject.step(jacobian, seed=seed)
    if step.weights is None:
        return float(conflict_of_direction(jacobian, step.direction))
    return float(conflict(jacobian @ jacobian.T, step.weights))


register(
    Property(
        name="non_conflicting",
        title="non-conflicting",
        summary="no loss rises to first order: J d ≥ 0",
        source="arXiv 2406.16232, section 2.2",
        group="jacobian descent",
        tolerance=1e-12,
        measure=_measure,
    )
)
