"""Bargains: weights x > 0 with xᵢʳ·(Gx)ᵢ = cᵢ, by a damped Newton method that all problems take together.

They are the minimiser of the strictly convex

    ½ xᵀGx − Σ cᵢ φ(xᵢ),    φ(x) = log x for r = 1,  x^(1−r)/(1−r) otherwise,

which exists unless some convex combination of the gradients is 0: along it the objective falls without
bound. Everything happens in units in which gradients have norms between 1 and 2, and products with G are
computed with about 80 bits, so that nearly stationary problems converge to what rounding of x allows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import Array, FloatArray, precision_of
from mojd.certificates import Equilibrated, accurate_slack, power_of_two
from mojd.errors import SolverError
from mojd.solvers import solve
from mojd.status import Status
from mojd.weightings._shared import View, require_answers
from mojd.weightings.mgda import mgda_problem

_EPS = 2.0**-52
# |xᵢʳ·(Gx)ᵢ/cᵢ − 1| may be this much, and this many units of rounding in the terms of (Gx)ᵢ.
_TOLERANCE, _ROUNDING = 2.0**-43, 4 * _EPS
# More than that is no answer.
_GIVEN_UP = 1e-6
_CPU_ITERATIONS, _CPU_HALVINGS = 400, 30
_DEVICE_ITERATIONS, _DEVICE_HALVINGS = 60, 3
# The part of the way to the boundary x = 0 that a step may go.
_TO_BOUNDARY = 0.95
# log c is cut off this far below its largest entry: such weights are beyond float64 beside the others.
_LOG_RANGE = 600.0


class Bargain(NamedTuple):
    """Flat problems Ay = c∘y⁻ʳ with x = unit·y, in units in which gradients have norms near 1.

    Attributes
    ----------
    matrix : array, shape (N, K, K)
        A; the identity in the rows of objectives without preference, and where nothing is to be had.
    logarithm : array, shape (N, K)
        log c, with 0 for its largest entry.
    unit : array, shape (N, K)
        What turns y into x: 0 for objectives without preference.
    lift : array, shape (N, 1)
        A bound on how negative an eigenvalue of A is.
    possible : bool array, shape (N, 1)
        Whether no convex combination of the gradients is 0 to rounding.
    """

    matrix: Array
    logarithm: Array
    unit: Array
    lift: Array
    possible: Array


def bargain(gramian: View, preference: Array, power: float) -> Array:
    """Return x ≥ 0 with xᵢ^power·(Gx)ᵢ = cᵢ, shape (..., K), for finite Gramians and c ≥ 0.

    An objective with cᵢ = 0 is left out, xᵢ = 0. Where there is no bargain, as a convex combination of the
    gradients with c > 0 vanishes to rounding, all of x is 0.
    """
    xp = gramian.xp
    batch = np.broadcast_shapes(gramian.batch_shape, tuple(preference.shape[:-1]))
    problem = prepare(gramian, preference, power)
    y = _solve(xp, problem, power)
    return xp.reshape(y * problem.unit, (*batch, gramian.size))


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
    ratio, terms = _ratios(np, problem, y, power)
    excess = np.max(np.where(wanted, np.maximum(abs(ratio - 1.0) - 2 * _ROUNDING * terms, 0.0), 0.0), axis=-1)
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
    possible, lift = _possible(xp, scaled, wanted, precision_of(gramian.original).tolerance)
    scaled = xp.where(possible[..., None], scaled, identity)
    usable = wanted & possible
    zero = xp.zeros_like(target)
    logarithm = xp.log(xp.where(usable, target, zero + 1.0)) + (power - 1.0) * xp.log(norms)
    largest = xp.max(xp.where(usable, logarithm, zero - math.inf), axis=-1, keepdims=True)
    largest = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    logarithm = xp.where(usable, xp.maximum(logarithm - largest, zero - _LOG_RANGE), zero)
    unit = xp.where(wanted & possible, xp.exp(largest / (1.0 + power)) / norms, zero)
    return Bargain(scaled, logarithm, xp.where(possible, unit, zero), lift, possible)


def _possible(xp: Any, matrix: Array, wanted: Array, tolerance: float) -> tuple[Array, Array]:
    """Return whether the hull of the wanted gradients keeps off 0, and minus the smallest eigenvalue.

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
    return ~nothing & (square > noise), lift


def _product(xp: Any, matrix: Array, y: Array) -> Array:
    """Return Ay with about 80 bits, rounded once."""
    row = y[:, None, :]
    empty = xp.zeros_like(row)
    return accurate_slack(xp, Equilibrated(matrix, empty, row, y, empty))[:, 0, :]


def _ratios(xp: Any, problem: Bargain, y: Array, power: float) -> tuple[Array, Array]:
    """Return yᵢ^power·(Ay)ᵢ/cᵢ, and the same with absolute values of A."""
    factor = xp.exp(power * xp.log(y) - problem.logarithm)
    return factor * _product(xp, problem.matrix, y), factor * (abs(problem.matrix) @ y[..., None])[..., 0]


def _start(xp: Any, problem: Bargain, power: float) -> Array:
    """Return the best multiple of what would be the solution if gradients were orthogonal."""
    norms = xp.linalg.diagonal(problem.matrix)
    y = xp.exp((problem.logarithm - xp.log(norms)) / (1.0 + power))
    square = xp.sum(y * _product(xp, problem.matrix, y), axis=-1, keepdims=True)
    wanted = xp.sum(xp.exp(problem.logarithm + (1.0 - power) * xp.log(y)), axis=-1, keepdims=True)
    usable = square > 0
    ratio = wanted / xp.where(usable, square, xp.ones_like(square))
    return y * xp.where(usable, ratio, xp.ones_like(ratio)) ** (1.0 / (1.0 + power))


