"""Principal pivoting on a tableau, for small K: every pivot is one sweep of a matrix in cache.

Sweeping A on the passive set F (Goodnight, The American Statistician 33, 1979) leaves −A_FF⁻¹ in
its place, A_NF·A_FF⁻¹ beside it and the Schur complement in the rest; the linear term, swept along,
becomes −x_F and s_N. So the signs of one vector say which index should change sides next. The rule
(always the most infeasible one) might cycle, and pivots may be small: both are noticed and left to
the general solver. What is accepted has been checked against A itself, and refined.

Rows are padded to whole vectors of :mod:`mojd.kernels.lanes`, here eight neighbours in one row.
"""

from __future__ import annotations

from mojd.kernels.compiling import inner
from mojd.kernels.factor import REFINE_PIVOT
from mojd.kernels.gradient import NOISE, VIOLATION, accurate_slack
from mojd.kernels.lanes import WIDTH, fma, load, multiply, negated_fma, splat, store
from mojd.kernels.status import OPTIMAL, UNSETTLED


@inner
def most_infeasible(t, side, K):
    """Return the index that is furthest on the wrong side, or −1 if none is beyond rounding."""
    total, worst, chosen = 1.0, 0.0, -1
    for i in range(K):
        value = t[i] * side[i]
        total += abs(value) if side[i] < 0.0 else 0.0
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
        entries, position = load(row, v), v
        store(t, v, negated_fma(splat(scaled), entries, load(t, v)))
        for i in range(K):
            store(S, position, negated_fma(splat(factors[i]), entries, load(S, position)))
            position += vectors
    for v in range(vectors):
        store(S, at + v, multiply(splat(side), load(factors, v)))
    S[at * WIDTH + p] = -reciprocal


@inner
def correct(S, s, x, side, row, K, vectors):
    """Take a step of iterative refinement: x_F −= A_FF⁻¹·s_F, where −A_FF⁻¹ is in S."""
    for v in range(vectors):
        total = splat(0.0)
        for i in range(K):
            if side[i] < 0.0:
                total = fma(splat(s[i]), load(S, i * vectors + v), total)
        store(row, v, total)
    for i in range(K):
        x[i] += row[i] if side[i] < 0.0 else 0.0


@inner
def is_sound(x, s, side, K, least):
    """Set what rounding made negative in x to 0; return whether x and s are feasible but for that."""
    total = 1.0
    for i in range(K):
        total += abs(x[i])
    # Where x was corrected after s was computed, s is a little out of date.
    violation = VIOLATION if least < REFINE_PIVOT else 2.0 * NOISE * total
    sound = True
    for i in range(K):
        if side[i] < 0.0:
            sound &= x[i] >= -NOISE * total
            x[i] = x[i] if x[i] > 0.0 else 0.0
        else:
            sound &= s[i] >= -violation
    return sound


@inner
def solve_tableau(A, q, x, S, work, suspect):
    """Solve NNQP(A, q) for A with its diagonal in [½, 2) ∪ {0} and max|q| about 1; write x.

    A and S are flat, with rows as long as q, x and those of `work`, of which there are five. What pads
    them is 0. S and `work` are modified in place. A relative pivot below `suspect` is left to the
    general solver. Returns (OPTIMAL or UNSETTLED, pivots).
    """
    stride = q.size
    vectors, K = stride // WIDTH, A.size // stride
    t, side, row, s, factors = work[0], work[1], work[2], work[3], work[4]
    for v in range(K * vectors):
        store(S, v, load(A, v))
    for v in range(vectors):
        store(t, v, load(q, v))
        store(side, v, splat(1.0))
    least, pivots = 1.0, 0
    while True:
        p = most_infeasible(t, side, K)
        if p < 0:
            break
        if side[p] > 0.0:
            pivot = S[p * stride + p] / A[p * stride + p]
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
    accurate_slack(A, q, x, s, K)
    correct(S, s, x, side, row, K, vectors)
    if least < REFINE_PIVOT:
        accurate_slack(A, q, x, s, K)
        correct(S, s, x, side, row, K, vectors)
        accurate_slack(A, q, x, s, K)
    return OPTIMAL if is_sound(x, s, side, K, least) else UNSETTLED, pivots
