r"""Problems in which most indices are passive, seen from the other side.

With H = A⁻¹, the slack s of NNQP(A, q) is the minimiser of NNQP(H, −H·q), and x is its slack:

    s ≥ 0,   x = H·s − H·q ≥ 0,   xᵀs = 0.

The passive set there is the complement of the one here, and an exchange is the same exchange, but it
costs the cube of a small number where it would cost that of a large one. H serves all linear terms.
Where gradients are nearly orthogonal and conflict (a loss for every example of a batch), 200 of 256 are
passive and 56 are not. What is found is checked with A itself.
"""

from __future__ import annotations

import numpy as np

from mojd.kernels.compiling import inner
from mojd.kernels.gradient import NOISE
from mojd.kernels.guess import guess
from mojd.kernels.lanes import WIDTH, fma, load, splat, store

# From which part of passive indices on the other side is the cheaper one.
DENSE = 0.6
# How many problems are looked at before H is computed, at most, and one for how many indices.
SAMPLE, STRIDE = 4, 16
# Which part of its squared norm each index must at least keep beside all others. So far from dependence
# guesses are good, and nothing needs refinement (REFINE_PIVOT is less).
DISTANCE = 0.125
# How many times the rounding errors of a slack a solution from this side may leave in it.
TOLERANCE = 4.0


@inner
def is_dense(x):
    """Whether so many entries of a guess are positive that its complement is better."""
    count = 0
    for j in range(x.size):
        count += x[j] > 0.0
    return count > DENSE * x.size


@inner
def expect_dense(A, x, s):
    """Whether it is worth while to compute H, by what a guess says of projections of a few gradients.

    It depends on A alone, so that it does not matter how threads share the linear terms. `x` and `s` are
    work space.
    """
    K, dense = A.shape[0], 0
    count = K // STRIDE if K // STRIDE < SAMPLE else SAMPLE
    for t in range(count):
        guess(A.reshape(A.size), A[t * K // count], x, s, K)
        dense += is_dense(x[:K])
    return 2 * dense > count


@inner
def add_rows(A, factors, first, last, start, out):
    """Add Σ factors[i]·A[i, :], first ≤ i < last, to `out` from vector `start` on, four rows at a time."""
    vectors, i = A.shape[1] // WIDTH, first
    flat = A.reshape(A.size)
    while i + 4 <= last:
        a, b = splat(factors[i]), splat(factors[i + 1])
        c, d = splat(factors[i + 2]), splat(factors[i + 3])
        at = i * vectors
        for v in range(start, vectors):
            low = fma(a, load(flat, at + v), load(out, v))
            low = fma(b, load(flat, at + vectors + v), low)
            low = fma(c, load(flat, at + 2 * vectors + v), low)
            store(out, v, fma(d, load(flat, at + 3 * vectors + v), low))
        i += 4
    while i < last:
        for v in range(start, vectors):
            store(out, v, fma(splat(factors[i]), load(flat, i * vectors + v), load(out, v)))
        i += 1


@inner
def invert(A, H, inverse, row):
    """Write A⁻¹ to H and return True if A is so well conditioned that nobody need look at a pivot.

    Each index keeps at least `DISTANCE` of its squared norm, whichever others are passive: that is
    1/(A_kk·H_kk). With A = Uᵀ·D⁻¹·U, as in :mod:`mojd.kernels.factor`, the rows of U·H = D·U⁻ᵀ say
    what H is, from the last on: its right side is lower triangular with 1 on the diagonal. Zero rows
    count as those of the identity, since x is 0 there. `inverse` and `row` are work space.
    """
    K = A.shape[0]
    for k in range(K):
        square = A[k, k] if A[k, k] > 0.0 else 1.0
        for i in range(k):
            row[i] = -H[i, k] * inverse[i]
        for j in range(k // WIDTH * WIDTH, A.shape[1]):
            H[k, j] = A[k, j]
        H[k, k] = square
        add_rows(H, row, np.int64(0), k, k // WIDTH, H[k])
        if not H[k, k] > DISTANCE * square:
            return False
        inverse[k] = 1.0 / H[k, k]
    for k in range(K - 1, -1, -1):
        for j in range(row.size):
            row[j] = 0.0
        add_rows(H, H[k], k + 1, K, (k + 1) // WIDTH, row)
        entry = 1.0
        for j in range(k + 1, K):
            row[j] *= -inverse[k]
            entry -= H[k, j] * row[j]
        entry *= inverse[k]
        if not entry * A[k, k] * DISTANCE < 1.0:
            return False
        H[k, k] = entry
        for j in range(k + 1, K):
            H[k, j], H[j, k] = row[j], row[j]
    return True


@inner
def linear_term_of_slack(H, q, out):
    """Write −H·q."""
    for j in range(out.size):
        out[j] = 0.0
    add_rows(H, q, np.int64(0), H.shape[0], np.int64(0), out)
    for j in range(out.size):
        out[j] = -out[j]


@inner
def read_slack(lane, state, s, p, x):
    """Write what a lane that has solved NNQP(H, p) found: its slack H·s + p is x; `s` holds H·s."""
    for j in range(x.size):
        value = s[j * WIDTH + lane] + p[j * WIDTH + lane]
        x[j] = value if state[j * WIDTH + lane] == 0 and value > 0.0 else 0.0


@inner
def is_minimiser(A, q, x, s):
    """Whether x ≥ 0 satisfies the KKT conditions of NNQP(A, q) to rounding; modifies s."""
    K, total = A.shape[0], 1.0
    for j in range(K):
        s[j] = q[j]
        total += x[j]
    add_rows(A, x, np.int64(0), K, np.int64(0), s)
    worst = 0.0
    for j in range(K):
        missed = abs(s[j]) if x[j] > 0.0 else -s[j]
        worst = worst if missed <= worst else missed
    return worst <= TOLERANCE * NOISE * total
