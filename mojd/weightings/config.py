"""ConFIG: the direction with the same cosine to every gradient."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula, vector
from mojd.weightings._spectral import apply_inverse, decompose
from mojd.weightings._traced import traceable


@traceable
def config(gramian: Any, pref_vector: Any = None, *, nonfinite: str = "raise") -> Array:
    r"""Compute the ConFIG weights: the direction with prescribed cosines to all gradients.

    .. math::
        v = U^+ u, \qquad d = \Big(\sum_i g_i^\top \frac{v}{\lVert v \rVert}\Big) \frac{v}{\lVert v \rVert},
        \qquad U = \Big(\frac{g_1}{\lVert g_1 \rVert}, \ldots, \frac{g_K}{\lVert g_K \rVert}\Big)^\top

    For linearly independent gradients, the cosines of d with them are in proportion to the preferences u.
    Otherwise they are so in the sense of least squares. With :math:`a = (U U^\top)^+ u`,
    :math:`w_i = a_i \sum_j g_j^\top v \,/\, (\lVert g_i \rVert\, u^\top a)`.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    pref_vector : array, shape (..., K), optional
        Preferences u ≥ 0. Default: 1 each.
    nonfinite : {'raise', 'propagate'}
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights of either sign, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is no Gramian, or a preference is negative.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    Scaling all of J scales d and leaves w; scaling one gradient changes the length of d alone. A zero
    gradient has weight 0 and is ignored. Where the gradients cancel so that v = 0, as two opposite ones
    do, all weights are 0. Gradients depend on each other if an eigenvalue of U·Uᵀ is at most K·ε of the
    largest, ε being that of the dtype of `gramian`. If dependent gradients contradict each other, d may
    conflict with some. Cost: one eigendecomposition.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    Liu, Chu and Thuerey, arXiv 2408.11104, eq. 2.

    Examples
    --------
    >>> import mojd
    >>> mojd.config([[4.0, 0.0], [0.0, 1.0]])
    array([0.75, 1.5 ])
    """
    return by_formula(gramian, nonfinite, lambda matrix: _weights(matrix, pref_vector))


def _weights(matrix: View, pref_vector: Any) -> Array:
    xp, units = matrix.xp, decompose(matrix)
    wanted = xp.ones_like(units.lengths)
    if pref_vector is not None:
        preference = vector(pref_vector, "pref_vector", matrix.size, matrix, "one preference per objective")
        wanted = wanted * preference
    wanted = xp.where(units.lengths > 0, wanted, xp.zeros_like(wanted))
    solution = apply_inverse(xp, units, wanted, wanted)
    cosines = xp.sum(matrix.values / units.divisors[..., None, :] * solution[..., None, :], axis=-1)
    square = xp.sum(wanted * solution, axis=-1, keepdims=True)
    found = square > 0
    length = xp.sum(cosines, axis=-1, keepdims=True) / xp.where(found, square, xp.ones_like(square))
    weights = solution / units.divisors * length
    return xp.where(found, weights, xp.zeros_like(weights))


register(
    Weighting(
        name="config",
        title="ConFIG",
        weights=config,
        summary="the direction with the same cosine to every gradient",
        source="arXiv 2408.11104, equation 2",
    )
)
