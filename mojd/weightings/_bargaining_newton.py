"""The damped Newton method for bargains yᵢʳ·(Ay)ᵢ = cᵢ, which all problems take together."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import Array, FloatArray, holds_traced
from mojd.certificates import accurate_product
from mojd.errors import SolverError
from mojd.weightings._double_double import solve_shifted
from mojd.weightings._loops import iterate

_EPS = 2.0**-52
# |yᵢʳ·(Ay)ᵢ/cᵢ − 1| may be this much, and this many units of rounding in the terms of (Ay)ᵢ.
_TOLERANCE, ROUNDING = 2.0**-43, 4 * _EPS
# More than that is no answer.
_GIVEN_UP = 1e-6
# Relative steps of this length are the rounding of y.
_ARRIVED = 4 * _EPS
# Where they cannot become so short, this many in a row that do not halve them are the end: few where
# they are short, and more where a weight may yet have to grow by orders of magnitude.
_SHORT, _PATIENCE, _LONG_PATIENCE = 1e-4, 2.0, 50.0
_CPU_ITERATIONS, _CPU_HALVINGS = 400, 30
_DEVICE_ITERATIONS, _DEVICE_HALVINGS = 60, 3
# The part of the way to the boundary y = 0 that a straight step may go.
_TO_BOUNDARY = 0.95
# Steps that take more than this part of a weight may be bent.
_BEND = 0.5
# Where φ adds less than this to the diagonal, A being near 1, float64 cannot tell it well enough.
_FAINT = 2.0**-38
_START_ROUNDS = 6


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
    nearest : array, shape (N, K)
        z ≥ 0 with sum 1, the convex combination of least norm; 0 where nothing is to be had.
    lift : array, shape (N, 1)
        A bound on how negative an eigenvalue of A is.
    possible : bool array, shape (N, 1)
        Whether no convex combination of the gradients is 0 to rounding.
    """

    matrix: Array
    logarithm: Array
    unit: Array
    nearest: Array
    lift: Array
    possible: Array


def _product(xp: Any, matrix: Array, y: Array) -> Array:
    """Return Ay with about 80 bits, rounded once."""
    row = y[:, None, :]
    return accurate_product(xp, matrix, row, xp.zeros_like(row))[:, 0, :]


def ratios(xp: Any, problem: Bargain, y: Array, power: float) -> tuple[Array, Array]:
    """Return yᵢ^power·(Ay)ᵢ/cᵢ, and the same with absolute values of A."""
    factor = xp.exp(power * xp.log(y) - problem.logarithm)
    return factor * _product(xp, problem.matrix, y), factor * (abs(problem.matrix) @ y[..., None])[..., 0]


def _start(xp: Any, problem: Bargain, power: float) -> Array:
    """Return the best multiple of y⁰ + t·z.

    y⁰ would be the solution if gradients were orthogonal. t·z is the bulk of the solution if they are
    nearly stationary, with t·zᵀAz = zᵀ(c∘(y⁰ + t·z)⁻ʳ), whose root the loop comes near.
    """
    norms = xp.linalg.diagonal(problem.matrix)
    apart = xp.exp((problem.logarithm - xp.log(norms)) / (1.0 + power))
    z = xp.where(problem.possible, problem.nearest, xp.zeros_like(apart))
    square = xp.sum(z * _product(xp, problem.matrix, z), axis=-1, keepdims=True)
    usable = problem.possible & (square > 0)
    square = xp.where(usable, square, xp.ones_like(square))
    much = 1.0 / xp.sqrt(square)
    for _ in range(_START_ROUNDS):
        gains = xp.exp(problem.logarithm - power * xp.log(apart / much + z))
        much = (xp.sum(z * gains, axis=-1, keepdims=True) / square) ** (1.0 / (1.0 + power))
        much = xp.where(usable, much, xp.ones_like(much))
    y = apart + much * z
    square = xp.sum(y * _product(xp, problem.matrix, y), axis=-1, keepdims=True)
    wanted = xp.sum(xp.exp(problem.logarithm + (1.0 - power) * xp.log(y)), axis=-1, keepdims=True)
    usable = square > 0
    ratio = wanted / xp.where(usable, square, xp.ones_like(square))
    return y * xp.where(usable, ratio, xp.ones_like(ratio)) ** (1.0 / (1.0 + power))


