"""Principal pivoting on a tableau, for K up to 32: every pivot is one sweep of a matrix in cache.

Sweeping A on the passive set F (Goodnight, The American Statistician 33, 1979) leaves −A_FF⁻¹ in
its place, A_NF·A_FF⁻¹ beside it and the Schur complement in the rest; the linear term, swept along,
becomes −x_F and s_N. So the signs of one vector say which index should change sides next. The rule
(always the most infeasible one) may cycle and the pivots may be small: both are noticed, and left to
the slower solver. What is accepted has been checked against A itself.

Rows are padded to whole vectors of :mod:`mojd.kernels.lanes`, here eight neighbours of one row.
"""

from __future__ import annotations

import numpy as np

from mojd.kernels.compiling import inner
from mojd.kernels.double_double import dot2
from mojd.kernels.gradient import NOISE
from mojd.kernels.lanes import WIDTH, fma, load, multiply, negated_fma, splat, store
from mojd.kernels.status import OPTIMAL, UNSETTLED

# Above this K, Cholesky factors of the passive block cost less than sweeps of all of A.
LARGEST = 32
# Below this relative pivot the passive block is ill-conditioned enough for refinement to pay.
REFINE_PIVOT = 1e-2
# A slack below −VIOLATION, for max|q| = 1, means that the passive set was a poor choice.
VIOLATION = 1e-14


@inner
def load_tableau(A, P, stride):
    """Copy A (K, K) to the flat P, whose rows are `stride` long and end in zeros."""
    K = A.shape[0]
    for i in range(K):
        for j in range(K):
            P[i * stride + j] = A[i, j]
        for j in range(K, stride):
            P[i * stride + j] = 0.0


@inner
def most_infeasible(t, side, K):
    """Return the index that is furthest on the wrong side, or −1 if none is beyond rounding."""
    total, worst, chosen = 1.0, 0.0, -1
    for i in range(K):
        value = t[i] * side[i]
        if side[i] < 0.0:
            total += abs(value)
        if value < worst:
            worst, chosen = value, i
    return chosen if worst < -NOISE * total else -1


@inner
def sweep(S, t, row, factors, p, side, K, vectors):
    """Exchange index p, which is out of the passive set (side 1) or in it (−1).

    Modifies all arrays. S is symmetric, so that its row p is its column p as well.
    """
    at = p * vectors
    pivot = S[at * WIDTH + p]
    reciprocal = 1.0 / pivot
    for v in range(vectors):
        entries = load(S, at + v)
        store(row, v, entries)
        store(factors, v, multiply(splat(reciprocal), entries))
    scaled = t[p] * reciprocal
    # This makes of column p what the sweep leaves there: side·S[i, p]/pivot.
    row[p] = pivot - side
    for v in range(vectors):
        entries, at_v = load(row, v), v
        store(t, v, negated_fma(splat(scaled), entries, load(t, v)))
        for i in range(K):
            store(S, at_v, negated_fma(splat(factors[i]), entries, load(S, at_v)))
            at_v += vectors
    for v in range(vectors):
        store(S, at + v, multiply(splat(side), load(factors, v)))
    S[at * WIDTH + p] = -reciprocal


@inner
def slack_of(P, q, x, s, K, vectors):
    """Write s = q + A·x."""
    for v in range(vectors):
        store(s, v, load(q, v))
    for i in range(K):
        if x[i] != 0.0:
            value = splat(x[i])
            for v in range(vectors):
                store(s, v, fma(value, load(P, i * vectors + v), load(s, v)))


@inner
def correct(S, s, x, side, row, K, vectors):
    """Take a step of iterative refinement: x_F −= A_FF⁻¹·s_F, where −A_FF⁻¹ is in S."""
    for v in range(vectors):
        store(row, v, splat(0.0))
    for i in range(K):
        if side[i] < 0.0:
            value = splat(s[i])
            for v in range(vectors):
                store(row, v, fma(value, load(S, i * vectors + v), load(row, v)))
    for i in range(K):
        if side[i] < 0.0:
            x[i] += row[i]


@inner
def accurate_slack(P, q, x, side, s, K, stride):
    """Write the slack of the passive indices, accumulated in double-double."""
    for i in range(K):
        if side[i] < 0.0:
            s[i] = dot2(P, i, x, K, q[i])


@inner
def clip(x, s, side, K):
    """Set negative x to 0; return whether x and the slack out of the passive set are sound."""
    total = 1.0
    for i in range(K):
        total += abs(x[i])
    sound = True
    for i in range(K):
        if side[i] < 0.0:
            sound &= x[i] >= -NOISE * total
            x[i] = x[i] if x[i] > 0.0 else 0.0
        else:
            sound &= s[i] >= -NOISE * total
    return sound


@inner
def solve_tableau(P, q, x, S, vectors_of, K, suspect):
    """Solve NNQP(A, q) for P, which holds A padded, and q, padded too; write x.

    `S` and `vectors_of` (4, stride) are work space. Returns (status, pivots); the status is
    OPTIMAL or UNSETTLED.
    """
    stride = q.size
    vectors = stride // WIDTH
    t, side, row, s, factors = vectors_of[0], vectors_of[1], vectors_of[2], vectors_of[3], vectors_of[4]
    for i in range(K * vectors):
        store(S, i, load(P, i))
    for v in range(vectors):
        store(t, v, load(q, v))
        store(side, v, splat(1.0))
    least, pivots = 1.0, 0
    while True:
        p = most_infeasible(t, side, K)
        if p < 0:
            break
        if side[p] > 0.0:
            pivot = S[p * stride + p] / P[p * stride + p]
            if not pivot > suspect:
                return UNSETTLED, pivots
            least = pivot if pivot < least else least
        if pivots == 3 * K:
            return UNSETTLED, pivots
        sweep(S, t, row, factors, p, side[p], K, vectors)
        side[p] = -side[p]
        pivots += 1
    for i in range(stride):
        x[i] = -t[i] if side[i] < 0.0 else 0.0
    slack_of(P, q, x, s, K, vectors)
    correct(S, s, x, side, row, K, vectors)
    if not clip(x, s, side, K):
        return UNSETTLED, pivots
    return OPTIMAL, pivots
