"""What PCD's paths share: its arguments, its problem, weights by way of that, and their residual."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import Array, FloatArray, as_array, is_on_device
from mojd.qp import NNQP
from mojd.status import Status
from mojd.weightings._optimality import lengths, ray_residual, relative_maximum, slopes
from mojd.weightings._shared import View, are_sound, beside, solved, vector, without_underflow

# ‖d‖² below this part of (Σ |w_i|·‖g_i‖)² is what rounding leaves of d = 0.
VANISHING = 64 * 2.0**-53


def number_of(tau: Any) -> float | None:
    """Check a τ that is one number for all and return it; None if it is anything else.

    Where it can, a number goes to a device as such: one that is copied there is waited for.
    """
    if not isinstance(tau, float | int) or isinstance(tau, bool):
        return None
    _checks.check_tau(np.asarray(float(tau)))
    return float(tau)


def tau_of(tau: Any, gramian: View) -> Array:
    """Check τ and return it as float64 (..., K−1)."""
    secondaries = gramian.size - 1
    number = number_of(tau)
    if number is not None:
        return gramian.full((secondaries,), number)
    array = as_array(tau, "tau")
    if array.ndim:
        _checks.check_rows(array, secondaries, "tau", "one per secondary objective (or a number for all)")
        _checks.broadcast_batch(gramian.batch_shape, tuple(array.shape[:-1]), "gramian and tau")
    if not is_on_device(array):
        _checks.check_tau(array)
    values = beside(array, gramian)
    return values if array.ndim else values + gramian.full((secondaries,), 0.0)


def scales_of(scales: Any, gramian: View) -> Array:
    if scales is None:
        return gramian.full((gramian.size,), 1.0)
    return vector(scales, "scales", gramian.size, gramian, "one per objective, from mojd.normalise")


def programme(gramian: View, tau: Array, scales: Array) -> NNQP:
    column = 0.5 * (gramian.values[..., 1:, 0] + gramian.values[..., 0, 1:])
    squares = gramian.xp.linalg.diagonal(gramian.values)[..., 1:]
    linear = scales[..., :1] * column - tau * (scales[..., 1:] * squares)
    return NNQP(gramian.original[..., 1:, 1:], without_underflow(linear, squares, gramian.xp))


def rescaled(weights: Array, gramian: View, wanted: bool) -> Array:
    """Give d the norm of the primary gradient, if wanted; a d that vanishes to rounding becomes 0."""
    if not wanted:
        return weights
    xp = gramian.xp
    square = xp.sum(weights * (gramian.values @ weights[..., None])[..., 0], axis=-1, keepdims=True)
    diagonal = xp.linalg.diagonal(gramian.values)
    size = xp.sum(weights * xp.sqrt(diagonal), axis=-1, keepdims=True)
    primary = diagonal[..., :1]
    vanishes = (square <= VANISHING * size * size) | (primary == 0.0)
    # Without square roots of 0, whose derivative is infinite.
    one = xp.ones_like(square)
    factor = xp.sqrt(xp.where(vanishes, one, primary)) / xp.sqrt(xp.where(vanishes, one, square))
    return xp.where(vanishes, xp.zeros_like(weights), factor * weights)


def weights_of(
    gramian: View, tau: Array, scales: Array, rescale: bool, solver: str, threads: int, nonfinite: str
) -> Array:
    """Return the weights by way of the problem and any solver; NaN where G holds any."""
    xp = gramian.xp
    primary = scales[..., :1] + gramian.full((*gramian.batch_shape, 1), 0.0)
    weights = primary
    if gramian.size > 1:
        solution = solved(programme(gramian, tau, scales), solver, threads, nonfinite)
        x = solution.x_float64
        feasible = xp.where((solution.codes == int(Status.INFEASIBLE))[..., None], xp.zeros_like(x), x)
        weights = xp.concat([primary + xp.zeros_like(feasible[..., :1]), feasible], axis=-1)
    usable = xp.all(xp.isfinite(gramian.values), axis=(-2, -1))
    if xp is not np:
        # The problem is one of the secondaries alone.
        usable = usable & are_sound(gramian)
    return xp.where(usable[..., None], rescaled(weights, gramian, rescale), xp.full_like(weights, math.nan))


def residual(
    weights: FloatArray, gramian: FloatArray, tau: Any = 0.02, *, scales: Any = None, rescale: bool = False
) -> FloatArray:
    """Return by how much weights miss (s₀, x) with x ≥ 0, G_s·x + q ≥ 0 and one of them 0.

    Relative to the largest of s₀·‖g₀‖, xⱼ·‖gⱼ‖ and τⱼ·sⱼ·‖gⱼ‖. The primary alone is right as well where there
    is a ray, to the accuracy of the ray. Rescaled weights are scaled back to s₀, and ‖d‖ is compared.
    """
    matrix = View(gramian, gramian, np)
    taus, sizes, norms = tau_of(tau, matrix), scales_of(scales, matrix), lengths(gramian)
    if rescale:
        usable = (weights[..., :1] > 0) & (sizes[..., :1] > 0)
        factor = np.where(usable, sizes[..., :1] / np.where(usable, weights[..., :1], 1.0), 1.0)
        square = np.sum(weights * norms * slopes(gramian, weights), axis=-1, keepdims=True)
        off = np.sqrt(np.maximum(square, 0.0)) - norms[..., :1]
        found = residual(factor * weights, gramian, tau, scales=scales)
        found = np.maximum(found, relative_maximum(off, weights * norms))
        moving = np.any(weights_of(matrix, taus, sizes, True, "auto", 1, "raise"), axis=-1)
        return np.where(np.any(weights, axis=-1), found, np.where(moving, 1.0, 0.0))
    first = (weights[..., :1] - sizes[..., :1]) * norms[..., :1]
    if matrix.size == 1:
        return relative_maximum(first, np.maximum(weights, sizes) * norms)
    problem = programme(matrix, taus, sizes)
    x = weights[..., 1:] * norms[..., 1:]
    gaps = np.minimum(x, slopes(problem.gramian, weights[..., 1:], problem.linear))
    terms = np.maximum(sizes[..., :1] * norms[..., :1], np.max(np.abs(x), axis=-1, keepdims=True))
    terms = np.maximum(terms, taus * sizes[..., 1:] * norms[..., 1:])
    alone = np.maximum(relative_maximum(x, terms), ray_residual(problem))
    rest: FloatArray = np.minimum(relative_maximum(gaps, terms), alone)
    return np.maximum(relative_maximum(first, terms), rest)
