"""How good a solution is, computed from (G, q, x) alone, whoever found x.

All functions take float64 arrays of one array-API namespace: G (B, K, K), q and x (B, R, K). They
work on the equilibrated problem, in which every gradient has a norm near 1, so that nothing here
depends on the units of the losses.

The slack s = Gx + q is a difference of nearly equal numbers wherever x > 0. It is computed with
about 80 bits: the operands are split into slices so short that their matrix products are exact
(Ozaki, Ogita, Oishi and Rump, Numer. Algorithms 59, 2012). That needs nothing but matmul, and so
costs the same few products on any device.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

Array = Any

# Bits of a slice. Products of two slices are multiples of 2⁻⁴⁰ below 4, so that even 2¹¹ of them
# add up without rounding.
SLICE_BITS = 20
# What the slices leave out of a product, relative to the largest operands.
DROPPED = 2.0**-78


class Equilibrated(NamedTuple):
    """A problem in units in which every non-zero gradient has a norm between √½ and √2."""

    gramian: Array
    linear: Array
    x: Array
    scale: Array
    magnitude: Array


def power_of_two(xp: Any, values: Array) -> Array:
    """Return the powers of two 2ᵏ with 2ᵏ ≤ values < 2ᵏ⁺¹, and 1 where a value is 0 or not finite."""
    usable = (values > 0) & xp.isfinite(values)
    exponent = xp.floor(xp.log2(xp.where(usable, values, xp.ones_like(values))))
    return 2.0**exponent


def equilibrate(xp: Any, gramian: Array, linear: Array, x: Array) -> Equilibrated:
    """Scale a problem and its solution by powers of two; exact unless it under- or overflows."""
    gramian = 0.5 * (gramian + xp.matrix_transpose(gramian))
    diagonal = xp.linalg.diagonal(gramian)
    scale = 1 / power_of_two(xp, xp.sqrt(diagonal))
    linear = linear * scale[:, None, :]
    magnitude = power_of_two(xp, xp.max(xp.abs(linear), axis=-1))
    return Equilibrated(
        gramian * scale[:, :, None] * scale[:, None, :],
        linear / magnitude[..., None],
        x / scale[:, None, :] / magnitude[..., None],
        scale,
        magnitude,
    )


def _slices(array: Array, size: Array | float) -> tuple[Array, Array, Array]:
    """Split `array`, whose entries are at most `size` (a power of two), into three exact slices."""
    anchor = 1.5 * size * 2.0 ** (52 - SLICE_BITS)
    high = (array + anchor) - anchor
    rest = array - high
    anchor = anchor * 2.0**-SLICE_BITS
    middle = (rest + anchor) - anchor
    return high, middle, rest - middle


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b rounded, and the rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def accurate_product(xp: Any, gramian: Array, x: Array, linear: Array) -> Array:
    """Return Gx + q (B, R, K) for G with entries up to 4; error below DROPPED·K·max|x|, then one rounding."""
    largest = xp.max(xp.abs(x), axis=-1, keepdims=True)
    size = 2 * power_of_two(xp, largest)
    matrix = _slices(gramian, 4.0)
    vector = _slices(x, size)
    total, error = linear, xp.zeros_like(linear)
    for order in range(5):
        for i in range(3):
            if 0 <= order - i < 3:
                total, rounding = two_sum(total, vector[i] @ matrix[order - i])
                error = error + rounding
    return total + error


def accurate_slack(xp: Any, problem: Equilibrated) -> Array:
    """Return s = Gx + q by :func:`accurate_product`."""
    return accurate_product(xp, problem.gramian, problem.x, problem.linear)


def kkt_residual(xp: Any, problem: Equilibrated, slack: Array) -> Array:
    """Return ``max|min(x̂, ŝ)| / max|q̂|`` in units of gradients of norm 1 (0 if q and x are 0).

    min(x̂, ŝ) = 0 is the KKT system in one formula: x̂ ≥ 0, ŝ ≥ 0 and one of them zero.
    """
    norm = xp.sqrt(xp.linalg.diagonal(problem.gramian))[:, None, :]
    norm = xp.where(norm > 0, norm, xp.ones_like(norm))
    worst = xp.max(xp.abs(xp.minimum(problem.x * norm, slack / norm)), axis=-1)
    largest = xp.max(xp.abs(problem.linear / norm), axis=-1)
    return worst / xp.where(largest > 0, largest, xp.ones_like(largest))


def _interior_weights(xp: Any, gramian: Array) -> tuple[Array, Array]:
    """Return y with G·y ≥ 1 and ‖Jᵀy‖, per Gramian; an infinite norm where none was found.

    Such a y exists unless the Jacobian is weakly stationary; the minimum-norm solution of G·y = 1
    finds it unless G is singular in an unlucky way.
    """
    finite = xp.all(xp.isfinite(gramian), axis=(-2, -1), keepdims=True)
    eigenvalues, vectors = xp.linalg.eigh(xp.where(finite, gramian, xp.zeros_like(gramian)))
    size = gramian.shape[-1]
    cutoff = 8 * size * 2.0**-52 * eigenvalues[..., -1:]
    usable = eigenvalues > cutoff
    inverse = xp.where(
        usable, 1 / xp.where(usable, eigenvalues, xp.ones_like(eigenvalues)), 0.0 * eigenvalues
    )
    ones = xp.ones_like(eigenvalues)[..., None]
    y = vectors @ (inverse[..., None] * (xp.matrix_transpose(vectors) @ ones))
    rounding = (size + 2) * 2.0**-52 * (xp.abs(gramian) @ xp.abs(y))
    margin = xp.min((gramian @ y - rounding)[..., 0], axis=-1)
    square = xp.sum((y * (gramian @ y + rounding))[..., 0], axis=-1)
    found = (margin > 0) & xp.isfinite(margin)
    safe = xp.where(found, margin, xp.ones_like(margin))
    infinite = xp.full_like(margin, math.inf)
    return y, xp.where(found, xp.sqrt(xp.maximum(square, 0 * square)) / safe, infinite)


def direction_error_bound(xp: Any, problem: Equilibrated, slack: Array) -> Array:
    r"""Return an upper bound on ‖Jᵀ(x − x*)‖, in the units of the problem's gradients.

    With x ≥ 0 and e = x − x*, optimality of x* gives
    :math:`\|J^\top e\|^2 = e^\top(s - s^*) \le x^\top s^+ + x^{*\top} s^-`. If Gz ≥ s⁻ then the last
    term is at most ‖Jᵀx*‖·‖Jᵀz‖ ≤ (‖Jᵀx‖ + ‖Jᵀe‖)·‖Jᵀz‖, and the bound is the positive root of a
    quadratic. Negative entries of x are first moved to 0 and paid for. Infinite if s has a
    negative part and the Jacobian is (nearly) weakly stationary: no z is found then.
    """
    size = slack.shape[-1]
    clipped = xp.maximum(problem.x, 0 * problem.x)
    moved = xp.abs(problem.x - clipped)
    gramian = problem.gramian
    norms = xp.sqrt(xp.linalg.diagonal(gramian))[:, None, :]
    shift = xp.sum(norms * moved, axis=-1)
    slack = slack + (clipped - problem.x) @ gramian
    uncertainty = DROPPED * size * xp.max(clipped, axis=-1) + 2.0**-52 * shift
    negative = xp.max(xp.maximum(-slack, 0 * slack), axis=-1) + uncertainty
    product = xp.sum(clipped * (xp.maximum(slack, 0 * slack) + uncertainty[..., None]), axis=-1)
    _, lift = _interior_weights(xp, gramian)
    square = xp.sum(clipped * (clipped @ gramian), axis=-1)
    rounding = (size + 2) * 2.0**-52 * xp.sum(clipped * (clipped @ xp.abs(gramian)), axis=-1)
    length = xp.sqrt(xp.maximum(square, 0 * square) + rounding)
    needed = negative > 0
    cost = xp.where(needed, negative * xp.where(needed, lift[:, None], 0 * negative), 0 * negative)
    known = xp.isfinite(cost)
    finite = xp.where(known, cost, 0 * product)
    root = 0.5 * (finite + xp.sqrt(finite * finite + 4 * (product + finite * length)))
    bound = xp.where(known, root, cost)
    return (bound + shift) * (1 + 16 * 2.0**-52) * problem.magnitude
