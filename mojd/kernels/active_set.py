"""The finite single-pivot active set, with a rank test before every step.

A primal method in the manner of Lawson and Hanson: x stays feasible and the objective falls at
every step, so that no passive set is ever seen twice. An index that depends on the passive ones
enters by moving along the null direction until a passive index leaves; if none does, that
direction is a ray.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd.kernels.compiling import inner
from mojd.kernels.factor import append, delete, is_dependent, null_noise, solve
from mojd.kernels.gradient import noise, slack
from mojd.kernels.status import INFEASIBLE, MAX_ITER, OPTIMAL

# A ray z must have −qᵀz above this many times max|A·z|. If q = A·a then −qᵀz ≤ ‖a‖₁·max|A·z|, and
# so what A·z keeps of rounding errors, or of a float32 Gramian's, is not taken for a ray.
RAY = 1e3

# Entries of a null direction below this part of its largest are rounding errors.
ZERO = 1e-12
# What becomes of an exchange.
MOVED, FREE, TOO_SHORT = 0, 1, 2

# No index. Not a literal: numba would compile what it is passed to once more for that.
NONE: Any = np.int64(-1)

# Values of `state`: out of the passive set, in it, and out for as long as nothing else moves.
OUT, PASSIVE, SET_ASIDE = 0, 2, 3


@inner
def drop(p, passive, m, state, x, U, inverse, w):
    """Take the p-th passive index out of the passive set; return the new size."""
    state[passive[p]] = OUT
    delete(U, inverse, passive, m, p, w)
    for i in range(p, m - 1):
        x[i] = x[i + 1]
    return m - 1


@inner
def minimise_on_passive(q, entered, passive, m, state, x, y, U, inverse, w):
    """Move x to the minimiser on the passive set, dropping what blocks the way; return m.

    `entered` is the index that came in last. Were it to leave before x has moved at all, it came
    in on a rounding error: it is then set aside until another index has entered.
    """
    while True:
        for i in range(m):
            y[i] = -q[passive[i]]
        solve(U, inverse, m, y)
        step, blocking = 1.0, NONE
        for i in range(m):
            if y[i] <= 0.0:
                ratio = x[i] / (x[i] - y[i]) if x[i] > 0.0 else 0.0
                if blocking < 0 or ratio < step:
                    step, blocking = ratio, i
        if blocking < 0:
            for i in range(m):
                x[i] = y[i]
            return m
        for i in range(m):
            x[i] += step * (y[i] - x[i])
        leaving = passive[blocking]
        m = drop(blocking, passive, m, state, x, U, inverse, w)
        if leaving == entered and step == 0.0:
            state[leaving] = SET_ASIDE


@inner
def exchange(A, j, slope, passive, m, state, x, z, U, inverse, w, rank_noise):
    """Bring the dependent index j in for the passive index that its null direction drives out.

    z[:m] holds the null direction. Returns what happened and the new m: MOVED, or TOO_SHORT if the
    way down can't be told from rounding errors, or FREE if no passive index falls along z.
    """
    entering = 0.0
    while True:
        largest = 1.0
        for i in range(m):
            largest = abs(z[i]) if abs(z[i]) > largest else largest
        step, blocking = math.inf, NONE
        for i in range(m):
            if z[i] < -ZERO * largest and x[i] < -step * z[i]:
                step, blocking = -x[i] / z[i], i
        if blocking < 0:
            return FREE, m
        if entering == 0.0 and -slope <= 0.5 * step * null_noise(z, m, rank_noise):
            return TOO_SHORT, m
        for i in range(m):
            moved = x[i] + step * z[i]
            x[i] = moved if moved > 0.0 else 0.0
        entering += step
        m = drop(blocking, passive, m, state, x, U, inverse, w)
        append(A, passive, m, j, U, inverse, w)
        if not is_dependent(A, j, U, inverse, m, z, rank_noise):
            passive[m] = j
            state[j] = PASSIVE
            x[m] = entering
            return MOVED, m + 1


@inner
def is_ray(A, passive, m, j, z, slope, s):
    """Whether (z, 1) on the passive indices and j is a direction of unbounded descent (uses s)."""
    passive[m], z[m] = j, 1.0
    s[:] = 0.0
    slack(A, s, passive, z, m + 1, s)
    size = noise(z, m + 1)
    for i in range(s.size):
        size = abs(s[i]) if abs(s[i]) > size else size
    return -slope > RAY * size


@inner
def active_set(A, q, s, x, y, z, w, passive, m, state, U, inverse, bounded, rank_noise, max_iter):
    """Solve NNQP(A, q) from the feasible x[:m] ≥ 0 on the passive set passive[:m].

    `bounded` promises that the problem has a minimiser (q in the range of the Gramian), so that a
    ray can only be rounding. Everything but `A` and `q` is modified in place: on return x[:m] is
    the solution, or on INFEASIBLE the ray.

    Returns (status, m, iterations).
    """
    K = q.size
    entered = NONE
    for iteration in range(max_iter):
        m = minimise_on_passive(q, entered, passive, m, state, x, y, U, inverse, w)
        slack(A, q, passive, x, m, s)
        threshold = -noise(x, m)
        while True:
            j, slope = NONE, threshold
            for i in range(K):
                if state[i] == OUT and s[i] < slope:
                    j, slope = i, s[i]
            if j < 0:
                return OPTIMAL, m, iteration + 1
            append(A, passive, m, j, U, inverse, w)
            if not is_dependent(A, j, U, inverse, m, z, rank_noise):
                passive[m] = j
                state[j] = PASSIVE
                x[m] = 0.0
                m += 1
                break
            outcome, m = exchange(A, j, slope, passive, m, state, x, z, U, inverse, w, rank_noise)
            if outcome == MOVED:
                break
            if outcome == FREE and not bounded and is_ray(A, passive, m, j, z, slope, w):
                for i in range(m):
                    x[i] = z[i] if z[i] > 0.0 else 0.0
                passive[m] = j
                x[m] = 1.0
                return INFEASIBLE, m + 1, iteration + 1
            state[j] = SET_ASIDE
        entered = j
        for i in range(K):
            if state[i] == SET_ASIDE:
                state[i] = OUT
    return MAX_ITER, m, max_iter
