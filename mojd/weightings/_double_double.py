"""Linear equations in twice the precision of float64, for many small matrices together.

Numbers are pairs (high, low) of float64 arrays whose unevaluated sum they stand for.
"""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array
from mojd.certificates import two_sum

Pair = tuple[Array, Array]
_SPLITTER = 2.0**27 + 1.0


def _halves(a: Array) -> Pair:
    big = _SPLITTER * a
    high = big - (big - a)
    return high, a - high


def _product(a: Array, b: Array) -> Pair:
    """Return a·b exactly."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _multiply(a: Pair, b: Pair) -> Pair:
    high, low = _product(a[0], b[0])
    return two_sum(high, low + (a[0] * b[1] + a[1] * b[0]))


def _subtract(a: Pair, b: Pair) -> Pair:
    high, low = two_sum(a[0], -b[0])
    tail, rest = two_sum(a[1], -b[1])
    high, low = two_sum(high, low + tail)
    return two_sum(high, low + rest)


def _divide(a: Pair, b: Pair) -> Pair:
    first = a[0] / b[0]
    rest = _subtract(a, _multiply(b, (first, 0.0 * first)))
    second = rest[0] / b[0]
    rest = _subtract(rest, _multiply(b, (second, 0.0 * second)))
    high, low = two_sum(first, second)
    return two_sum(high, low + rest[0] / b[0])


def solve_shifted(xp: Any, matrix: Array, shift: Array, right: Array) -> tuple[Array, Array]:
    """Solve (A + diag(shift))·x = b for symmetric A, in twice the precision, and round x once.

    Parameters
    ----------
    xp : namespace
    matrix : array, shape (N, K, K)
    shift, right : array, shape (N, K)

    Returns
    -------
    x : array, shape (N, K)
    definite : bool array, shape (N, 1)
        Whether all pivots are positive; otherwise x is of no use.
    """
    size = right.shape[-1]
    identity = xp.eye(size, dtype=right.dtype, device=getattr(right, "device", None))
    rest = two_sum(matrix, identity * shift[:, :, None])
    target: Pair = (right, xp.zeros_like(right))
    definite = xp.ones_like(right[:, :1]) > 0
    rows = []
    for _ in range(size):
        pivot = (rest[0][:, :1, 0], rest[1][:, :1, 0])
        positive = pivot[0] > 0
        definite = definite & positive
        pivot = (xp.where(positive, pivot[0], xp.ones_like(pivot[0])), pivot[1])
        across = (rest[0][:, 0, 1:], rest[1][:, 0, 1:])
        first = (target[0][:, :1], target[1][:, :1])
        rows.append((pivot, across, first))
        factor = _divide(across, pivot)
        outer = _multiply(
            (factor[0][:, :, None], factor[1][:, :, None]), (across[0][:, None, :], across[1][:, None, :])
        )
        rest = _subtract((rest[0][:, 1:, 1:], rest[1][:, 1:, 1:]), outer)
        target = _subtract((target[0][:, 1:], target[1][:, 1:]), _multiply(factor, first))
    found: list[Pair] = []
    for pivot, across, first in reversed(rows):
        for j, known in enumerate(reversed(found)):
            first = _subtract(first, _multiply((across[0][:, j : j + 1], across[1][:, j : j + 1]), known))
        found.append(_divide(first, pivot))
    return xp.concat([high for high, _ in reversed(found)], axis=-1), definite