class _Search(NamedTuple):
    """Where the method stands: y, the Newton step from there, and the best y that there has been.

    Attributes
    ----------
    y, relative : array, shape (N, K)
        y, and the step δ = Δy/y.
    decrement : array, shape (N, 1)
        What the objective falls by along the step at first.
    best : array, shape (N, K)
        The y of the least merit.
    smallest, idle : array, shape (N, 1)
        That merit, and how many steps there have been since one halved it.
    running : bool array, shape (N, 1)
        Whether the search goes on.
    """

    y: Array
    relative: Array
    decrement: Array
    best: Array
    smallest: Array
    idle: Array
    running: Array


def newton(xp: Any, problem: Bargain, power: float) -> Array:
    """Return y; the steps of a problem do not depend on the others beside it.

    That the ratios are 1 to rounding does not settle y in the directions in which A is nearly singular:
    a problem ends when steps do not become shorter any more. Devices solve the linear equations in float64
    only, and make a fixed number of steps. Where the method fails, programs of JAX, which can't raise, go on
    with NaN.
    """
    traced = holds_traced(problem)
    looks = xp is np or traced
    most, halvings = (_CPU_ITERATIONS, _CPU_HALVINGS) if looks else (_DEVICE_ITERATIONS, _DEVICE_HALVINGS)
    y = _start(xp, problem, power)
    none = xp.full_like(y[:, :1], math.inf)
    search = _Search(y, xp.zeros_like(y), none, y, none, xp.zeros_like(none), none > 0)

    def advance(now: _Search) -> _Search:
        moved = _step(xp, problem, now, power, halvings, looks)
        return _assess(xp, problem, now, xp.where(now.running & xp.isfinite(moved), moved, now.y), power)

    if not traced:
        # Programs take a step of length 0 instead, so as to be compiled in two thirds of the time.
        search, most = _assess(xp, problem, search, y, power), most - 1
    best = iterate(search, advance, lambda now: now.running, most, looks=looks).best
    if not looks:
        return best
    error = _error(xp, problem, best, power)
    if traced:
        return xp.where(error <= _GIVEN_UP, best, xp.full_like(best, math.nan))
    _require_answers(error)
    return best


def _assess(xp: Any, problem: Bargain, search: _Search, y: Array, power: float) -> _Search:
    """Return the state of the search at y."""
    ratio, terms = ratios(xp, problem, y, power)
    excess = xp.max(abs(ratio - 1.0) / (_TOLERANCE + ROUNDING * terms), axis=-1, keepdims=True)
    relative, decrement = _direction(xp, problem, y, ratio, power)
    length = xp.max(abs(relative), axis=-1, keepdims=True)
    one = xp.ones_like(length)
    merit = xp.where(excess <= 1.0, xp.minimum(length, one), 1.0 + excess)
    better = merit < search.smallest
    idle = xp.where(merit < 0.5 * search.smallest, 0.0 * one, search.idle + 1.0)
    best = xp.where(better, y, search.best)
    smallest = xp.where(better, merit, search.smallest)
    patience = xp.where(smallest <= _SHORT, _PATIENCE * one, _LONG_PATIENCE * one)
    done = (smallest <= _ARRIVED) | ((smallest <= one) & (idle >= patience))
    return _Search(y, relative, decrement, best, smallest, idle, ~done)