def _solve(xp: Any, problem: Bargain, power: float) -> Array:
    """Return y; the steps of a problem do not depend on the others beside it."""
    on_cpu = xp is np
    y = _start(xp, problem, power)
    best, smallest = y, xp.full_like(y[:, :1], math.inf)
    for _ in range(_CPU_ITERATIONS if on_cpu else _DEVICE_ITERATIONS):
        ratio, terms = _ratios(xp, problem, y, power)
        excess = xp.max(abs(ratio - 1.0) / (_TOLERANCE + _ROUNDING * terms), axis=-1, keepdims=True)
        better = excess < smallest
        best, smallest = xp.where(better, y, best), xp.where(better, excess, smallest)
        if on_cpu and bool(xp.all(smallest <= 1.0)):
            break
        moved = _step(xp, problem, y, ratio, power, _CPU_HALVINGS if on_cpu else _DEVICE_HALVINGS)
        y = xp.where((smallest <= 1.0) | ~xp.isfinite(moved), y, moved)
    if on_cpu:
        _require_answers(problem, best, power)
    return best


def _step(xp: Any, problem: Bargain, y: Array, ratio: Array, power: float, halvings: int) -> Array:
    """Take a Newton step, halved while the objective rises at its end.

    In relative steps δ = Δy/y and with h = c·y^(1−r), the Newton equations are
    (YAY + r·diag h)·δ = h∘(1 − ratio). They are scaled to a diagonal near 1. What rounding may have taken
    from the eigenvalues of A is put back on the left: that changes the way, not the destination.
    """
    logarithm = xp.log(y)
    root = xp.exp(0.5 * (problem.logarithm + (1.0 - power) * logarithm))
    shape = xp.exp(0.5 * ((1.0 + power) * logarithm - problem.logarithm))
    scale = 1.0 / xp.hypot(shape, math.sqrt(power) + xp.zeros_like(shape))
    shape = shape * scale
    size = y.shape[-1]
    diagonal = power * scale * scale + (2.0 * problem.lift + size * _EPS) * shape * shape
    identity = xp.eye(size, dtype=y.dtype, device=getattr(y, "device", None))
    matrix = problem.matrix * shape[:, :, None] * shape[:, None, :] + identity * diagonal[:, None, :]
    right = root * (1.0 - ratio) * scale
    solved = xp.linalg.solve(matrix, right[..., None])[..., 0]
    relative = solved * scale / root
    decrement = xp.sum(solved * right, axis=-1, keepdims=True)
    length = _longest(xp, relative, power)
    settled = xp.max(abs(relative), axis=-1, keepdims=True) <= 1e-3 * min(1.0, power)
    for _ in range(halvings):
        end, rate = _move(xp, y, length * relative, power)
        there, _ = _ratios(xp, problem, end, power)
        force = xp.exp(problem.logarithm + (1.0 - power) * xp.log(end))
        slope = xp.sum(force * (there - 1.0) * (rate * relative), axis=-1, keepdims=True)
        rising = ~settled & ~(slope <= 0.1 * decrement)
        if xp is np and not rising.any():
            return end
        length = xp.where(rising, 0.5 * length, length)
    return _move(xp, y, length * relative, power)[0]


def _longest(xp: Any, relative: Array, power: float) -> Array:
    """Return the longest step, at most 1, that stays well inside of y > 0."""
    fastest = xp.max(-relative, axis=-1, keepdims=True)
    one = xp.ones_like(fastest)
    if power < 1.0:
        return one
    return xp.minimum(one, _TO_BOUNDARY / xp.where(fastest > 0, fastest, one))


def _move(xp: Any, y: Array, relative: Array, power: float) -> tuple[Array, Array]:
    """Return the point at the end of relative steps, and d log y by relative step there.

    For r < 1, weights fall along y·(1 − r·δ)^(−1/r), which is tangent to y·(1 + δ), never reaches 0, and
    is exact where (Ay)ᵢ does not change.
    """
    rising = xp.maximum(relative, xp.zeros_like(relative))
    falling = xp.minimum(relative, xp.zeros_like(relative))
    if power >= 1.0:
        return y * (1.0 + relative), 1.0 / (1.0 + relative)
    bent = 1.0 - power * falling
    tiny = xp.zeros_like(y) + 1e-300
    return xp.maximum(y * (1.0 + rising) * bent ** (-1.0 / power), tiny), 1.0 / ((1.0 + rising) * bent)


def _require_answers(problem: Bargain, y: FloatArray, power: float) -> None:
    """Raise if a problem on the CPU has not come near its solution."""
    ratio, terms = _ratios(np, problem, y, power)
    worst = np.max(np.maximum(abs(ratio - 1.0) - _ROUNDING * terms, 0.0), axis=-1)
    failed = ~(worst <= _GIVEN_UP)
    if failed.any():
        raise SolverError(
            f"the Newton method gave up on {int(failed.sum())} of {len(worst)} problems after "
            f"{_CPU_ITERATIONS} steps, with a relative error of {float(worst.max()):.3g}; rescale the losses "
            "so that their gradients are of similar size"
        )
