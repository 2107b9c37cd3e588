"""Krum: the gradients that have the nearest neighbours."""

from __future__ import annotations

from typing import Any

from mojd import _checks
from mojd._arrays import Array
from mojd.errors import InvalidInputError
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, by_formula
from mojd.weightings._traced import traceable


@traceable
def krum(gramian: Any, n_byzantine: int = 1, n_selected: int = 1, *, nonfinite: str = "raise") -> Array:
    r"""Compute the Multi-Krum weights: the mean of the m gradients that have the nearest neighbours.

    .. math:: s_i = \sum_{j \in N_i} \|g_i - g_j\|^2, \qquad
              w_i = 1/m \text{ if } s_i \text{ is among the } m \text{ smallest, else } 0

    where :math:`N_i` are the K − f − 2 gradients nearest to :math:`g_i`, without itself.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    n_byzantine : int
        f, how many gradients may be arbitrarily wrong. K ≥ f + 3 is needed; the guarantee of the paper
        takes K ≥ 2f + 3.
    n_selected : int
        m, from 1 to K. With 1 this is Krum.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: raise an error, or return NaN for the problems concerned. On a
        device, always the latter.

    Returns
    -------
    array, shape (..., K)
        w, m entries of which are 1/m and the others 0, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, the Gramian is no Gramian, or f or m is out of range.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    A common factor of all gradients changes nothing; one of a single gradient may change the choice. Of
    gradients with the same score, those with the lower index are taken: for K = f + 3 the two nearest of
    all have the same score. Zero and equal gradients are ordinary ones. Distances come from the Gramian,
    so that those below 10⁻⁸ of the norms (in float64) are rounding errors. Cost: a sort of each row.

    Properties: non-conflicting ✗, linear under scaling ✗, weighted ✓.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui and Stainer, NeurIPS 2017, arXiv 1703.02757, Section 4.

    Examples
    --------
    >>> import mojd
    >>> jacobian = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [9.0, -9.0], [1.0, 0.5]]
    >>> mojd.krum(mojd.gramian(jacobian))
    array([0., 0., 0., 0., 1.])
    """
    _checks.check_count(n_byzantine, "n_byzantine", 0, "the number of gradients that may be wrong")
    _checks.check_count(n_selected, "n_selected", 1, "the number of gradients to take")

    def formula(matrix: View) -> Array:
        size = matrix.size
        if size < n_byzantine + 3:
            raise InvalidInputError(
                f"n_byzantine={n_byzantine} takes {n_byzantine + 3} gradients or more, got a gramian of "
                f"shape {tuple(matrix.original.shape)}"
            )
        if n_selected > size:
            raise InvalidInputError(
                f"n_selected={n_selected} is more than the {size} gradients that there are"
            )
        return _selection(matrix, n_byzantine, n_selected)

    return by_formula(gramian, nonfinite, formula)


def _selection(matrix: View, n_byzantine: int, n_selected: int) -> Array:
    """Return 1/m for the m smallest scores."""
    xp, size = matrix.xp, matrix.size
    # A power of two that makes room for a sum of all distances.
    values = matrix.values * 2.0 ** -(size.bit_length() + 3)
    values = values + xp.matrix_transpose(values)
    squares = 0.5 * xp.linalg.diagonal(values)
    distances = squares[..., :, None] + squares[..., None, :] - values
    distances = xp.sort(xp.maximum(distances, xp.zeros_like(distances)), axis=-1)
    # The first of each row is the distance to itself.
    scores = xp.sum(distances[..., 1 : size - n_byzantine - 1], axis=-1)
    ranks = xp.argsort(xp.argsort(scores, axis=-1, stable=True), axis=-1)
    return xp.where(ranks < n_selected, xp.full_like(scores, 1.0 / n_selected), xp.zeros_like(scores))


register(
    Weighting(
        name="krum",
        title="Krum",
        weights=krum,
        min_size=4,
        summary="the mean of the gradients that have the nearest neighbours",
        source="arXiv 1703.02757, Section 4",
    )
)
