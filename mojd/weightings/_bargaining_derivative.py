"""How bargains change with the Gramian and the preferences: the derivative of their equations."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array


def bargain_derivative(
    xp: Any,
    x: Array,
    gramian: Array,
    gramian_change: Array,
    preference: Array,
    preference_change: Array,
    power: float,
) -> Array:
    r"""Return the change of x > 0 with xᵢʳ·(Gx)ᵢ = cᵢ; shapes (..., K, K) and (..., K).

    From :math:`G x = c \circ x^{-r}`,

    .. math:: (G + r \operatorname{diag}(c \circ x^{-r-1}))\, \dot x = \dot c \circ x^{-r} - \dot G x.

    With h = x∘Gx = c∘x^(1−r), it is solved for √h·ẋ/x, in which nothing depends on the units of the losses
    and the matrix has eigenvalues of r and more. 0 where xᵢ = 0.
    """
    kept = x > 0
    safe = xp.where(kept, x, xp.ones_like(x))
    weight = xp.where(kept, preference, xp.ones_like(x))
    root = xp.exp(0.5 * (xp.log(weight) + (1.0 - power) * xp.log(safe)))
    factor = safe / root
    both = kept[..., :, None] & kept[..., None, :]
    symmetric = 0.5 * gramian + 0.5 * xp.matrix_transpose(gramian)
    scaled = factor[..., :, None] * symmetric * factor[..., None, :]
    identity = xp.eye(x.shape[-1], dtype=x.dtype)
    matrix = xp.where(both, scaled, xp.zeros_like(scaled)) + power * identity
    change = 0.5 * gramian_change + 0.5 * xp.matrix_transpose(gramian_change)
    moved = xp.sum(change * x[..., None, :], axis=-1)
    right = root * preference_change / weight - factor * moved
    right = xp.where(kept, right, xp.zeros_like(right))
    step = xp.linalg.solve(matrix, right[..., None])[..., 0]
    return xp.where(kept, factor * step, xp.zeros_like(x))
