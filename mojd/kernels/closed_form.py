"""Closed forms for K ≤ 3, for one problem and for batches of any length.

Every decision is the sign of a difference of two products, which Kahan's algorithm gives with its
sign right and within 1.5 ulp; decisions and values are scale-free. What they cannot settle (nearly
dependent rows, exponents near overflow, input that is no Gramian) is marked UNSETTLED and left to
the general solver.
"""

from __future__ import annotations

from mojd.kernels.compiling import inner
from mojd.kernels.double_double import difference_of_products
from mojd.kernels.status import OPTIMAL, UNSETTLED

# Squared diagonal ratios outside of this range could overflow or underflow in a product of three.
LARGEST, SMALLEST = 2.0**250, 2.0**-250
# A 2×2 determinant below this part of its first term is left to the general solver's rank test.
DEPENDENT = 1e-12
# Relative pivots above this need no refinement.
WELL_CONDITIONED = 1e-2
# Rounding errors of a slack, relative to the sum of the sizes of its terms.
ROUNDING = 4 * 2.0**-53


@inner
def solve_pair(a, b, c, p, q):
    """Solve NNQP([[a, c], [c, b]], (p, q)); return x₁, x₂ and whether they can be trusted.

    `first` and `second` are the slacks, times b and a, that remain when only the other index is
    passive. There are no branches, so that a loop over problems runs in SIMD lanes.
    """
    second = difference_of_products(a, q, c, p)
    first = difference_of_products(b, p, c, q)
    determinant = difference_of_products(a, b, c, c)
    none = (p >= 0.0) & (q >= 0.0)
    only_first = (p < 0.0) & (second >= 0.0)
    only_second = (q < 0.0) & (first >= 0.0)
    both = not (none | only_first | only_second)
    x1_both, x2_both = -first / determinant, -second / determinant
    x1 = x1_both if both else (-p / a if only_first else 0.0)
    x2 = x2_both if both else (-q / b if only_second and not only_first else 0.0)
    settled = (not both) | (determinant > DEPENDENT * a * b)
    return x1, x2, settled


@inner
def is_in_range(a):
    """Whether a diagonal entry is positive, finite and far from overflow."""
    return (a > SMALLEST) & (a < LARGEST)


@inner
def is_zero_or_in_range(q):
    """Whether an entry of a linear term is 0, or finite and far from overflow and underflow."""
    return (q == 0.0) | is_in_range(abs(q))


@inner
def is_pair_sound(a, b, c, transposed, tolerance):
    """Whether off-diagonal entries are alike and no larger than a PSD matrix allows."""
    difference = c - transposed
    bound = a * b
    relaxed = (1.0 + tolerance) * (1.0 + tolerance) * bound
    return (difference * difference <= tolerance * tolerance * bound) & (c * c <= relaxed)


@inner
def is_triple_sound(G, i, tolerance):
    """Whether the 3 × 3 Gramian that begins at row i of G is clean enough for a closed form."""
    j, k = i + 1, i + 2
    a, b, c = G[i, 0], G[j, 1], G[k, 2]
    sound = is_in_range(a) & is_in_range(b) & is_in_range(c)
    sound &= is_pair_sound(a, b, G[i, 1], G[j, 0], tolerance)
    sound &= is_pair_sound(a, c, G[i, 2], G[k, 0], tolerance)
    return sound & is_pair_sound(b, c, G[j, 2], G[k, 1], tolerance)


@inner
def solve_triple(G, q, x):
    """Solve NNQP(G, q) for K = 3, write x, and return whether it can be trusted.

    Leaving one index out gives a pair; if its slack then is not negative, that is the solution.
    If no index can be left out, all three are passive.
    """
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        xj, xk, settled = solve_pair(G[j, j], G[k, k], G[j, k], q[j], q[k])
        if not settled:
            return False
        slack = q[i] + (G[i, j] * xj + G[i, k] * xk)
        size = abs(q[i]) + (abs(G[i, j]) * xj + abs(G[i, k]) * xk)
        if slack >= -ROUNDING * size:
            x[i], x[j], x[k] = 0.0, xj, xk
            return True
    a, b = G[0, 0], difference_of_products(G[0, 0], G[1, 1], G[0, 1], G[0, 1])
    c = difference_of_products(G[0, 0], G[2, 2], G[0, 2], G[0, 2])
    bc = difference_of_products(G[0, 0], G[1, 2], G[0, 1], G[0, 2])
    p = difference_of_products(G[0, 0], q[1], G[0, 1], q[0])
    r = difference_of_products(G[0, 0], q[2], G[0, 2], q[0])
    determinant = difference_of_products(b, c, bc, bc)
    if b < WELL_CONDITIONED * a * G[1, 1] or determinant < WELL_CONDITIONED * b * (a * G[2, 2]):
        return False
    x[1] = -difference_of_products(c, p, bc, r) / determinant
    x[2] = -difference_of_products(b, r, bc, p) / determinant
    x[0] = -(q[0] + (G[0, 1] * x[1] + G[0, 2] * x[2])) / a
    return x[0] >= 0.0 and x[1] >= 0.0 and x[2] >= 0.0


@inner
def is_sound(G, q, tolerance):
    """Whether a K × K Gramian and its linear term are clean enough for a closed form."""
    sound = True
    for i in range(q.size):
        sound &= is_in_range(G[i, i]) & is_zero_or_in_range(q[i])
        for j in range(i):
            sound &= (G[i, j] == G[j, i]) & is_pair_sound(G[i, i], G[j, j], G[i, j], G[j, i], tolerance)
    return sound


@inner
def solve_small(G, q, x, tolerance):
    """Solve NNQP(G, q) for K ≤ 3 and write x; return OPTIMAL or UNSETTLED."""
    K = q.size
    if not is_sound(G, q, tolerance):
        return UNSETTLED
    if K == 1:
        x[0] = -q[0] / G[0, 0] if q[0] < 0.0 else 0.0
        return OPTIMAL
    if K == 2:
        x[0], x[1], settled = solve_pair(G[0, 0], G[1, 1], G[0, 1], q[0], q[1])
    else:
        settled = solve_triple(G, q, x)
    return OPTIMAL if settled else UNSETTLED


@inner
def solve_pairs(G, q, x, status, tolerance):
    """Solve G[b] with q[b, 0] for K = 2 and all b; write x and OPTIMAL or UNSETTLED.

    What :func:`solve_small` does, without branches, so that the loop runs in SIMD lanes.
    """
    for b in range(G.shape[0]):
        a, d, c, transposed = G[b, 0, 0], G[b, 1, 1], G[b, 0, 1], G[b, 1, 0]
        p, r = q[b, 0, 0], q[b, 0, 1]
        sound = is_in_range(a) & is_in_range(d) & (c == transposed)
        sound &= is_pair_sound(a, d, c, transposed, tolerance)
        sound &= is_zero_or_in_range(p) & is_zero_or_in_range(r)
        x[b, 0, 0], x[b, 0, 1], settled = solve_pair(a, d, c, p, r)
        status[b, 0] = OPTIMAL if sound & settled else UNSETTLED
