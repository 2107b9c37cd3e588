"""Aligned-MTL: gradients replaced by the nearest orthogonal ones of equal length."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd._arrays import Array, precision_of
from mojd.certificates import power_of_two
from mojd.errors import InvalidInputError
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, beside, by_formula, preference_of
from mojd.weightings._spectral import relative_tolerance, symmetric
from mojd.weightings._traced import traceable

SCALE_MODES = ("min", "median", "rmse")


@traceable
def aligned_mtl(
    gramian: Any, pref_vector: Any = None, *, scale_mode: str = "min", nonfinite: str = "raise"
) -> Array:
    r"""Compute the Aligned-MTL weights: make the system of gradients as well conditioned as can be.

    .. math:: w = B u, \qquad B = \sqrt{\sigma}\, V \Lambda^{-1/2} V^\top, \qquad G = V \Lambda V^\top

    with the R positive eigenvalues of G on the diagonal of Λ. The aligned gradients :math:`B J` solve
    :math:`\min_{\hat J} \lVert \hat J - J \rVert_F` subject to :math:`\hat J^\top \hat J` being a multiple of
    a projection, up to their common length √σ.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    pref_vector : array, shape (..., K), optional
        Preferences u ≥ 0. Default: 1/K each.
    scale_mode : {'min', 'median', 'rmse'}
        σ is the least (as in the paper), the median (of an even number the lower one) or the mean of the
        positive eigenvalues.
    nonfinite : {'raise', 'propagate'}
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights of either sign, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is no Gramian, a preference is negative or the mode unknown.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    Scaling all of J scales d and leaves w. An eigenvalue is positive if it exceeds K·ε of the largest, ε
    being that of the dtype of `gramian`: by then it is lost in rounding. So a gradient shorter than about
    √(K·ε) of the longest (1e-8 in float64) counts as none, and d has a jump where an eigenvalue crosses
    that line; the method depends on the least eigenvalue by its nature. The eigenvalues just above the line
    have few correct digits. For a Gramian of zeros, w = u. Cost: one eigendecomposition.

    Properties: non-conflicting ✗, linear under scaling ✗, weighted ✓.

    References
    ----------
    Senushkin et al., *Independent component alignment for multi-task learning*, CVPR 2023, arXiv
    2305.19000, Algorithm 1.

    Examples
    --------
    >>> import mojd
    >>> mojd.aligned_mtl([[4.0, 0.0], [0.0, 1.0]])
    array([0.25, 0.5 ])
    """
    if scale_mode not in SCALE_MODES:
        raise InvalidInputError(f"scale_mode={scale_mode!r} is not one of {SCALE_MODES}")
    return by_formula(gramian, nonfinite, lambda matrix: _weights(matrix, pref_vector, scale_mode))


def _weights(matrix: View, pref_vector: Any, scale_mode: str) -> Array:
    xp, size = matrix.xp, matrix.size
    diagonal = xp.linalg.diagonal(matrix.values)
    preference = preference_of(pref_vector, matrix) + xp.zeros_like(diagonal)
    unit = power_of_two(xp, xp.max(diagonal, axis=-1))
    values, vectors = xp.linalg.eigh(symmetric(xp, matrix.values / unit[..., None, None]))
    tolerance = relative_tolerance(size, precision_of(matrix.original))
    present = values > tolerance * values[..., -1:]
    scale = _scale(matrix, values, present, scale_mode)
    zeros = xp.zeros_like(values)
    factors = xp.sqrt(scale / xp.where(present, values, xp.ones_like(values)))
    coefficients = xp.sum(vectors * preference[..., :, None], axis=-2)
    aligned = xp.where(present, factors * coefficients, zeros)
    weights = xp.sum(vectors * aligned[..., None, :], axis=-1)
    return xp.where(xp.any(present, axis=-1, keepdims=True), weights, preference)


def _scale(matrix: View, values: Array, present: Array, scale_mode: str) -> Array:
    """Return σ (..., 1) from ascending eigenvalues, those that are present being the last ones."""
    xp, size = matrix.xp, matrix.size
    zeros = xp.zeros_like(values)
    kept = xp.where(present, values, zeros)
    rank = xp.sum(xp.where(present, xp.ones_like(values), zeros), axis=-1, keepdims=True)
    if scale_mode == "rmse":
        return xp.sum(kept, axis=-1, keepdims=True) / xp.where(rank > 0, rank, xp.ones_like(rank))
    position = size - rank
    if scale_mode == "median":
        position = position + xp.floor((xp.where(rank > 0, rank, xp.ones_like(rank)) - 1) / 2)
    places = beside(np.arange(size), matrix)
    return xp.sum(xp.where(places == position, kept, zeros), axis=-1, keepdims=True)


register(
    Weighting(
        name="aligned_mtl",
        title="Aligned-MTL",
        weights=aligned_mtl,
        summary="the mean of the nearest orthogonal gradients of equal length",
        source="arXiv 2305.19000, Algorithm 1",
    )
)
