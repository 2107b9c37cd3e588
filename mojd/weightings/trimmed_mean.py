"""Trimmed mean: per parameter, the mean of what is left without the extremes."""

from __future__ import annotations

from typing import Any

from mojd import _checks
from mojd._arrays import Array
from mojd.certificates import power_of_two
from mojd.errors import InvalidInputError
from mojd.weightings._registry import Aggregator, register
from mojd.weightings._rows import by_rows
from mojd.weightings._shared import View
from mojd.weightings._traced import traceable


@traceable
def trimmed_mean(jacobian: Any, trim_number: int = 1, *, nonfinite: str = "raise") -> Array:
    r"""Compute the mean of each column of J without its largest and smallest entries.

    .. math:: d_a = \frac{1}{K - 2b} \sum_{i = b + 1}^{K - b} J_{(i)a}, \qquad
              J_{(1)a} \le \dots \le J_{(K)a}

    Parameters
    ----------
    jacobian : array, shape (..., K, n)
        One gradient per row.
    trim_number : int
        b, how many entries are dropped at each end: as many gradients may be arbitrarily wrong. With 0,
        d is the mean of the gradients.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: raise an error, or return NaN for the problems concerned. On a
        device, always the latter.

    Returns
    -------
    array, shape (..., n)
        The direction to subtract from the parameters, in the namespace, dtype and device of `jacobian`
        (float64 for integers). It is computed in float64 and rounded once.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, `trim_number` is negative or no integer, or K < 2b + 1.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    A common factor of all gradients comes out as a factor of d, one of a single gradient does not.
    Columns are scaled by exact powers of two inside. There are no special cases: equal entries count as
    often as they occur, zeros as any other number. The direction is no combination of gradients. Cost: a
    sort of each column.

    Properties: non-conflicting ✗, linear under scaling ✗, weighted ✗.

    References
    ----------
    Yin, Chen, Ramchandran and Bartlett, arXiv 1803.01498, Definition 2.

    Examples
    --------
    >>> import mojd
    >>> mojd.trimmed_mean([[1.0, 5.0], [2.0, 4.0], [9.0, 0.0], [3.0, -7.0]])
    array([2.5, 2. ])
    """
    _checks.check_count(trim_number, "trim_number", 0, "how many entries to drop at each end of a column")

    def formula(rows: View) -> Array:
        xp, size = rows.xp, int(rows.values.shape[-2])
        if size < 2 * trim_number + 1:
            raise InvalidInputError(
                f"trim_number={trim_number} takes {2 * trim_number + 1} gradients or more, got a jacobian of "
                f"shape {tuple(rows.original.shape)}"
            )
        middle = xp.sort(rows.values, axis=-2)[..., trim_number : size - trim_number, :]
        # So that no sum of large entries overflows.
        scale = power_of_two(xp, xp.max(abs(middle), axis=-2, keepdims=True))
        return xp.sum(middle / scale, axis=-2) / (size - 2 * trim_number) * scale[..., 0, :]

    return by_rows(jacobian, nonfinite, formula)


register(
    Aggregator(
        name="trimmed_mean",
        title="Trimmed Mean",
        direction=trimmed_mean,
        min_size=3,
        summary="per parameter, the mean without the largest and the smallest entries",
        source="arXiv 1803.01498, Definition 2",
    )
)
