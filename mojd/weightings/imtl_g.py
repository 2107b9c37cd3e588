"""IMTL-G: a direction whose projections on all gradients are equally long."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula
from mojd.weightings._spectral import UnitGramian, apply_inverse, decompose
from mojd.weightings._traced import traceable


@traceable
def imtl_g(gramian: Any, *, nonfinite: str = "raise") -> Array:
    r"""Compute the IMTL-G weights: equal projections of d onto all gradients, weights that sum to 1.

    .. math:: w = \frac{v}{\sum_i v_i}, \qquad v = G^+ n, \qquad n_i = \lVert g_i \rVert

    For linearly independent gradients, :math:`d^\top g_i / \lVert g_i \rVert` is the same for all i.
    :math:`G^+` is the Moore-Penrose pseudo-inverse, as in the Jacobian-descent paper.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    nonfinite : {'raise', 'propagate'}
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights of either sign that sum to 1, or are all 0, in the namespace, dtype and device of
        `gramian`.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, or the Gramian is no Gramian.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    Scaling all of J scales d and leaves w. A zero gradient has weight 0. If the entries of v cancel to
    rounding, as those of two opposite gradients of one length do, no weights sum to 1 and all are 0;
    near to that, weights are huge. Dependence is judged by the angles of the gradients: an eigenvalue of
    the Gramian of the unit gradients counts as 0 if it is at most K·ε of the largest, ε being that of the
    dtype of `gramian`. Cost: one eigendecomposition and one QR decomposition.

    Properties: non-conflicting ✗, linear under scaling ✗, weighted ✓.

    References
    ----------
    Liu et al., *Towards impartial multi-task learning*, ICLR 2021 (OpenReview IMPnRXEWpvr), section 3.1;
    Jacobian descent, arXiv 2406.16232, for dependent gradients.

    Examples
    --------
    >>> import mojd
    >>> mojd.imtl_g([[4.0, 0.0], [0.0, 1.0]])
    array([0.33333333, 0.66666667])
    """
    return by_formula(gramian, nonfinite, _weights)


def _weights(matrix: View) -> Array:
    xp, units = matrix.xp, decompose(matrix)
    longest = xp.max(units.lengths, axis=-1, keepdims=True)
    longest = xp.where(longest > 0, longest, xp.ones_like(longest))
    sizes = xp.where(units.lengths > 0, units.lengths / longest, xp.ones_like(longest))
    null = _null_space(xp, units, sizes)
    # With S the lengths on a diagonal and H the Gramian of the units, G = SHS. S⁻¹H⁺S⁻¹ is a generalised
    # inverse of G, and the projection away from the null space on either side makes it Moore-Penrose.
    right = _without(xp, null, units.lengths / longest)
    v = _without(xp, null, apply_inverse(xp, units, right / sizes, units.lengths / longest / sizes) / sizes)
    total = xp.sum(v, axis=-1, keepdims=True)
    usable = abs(total) > _doubt(xp, units) * xp.sum(abs(v), axis=-1, keepdims=True)
    weights = v / xp.where(usable, total, xp.ones_like(total))
    return xp.where(usable, weights, xp.zeros_like(weights))


def _doubt(xp: Any, units: UnitGramian) -> Array:
    """Return what rounding does to v, relatively: with a null space to stay out of, it depends on κ."""
    one = xp.ones_like(units.values)
    smallest = xp.min(xp.where(units.present, units.values, units.values[..., -1:]), axis=-1, keepdims=True)
    deficient = xp.any(~units.present & (units.lengths > 0), axis=-1, keepdims=True)
    safe = xp.where(smallest > 0, smallest, one[..., :1])
    condition = xp.where(deficient, 8.0 * units.values[..., -1:] / safe, one[..., :1])
    return units.tolerance * condition


def _null_space(xp: Any, units: UnitGramian, sizes: Array) -> Array:
    """Return an orthonormal basis of the null space of G in the first columns, and zeros in the others.

    If Hz = 0 then G(S⁻¹z) = 0. Eigenvalues ascend, so that those of the null space come first, and the
    columns of Q follow.
    """
    absent = ~units.present[..., None, :]
    inverse = xp.min(sizes, axis=-1, keepdims=True) / sizes
    columns = xp.where(absent, units.vectors * inverse[..., :, None], xp.zeros_like(units.vectors))
    basis, _ = xp.linalg.qr(columns)
    return xp.where(absent, basis, xp.zeros_like(basis))


def _without(xp: Any, basis: Array, rows: Array) -> Array:
    """Subtract from vectors (..., K) their projection onto orthonormal columns."""
    coefficients = xp.sum(basis * rows[..., :, None], axis=-2)
    return rows - xp.sum(basis * coefficients[..., None, :], axis=-1)


register(
    Weighting(
        name="imtl_g",
        title="IMTL-G",
        weights=imtl_g,
        summary="equal projections onto all gradients, weights that sum to 1",
        source="ICLR 2021, OpenReview IMPnRXEWpvr, section 3.1",
    )
)