def _direction(xp: Any, problem: Bargain, y: Array, ratio: Array, power: float) -> tuple[Array, Array]:
    """Return the relative Newton step δ = Δy/y, and what the objective falls by along it at first.

    With h = c·y^(1−r), the equations are (YAY + r·diag h)·δ = h∘(1 − ratio). They are scaled to a
    diagonal near 1. What rounding may have taken from the eigenvalues of A is put back on the left: that
    changes the way, not the destination.
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
    if xp is np:
        faint = np.min(power * scale * scale, axis=-1) < _FAINT
        if faint.any():
            solved[faint] = _twice_as_precise(problem, y, right, scale / root, power, solved, faint)
    return solved * scale / root, xp.sum(solved * right, axis=-1, keepdims=True)


def _twice_as_precise(
    problem: Bargain,
    y: FloatArray,
    right: FloatArray,
    factor: FloatArray,
    power: float,
    solved: FloatArray,
    which: FloatArray,
) -> FloatArray:
    """Solve the equations of some problems, unscaled and without a lift, where A is positive semidefinite.

    Where A is singular, what curvature there is comes from c·r·y^(−1−r), which may be less than the
    rounding of A in float64. Solved in float64, steps towards equal weights of duplicates would be a
    small part of what they should be.
    """
    unit = factor[which] * y[which]
    shift = power * np.exp(problem.logarithm[which] - (1.0 + power) * np.log(y[which]))
    step, definite = solve_shifted(np, problem.matrix[which], shift, right[which] / unit)
    usable = definite & np.all(np.isfinite(step), axis=-1, keepdims=True)
    found: FloatArray = np.where(usable, step / unit, solved[which])
    return found


class _Halving(NamedTuple):
    """The end of a step, whether the objective rises there (N, 1), and the length (N, 1) to try next."""

    end: Array
    rising: Array
    length: Array


def _step(xp: Any, problem: Bargain, search: _Search, power: float, halvings: int, looks: bool) -> Array:
    """Take a Newton step: in full, else bent, else straight and halved while the objective rises at its end.

    Straight steps keep Ay where A is nearly singular: with weights of 10⁶, what any bend adds to them is
    many times the gains. Bent ones let a weight fall by orders of magnitude without holding up the others.
    """
    y, relative, decrement = search.y, search.relative, search.decrement
    fastest = xp.max(-relative, axis=-1, keepdims=True)
    one = xp.ones_like(fastest)
    longest = xp.minimum(one, _TO_BOUNDARY / xp.where(fastest > 0, fastest, one))
    settled = xp.max(abs(relative), axis=-1, keepdims=True) <= 1e-3 * min(1.0, power)
    bent, rate = _bent(xp, y, relative, power)
    end = xp.where(longest < 1.0, bent, y * (1.0 + longest * relative))
    rate = xp.where(longest < 1.0, rate, 1.0 / (1.0 + longest * relative))
    rising = ~settled & _rises(xp, problem, end, rate * relative, decrement, power)
    length = xp.where(longest < 1.0, longest, 0.5 * one)

    def halve(now: _Halving) -> _Halving:
        straight = y * (1.0 + now.length * relative)
        rate = 1.0 / (1.0 + now.length * relative)
        return _Halving(
            xp.where(now.rising, straight, now.end),
            now.rising & _rises(xp, problem, straight, rate * relative, decrement, power),
            0.5 * now.length,
        )

    halving = _Halving(end, rising, length)
    return iterate(halving, halve, lambda now: now.rising, halvings, looks=looks).end


def _rises(xp: Any, problem: Bargain, end: Array, change: Array, decrement: Array, power: float) -> Array:
    """Return whether the objective rises, beyond rounding, as log y changes in this direction at the end."""
    ratio, terms = ratios(xp, problem, end, power)
    force = xp.exp(problem.logarithm + (1.0 - power) * xp.log(end))
    slope = xp.sum(force * (ratio - 1.0) * change, axis=-1, keepdims=True)
    noise = _EPS * xp.sum(force * terms * abs(change), axis=-1, keepdims=True)
    return ~(slope <= 0.1 * decrement + noise)


def _bent(xp: Any, y: Array, relative: Array, power: float) -> tuple[Array, Array]:
    """Return the point at the end of bent steps, and d log y by relative step there.

    Weights that would fall to less than half go along y·(1 − r·δ)^(−1/r), which is tangent to y·(1 + δ),
    never reaches 0, and is exact where (Ay)ᵢ does not change.
    """
    falls = relative < -_BEND
    zero = xp.zeros_like(relative)
    straight = 1.0 + xp.where(falls, zero, relative)
    bent = 1.0 - power * xp.where(falls, relative, zero)
    return xp.maximum(y * straight * bent ** (-1.0 / power), zero + 1e-300), 1.0 / (straight * bent)


def _error(xp: Any, problem: Bargain, y: Array, power: float) -> Array:
    """Return max|yᵢ^power·(Ay)ᵢ/cᵢ − 1| beyond rounding, shape (N, 1)."""
    ratio, terms = ratios(xp, problem, y, power)
    beyond = abs(ratio - 1.0) - ROUNDING * terms
    return xp.max(xp.maximum(beyond, xp.zeros_like(beyond)), axis=-1, keepdims=True)


def _require_answers(error: FloatArray) -> None:
    """Raise if a problem on the CPU has not come near its solution."""
    failed = ~(error <= _GIVEN_UP)
    if failed.any():
        raise SolverError(
            f"the Newton method gave up on {int(failed.sum())} of {len(error)} problems after "
            f"{_CPU_ITERATIONS} steps, with a relative error of {float(error.max()):.3g}; rescale the losses "
            "so that their gradients are of similar size"
        )
