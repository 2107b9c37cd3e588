"""Block principal pivoting for eight right-hand sides at once, each in its SIMD lane.

A queue of problems feeds the lanes: a lane that is done takes the next problem at once. What is
not plain sailing in a lane (a small pivot, an exchange that does not settle) is left to the scalar
solver. The arithmetic of a lane does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from mojd.kernels.block_pivoting import PATIENCE
from mojd.kernels.compiling import inner
from mojd.kernels.factor import REFINE_PIVOT
from mojd.kernels.gradient import NOISE, VIOLATION
from mojd.kernels.lane_factor import factor, residual_lanes, solve_lanes
from mojd.kernels.lanes import WIDTH, fma, load, splat, spread, store

# What becomes of a lane in an iteration.
RUNNING, SOLVED, GIVEN_UP, IDLE = 0, 1, 2, 3


@inner
def gather(A, length, passive, m, size, U, diagonal, right, q, rows):
    """Copy the upper half of A_FF and −q_F into every lane of U and `right`.

    `A` is flat, and its rows `length` long. What exceeds the passive set of a lane becomes the
    identity. `rows` is work space for one entry per lane.
    """
    for i in range(size):
        for lane in range(WIDTH):
            at = i * WIDTH + lane
            index, inside = passive[at], i < m[lane]
            rows[lane] = index * length
            square = A[rows[lane] + index] if inside else 1.0
            diagonal[at] = square
            U[i * size * WIDTH + at] = square
            right[at] = -q[index * WIDTH + lane] if inside else 0.0
        for j in range(i + 1, size):
            at = j * WIDTH
            for lane in range(WIDTH):
                entry = A[np.uintp(rows[lane] + passive[at + lane])]
                U[i * size * WIDTH + at + lane] = entry if j < m[lane] else 0.0


@inner
def gather_lower(A, length, passive, m, size, U):
    """Copy A_FF below the diagonal of U, where the factor leaves room for it."""
    for i in range(size):
        for j in range(i):
            for lane in range(WIDTH):
                row = passive[i * WIDTH + lane] * length
                entry = A[row + passive[j * WIDTH + lane]]
                U[(i * size + j) * WIDTH + lane] = entry if i < m[lane] else 0.0


@inner
def slack_lanes(A, length, K, x, s):
    """Write A·x of every lane to s, eight rows at a time; A is symmetric, and read along its rows."""
    j = 0
    while j + 8 <= K:
        a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        e, f, g, h = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        at = j * length
        for k in range(K):
            value = load(x, k)
            a = fma(spread(A, at + k), value, a)
            b = fma(spread(A, at + length + k), value, b)
            c = fma(spread(A, at + 2 * length + k), value, c)
            d = fma(spread(A, at + 3 * length + k), value, d)
            e = fma(spread(A, at + 4 * length + k), value, e)
            f = fma(spread(A, at + 5 * length + k), value, f)
            g = fma(spread(A, at + 6 * length + k), value, g)
            h = fma(spread(A, at + 7 * length + k), value, h)
        store(s, j, a)
        store(s, j + 1, b)
        store(s, j + 2, c)
        store(s, j + 3, d)
        store(s, j + 4, e)
        store(s, j + 5, f)
        store(s, j + 6, g)
        store(s, j + 7, h)
        j += 8
    while j < K:
        a = splat(0.0)
        for k in range(K):
            a = fma(spread(A, j * length + k), load(x, k), a)
        store(s, j, a)
        j += 1


@inner
def release_dependent(inverse, passive, size, state):
    """Put the indices whose row the factorisation took out, out of the passive set."""
    for at in range(size * WIDTH):
        if inverse[at] == 0.0:
            state[passive[at] * WIDTH + at % WIDTH] = 0


@inner
def find_flips(q, x, s, y, size, state, flips, lowest, threshold):
    """Flip the state of every infeasible index in every lane.

    flips[lane] counts them, lowest[lane] is the least slack outside of the passive set, or 0.
    """
    for lane in range(WIDTH):
        lowest[lane], flips[lane] = 1.0, 0
    for i in range(size):
        for lane in range(WIDTH):
            lowest[lane] += abs(y[i * WIDTH + lane])
    for lane in range(WIDTH):
        threshold[lane] = -NOISE * lowest[lane]
        lowest[lane] = 0.0
    for at in range(0, q.size, WIDTH):
        for lane in range(WIDTH):
            slack = s[at + lane] + q[at + lane]
            inside = state[at + lane]
            value = x[at + lane] if inside == 1 else slack
            outer = 0.0 if inside == 1 else slack
            lowest[lane] = outer if outer < lowest[lane] else lowest[lane]
            flip = 1 if value < threshold[lane] else 0
            flips[lane] += flip
            state[at + lane] = inside ^ flip


@inner
def list_passive(lane, passive, state):
    """List the passive set of one lane in ascending order; return its size."""
    count = 0
    for j in range(state.size // WIDTH):
        passive[count * WIDTH + lane] = j
        count += state[j * WIDTH + lane]
    return count


@inner
def start_lane(lane, x, complement, passive, m, state, best, patience):
    """Begin with the indices of positive x in the passive set, or with all others."""
    for j in range(x.size):
        state[j * WIDTH + lane] = 1 if (x[j] > 0.0) != complement else 0
    m[lane] = list_passive(lane, passive, state)
    best[lane], patience[lane] = x.size + 1, PATIENCE


@inner
def refine_lanes(U, size, m, inverse, diagonal, right, y, correction, wanted):
    """Two steps of iterative refinement with residuals in double-double, where `wanted` is 1."""
    for _ in range(2):
        residual_lanes(U, size, m, diagonal, right, y, correction)
        solve_lanes(U, size, m, inverse, correction)
        for i in range(m):
            store(y, i, fma(load(wanted, 0), load(correction, i), load(y, i)))


@inner
def settle(lane, flips, lowest, rough, passive, m, state, best, patience):
    """Return what becomes of a running lane, and prepare its next passive set."""
    if flips == 0:
        return GIVEN_UP if rough and lowest < -VIOLATION else SOLVED
    m[lane] = list_passive(lane, passive, state)
    if flips < best[lane]:
        best[lane], patience[lane] = flips, PATIENCE
    else:
        patience[lane] -= 1
    return RUNNING if patience[lane] >= 0 else GIVEN_UP


@inner
def iterate(A, passive, m, state, best, patience, outcome, flips, rows, buffers, suspect):
    """Do one exchange in every lane that runs; `outcome` says what became of each (in place).

    `A` is flat, its rows padded. `flips`, `rows` and `buffers` are work space, see
    :mod:`mojd.kernels.workspace`. Solutions lie in the second buffer, y, in the order of `passive`.
    Indices that depend on those before them, up to a relative pivot of `suspect`, leave the passive
    set.
    """
    U, y, x, s, inverse, diagonal, right, factors, condition, wanted, lowest, q, _ = buffers
    K = q.size // WIDTH
    length, size = A.size // K, np.int64(2)
    for lane in range(WIDTH):
        size = m[lane] if m[lane] > size else size
    # The factorisation takes rows in pairs.
    size += size & 1
    gather(A, length, passive, m, size, U, diagonal, right, q, rows)
    factor(U, size, size, diagonal, inverse, factors, condition, suspect)
    release_dependent(inverse, passive, size, state)
    for i in range(size):
        store(y, i, load(right, i))
    solve_lanes(U, size, size, inverse, y)
    for at in range(q.size):
        x[at] = 0.0
    for lane in range(WIDTH):
        for i in range(m[lane]):
            x[passive[i * WIDTH + lane] * WIDTH + lane] = y[i * WIDTH + lane]
    slack_lanes(A, length, K, x, s)
    find_flips(q, x, s, y, size, state, flips, lowest, wanted)
    refined = False
    for lane in range(WIDTH):
        wanted[lane] = 0.0
        if outcome[lane] == RUNNING:
            rough = condition[lane] * REFINE_PIVOT > 1.0
            outcome[lane] = settle(lane, flips[lane], lowest[lane], rough, passive, m, state, best, patience)
            if outcome[lane] == SOLVED and rough:
                refined, wanted[lane] = True, 1.0
    if refined:
        gather_lower(A, length, passive, m, size, U)
        refine_lanes(U, size, size, inverse, diagonal, right, y, s, wanted)
