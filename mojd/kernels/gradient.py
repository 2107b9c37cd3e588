"""The slack s = A·x + q of a sparse x, and the rounding error that it carries."""

from __future__ import annotations

from mojd.kernels.compiling import fast_inner, inner
from mojd.kernels.double_double import add_product
from mojd.kernels.lanes import WIDTH, add, load, splat, store

# s is a sum of products of numbers below 2 with x: it is noise below NOISE·(1 + Σx).
NOISE = 16 * 2.0**-53
# A slack below −VIOLATION, for max|q| = 1, means that the passive set was a poor choice.
VIOLATION = 1e-14


@fast_inner
def slack(A, q, passive, y, m, s):
    """Write s = q + Σ_{i<m} y[i]·A[passive[i], :] in place, four rows at a time."""
    K = q.size
    for j in range(K):
        s[j] = q[j]
    i = 0
    while i + 4 <= m:
        a, b, c, d = passive[i], passive[i + 1], passive[i + 2], passive[i + 3]
        ya, yb, yc, yd = y[i], y[i + 1], y[i + 2], y[i + 3]
        for j in range(K):
            s[j] += (ya * A[a, j] + yb * A[b, j]) + (yc * A[c, j] + yd * A[d, j])
        i += 4
    while i < m:
        a, ya = passive[i], y[i]
        for j in range(K):
            s[j] += ya * A[a, j]
        i += 1


@fast_inner
def noise(y, m):
    """Return the size below which entries of x and s are rounding errors."""
    total = 1.0
    for i in range(m):
        total += abs(y[i])
    return NOISE * total


@inner
def accurate_slack(A, q, x, s, K):
    """Write s = q + A·x, accumulated in double-double, for a flat A whose rows are as long as q.

    It turns one step of iterative refinement into an almost correctly rounded solution, however
    ill-conditioned the passive block is. All rows are whole vectors.
    """
    vectors = q.size // WIDTH
    for v in range(vectors):
        total, error = load(q, v), splat(0.0)
        for i in range(K):
            if x[i] != 0.0:
                entry, value = load(A, i * vectors + v), splat(x[i])
                total, error = add_product(total, error, entry, value)
        store(s, v, add(total, error))
