"""Bargains: weights x > 0 with xᵢʳ·(Gx)ᵢ = cᵢ, in the units in which they are computed.

They are the minimiser of the strictly convex

    ½ xᵀGx − Σ cᵢ φ(xᵢ),    φ(x) = log x for r = 1,  x^(1−r)/(1−r) otherwise,

which exists unless some convex combination of the gradients is 0: along it the objective falls without
bound. Everything happens in units in which gradients have norms between 1 and 2, and products with G are
computed with about 80 bits, so that nearly stationary problems converge to what rounding of x allows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import Array, FloatArray, precision_of
from mojd.certificates import power_of_two
from mojd.solvers import solve
from mojd.status import Status
from mojd.weightings._bargaining_derivative import bargain_derivative
from mojd.weightings._bargaining_newton import ROUNDING, Bargain, newton, ratios
from mojd.weightings._loops import with_derivative
from mojd.weightings._shared import View, require_answers
from mojd.weightings.mgda import mgda_problem

# log c is cut off this far below its largest entry: such weights are beyond float64 beside the others.
_LOG_RANGE = 600.0


def bargain(gramian: View, preference: Array, power: float) -> Array:
    """Return x ≥ 0 with xᵢ^power·(Gx)ᵢ = cᵢ, shape (..., K), for finite Gramians and c ≥ 0.

    An objective with cᵢ = 0 is left out, xᵢ = 0. Where there is no bargain, as a convex combination of the
    gradients with c > 0 vanishes to rounding, all of x is 0.
    """
    xp = gramian.xp
    batch = np.broadcast_shapes(gramian.batch_shape, tuple(preference.shape[:-1]))

    def solve_for(values: Array, target: Array) -> tuple[Array, None]:
        problem = prepare(View(gramian.original, values, xp), target, power)
        return xp.reshape(newton(xp, problem, power) * problem.unit, (*batch, gramian.size)), None

    def change(x: Array, _: None, at: tuple[Array, Array], changes: tuple[Array, Array]) -> Array:
        return bargain_derivative(xp, x, at[0], changes[0], at[1], changes[1], power)

    return with_derivative(solve_for, change, (gramian.values, preference))


def residual(weights: FloatArray, gramian: FloatArray, preference: FloatArray, power: float) -> FloatArray:
    """Return max|xᵢ^power·(Gx)ᵢ/cᵢ − 1| beyond rounding; NumPy arrays, shape (...).

    What 8 roundings of the terms of (Gx)ᵢ explain is taken off: no float64 weights do better. 1 for
    weights that are not positive, and for weights that are not 0 where there is no bargain.
    """
    batch = np.broadcast_shapes(gramian.shape[:-2], preference.shape[:-1], weights.shape[:-1])
    matrix = np.broadcast_to(gramian, (*batch, *gramian.shape[-2:]))
    problem = prepare(View(matrix, matrix, np), preference, power)
    size = gramian.shape[-1]
    flat = np.reshape(np.broadcast_to(weights, (*batch, size)), (-1, size))
    wanted = problem.unit > 0
    y = np.where(wanted, flat / np.where(wanted, problem.unit, 1.0), 0.0)
    positive = np.all((y > 0) == wanted, axis=-1) & np.all(np.isfinite(y), axis=-1)
    y = np.where(positive[:, None] & wanted, y, 1.0)
    ratio, terms = ratios(np, problem, y, power)
    excess = np.max(np.where(wanted, np.maximum(abs(ratio - 1.0) - 2 * ROUNDING * terms, 0.0), 0.0), axis=-1)
    idle = np.all(flat == 0.0, axis=-1)
    some = problem.possible[:, 0] & np.any(wanted, axis=-1)
    left_out = np.all(wanted | (flat == 0.0), axis=-1)
    found = np.where(some & positive & left_out, excess, np.where(~some & idle, 0.0, 1.0))
    return found.reshape(batch)


def prepare(gramian: View, preference: Array, power: float) -> Bargain:
    """Bring problems into units, and find out which have a bargain."""
    xp, size = gramian.xp, gramian.size
    batch = np.broadcast_shapes(gramian.batch_shape, tuple(preference.shape[:-1]))
    count = math.prod(batch)
    values = xp.reshape(xp.broadcast_to(gramian.values, (*batch, size, size)), (count, size, size))
    target = xp.reshape(xp.broadcast_to(preference, (*batch, size)), (count, size))
    values = 0.5 * values + 0.5 * xp.matrix_transpose(values)
    norms = power_of_two(xp, xp.sqrt(xp.linalg.diagonal(values)))
    wanted = target > 0
    identity = xp.zeros_like(values) + xp.eye(
        size, dtype=values.dtype, device=getattr(values, "device", None)
    )
    both = wanted[:, :, None] & wanted[:, None, :]
    scaled = xp.where(both, values / norms[:, :, None] / norms[:, None, :], identity)
    possible, nearest, lift = _possible(xp, scaled, wanted, precision_of(gramian.original).tolerance)
    scaled = xp.where(possible[..., None], scaled, identity)
    usable = wanted & possible
    zero = xp.zeros_like(target)
    logarithm = xp.log(xp.where(usable, target, zero + 1.0)) + (power - 1.0) * xp.log(norms)
    largest = xp.max(xp.where(usable, logarithm, zero - math.inf), axis=-1, keepdims=True)
    largest = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    logarithm = xp.where(usable, xp.maximum(logarithm - largest, zero - _LOG_RANGE), zero)
    unit = xp.where(wanted & possible, xp.exp(largest / (1.0 + power)) / norms, zero)
    return Bargain(scaled, logarithm, xp.where(possible, unit, zero), nearest, lift, possible)


def _possible(xp: Any, matrix: Array, wanted: Array, tolerance: float) -> tuple[Array, Array, Array]:
    """Return whether the hull of the wanted gradients keeps off 0, its nearest point, and a lift.

    The lift is minus the smallest eigenvalue, if that is negative.

    The squared distance is 0 to rounding if it is no more than 8ε of the terms that it is a sum of, than
    4 times what eigenvalues below 0 prove of the Gramian's own rounding, or than (8ε)².
    """
    problem = mgda_problem(matrix)
    problem.precision = problem.precision._replace(tolerance=tolerance)
    solution = solve(problem, nonfinite="propagate")
    if xp is np:
        require_answers(solution.codes, "auto")
    unsolved = (solution.codes != int(Status.OPTIMAL))[:, None]
    x = xp.where(unsolved | ~wanted, xp.zeros_like(solution.x_float64), solution.x_float64)
    total = xp.sum(x, axis=-1, keepdims=True)
    nothing = total <= 0
    z = x / xp.where(nothing, xp.ones_like(total), total)
    square = xp.sum(z * (matrix @ z[..., None])[..., 0], axis=-1, keepdims=True)
    terms = xp.sum(z * (abs(matrix) @ z[..., None])[..., 0], axis=-1, keepdims=True)
    smallest = xp.linalg.eigvalsh(matrix)[:, :1]
    lift = xp.maximum(-smallest, xp.zeros_like(smallest))
    relative = 8 * tolerance**2
    noise = relative * (terms + relative) + 4 * lift * xp.sum(z * z, axis=-1, keepdims=True)
    return ~nothing & (square > noise), z, lift
