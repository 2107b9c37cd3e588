"""Block principal pivoting on eight problems at once, each in its SIMD lane.

A queue of problems feeds the lanes: a lane that is done takes the next problem at once. What is
not plain sailing in a lane (a small pivot, an exchange that does not settle) is left to the scalar
solver. The arithmetic of a lane does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from mojd.kernels.block_pivoting import PATIENCE
from mojd.kernels.compiling import inner
from mojd.kernels.factor import SUSPECT_PIVOT
from mojd.kernels.gradient import NOISE
from mojd.kernels.lane_factor import factor, residual_lanes, solve_lanes
from mojd.kernels.lanes import WIDTH, fma, load, splat, store
from mojd.kernels.scalar import REFINE_PIVOT, VIOLATION

# What becomes of a lane in an iteration.
RUNNING, SOLVED, GIVEN_UP, IDLE = 0, 1, 2, 3


@inner
def gather(A, shared, passive, m, size, U, diagonal, right, q):
    """Copy the upper half of A_FF and −q_F into every lane of U and `right`.

    What exceeds the passive set of a lane becomes the identity.
    """
    for i in range(size):
        for lane in range(WIDTH):
            row, inside = passive[lane, i], i < m[lane]
            square = A[0 if shared else lane, row, row]
            diagonal[i * WIDTH + lane] = square if inside else 1.0
            U[(i * size + i) * WIDTH + lane] = square if inside else 1.0
            right[i * WIDTH + lane] = -q[lane, row] if inside else 0.0
        for j in range(i + 1, size):
            for lane in range(WIDTH):
                entry = A[0 if shared else lane, passive[lane, i], passive[lane, j]]
                U[(i * size + j) * WIDTH + lane] = entry if j < m[lane] else 0.0


@inner
def gather_lower(A, shared, passive, m, size, U):
    """Copy A_FF below the diagonal of U, where the factor leaves room for it."""
    for i in range(size):
        for j in range(i):
            for lane in range(WIDTH):
                entry = A[0 if shared else lane, passive[lane, i], passive[lane, j]]
                U[(i * size + j) * WIDTH + lane] = entry if i < m[lane] else 0.0


@inner
def slack_shared(A, x, s):
    """Write A·x of every lane to s, for the one A that all lanes share, four rows at a time."""
    K = A.shape[0]
    j = 0
    while j + 4 <= K:
        a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for k in range(K):
            value = load(x, k)
            a = fma(splat(A[k, j]), value, a)
            b = fma(splat(A[k, j + 1]), value, b)
            c = fma(splat(A[k, j + 2]), value, c)
            d = fma(splat(A[k, j + 3]), value, d)
        store(s, j, a)
        store(s, j + 1, b)
        store(s, j + 2, c)
        store(s, j + 3, d)
        j += 4
    while j < K:
        a = splat(0.0)
        for k in range(K):
            a = fma(splat(A[k, j]), load(x, k), a)
        store(s, j, a)
        j += 1


@inner
def slack_own(A, passive, m, y, s):
    """Write A·x of every lane to s, where every lane has its own A."""
    K = A.shape[1]
    for lane in range(WIDTH):
        for j in range(K):
            s[j * WIDTH + lane] = 0.0
        for i in range(m[lane]):
            row, value = passive[lane, i], y[i * WIDTH + lane]
            for j in range(K):
                s[j * WIDTH + lane] += value * A[lane, row, j]


@inner
def exchange(lane, q, passive, m, state, x, s, y, best, patience):
    """Flip every infeasible index of one lane and list its passive set anew.

    Returns the outcome and the lowest slack.
    """
    K = q.shape[1]
    total = 1.0
    for i in range(m[lane]):
        total += abs(y[i * WIDTH + lane])
    threshold = -NOISE * total
    flips, count, lowest = 0, 0, 0.0
    for j in range(K):
        at = j * WIDTH + lane
        inside = state[lane, j]
        outer = s[at] + q[lane, j]
        value = x[at] if inside else outer
        flip = value < threshold
        lowest = min(lowest, 0.0 if inside else outer)
        flips += flip
        inside = inside ^ flip
        state[lane, j] = inside
        passive[lane, count] = j
        count += inside
    if flips == 0:
        return SOLVED, lowest
    m[lane] = count
    if flips < best[lane]:
        best[lane], patience[lane] = flips, PATIENCE
    else:
        patience[lane] -= 1
    return (RUNNING if patience[lane] >= 0 else GIVEN_UP), lowest


@inner
def start_lane(lane, q, passive, m, state, best, patience):
    """Begin with the indices of negative q in the passive set."""
    K = q.shape[1]
    count = 0
    for j in range(K):
        inside = np.uint8(q[lane, j] < 0.0)
        state[lane, j] = inside
        passive[lane, count] = j
        count += inside
    m[lane] = count
    best[lane], patience[lane] = K + 1, PATIENCE


@inner
def refine_lanes(U, size, m, inverse, diagonal, right, y, correction, wanted):
    """Two steps of iterative refinement with residuals in double-double, where `wanted` is 1."""
    for _ in range(2):
        residual_lanes(U, size, m, diagonal, right, y, correction)
        solve_lanes(U, size, m, inverse, correction)
        for i in range(m):
            store(y, i, fma(load(wanted, 0), load(correction, i), load(y, i)))


@inner
def iterate(A, q, passive, m, state, best, patience, outcome, buffers):
    """Do one exchange in every lane that runs; `outcome` says how each ended (in place).

    A (1, K, K) is shared by all lanes, A (WIDTH, K, K) has one matrix for each.

    `buffers` is work space: a tuple of flat arrays of lanes. Solutions lie in the second, y, in the
    order of `passive`.
    """
    U, y, x, s, inverse, diagonal, right, factors, weakest, wanted = buffers
    K = q.shape[1]
    size, shared = 1, A.shape[0] == 1
    for lane in range(WIDTH):
        size = max(size, m[lane])
    gather(A, shared, passive, m, size, U, diagonal, right, q)
    factor(U, size, size, diagonal, inverse, factors, weakest)
    for i in range(size):
        store(y, i, load(right, i))
    solve_lanes(U, size, size, inverse, y)
    x[: K * WIDTH] = 0.0
    for lane in range(WIDTH):
        for i in range(m[lane]):
            x[passive[lane, i] * WIDTH + lane] = y[i * WIDTH + lane]
    if shared:
        slack_shared(A[0], x, s)
    else:
        slack_own(A, passive, m, y, s)
    rough = False
    wanted[:] = 0.0
    for lane in range(WIDTH):
        if outcome[lane] != RUNNING:
            continue
        if not weakest[lane] > SUSPECT_PIVOT:
            outcome[lane] = GIVEN_UP
            continue
        outcome[lane], lowest = exchange(lane, q, passive, m, state, x, s, y, best, patience)
        if outcome[lane] == SOLVED and weakest[lane] < REFINE_PIVOT:
            rough, wanted[lane] = True, 1.0
            if lowest < -VIOLATION:
                outcome[lane] = GIVEN_UP
    if rough:
        gather_lower(A, shared, passive, m, size, U)
        refine_lanes(U, size, size, inverse, diagonal, right, y, s, wanted)


@inner
def lane_buffers(K):
    """Allocate what :func:`iterate` works in."""
    vectors = K * WIDTH
    return (
        np.empty(K * vectors),
        np.empty(vectors),
        np.empty(vectors),
        np.empty(vectors),
        np.empty(vectors),
        np.empty(vectors),
        np.empty(vectors),
        np.empty(max(vectors, 32 * WIDTH)),
        np.empty(WIDTH),
        np.empty(WIDTH),
    )
