"""Lᵀ-free factor of the passive block: A_FF = Uᵀ·D⁻¹·U, grown and shrunk index by index.

U is upper triangular with the pivots D on its diagonal, kept as rows of a square array, so that
every inner loop runs along a contiguous row. It belongs to an ordered list `passive[:m]`; the first
k rows and columns are the factor of passive[:k]. `inverse` holds 1/D.
"""

from __future__ import annotations

import numpy as np

from mojd.kernels.compiling import fast_inner, inner

# Relative pivots below this are looked at closely before they are trusted.
SUSPECT_PIVOT = 1e-6
# Below this relative pivot the passive block is ill-conditioned enough for refinement to pay.
REFINE_PIVOT = 1e-2
# How many roundings an entry of a Gramian and of its factor has gone through, generously.
ROUNDINGS = 8.0


@fast_inner
def eliminate(U, inverse, k, first, last):
    """Subtract from U[k, first:last] what the rows above leave in it (left-looking, in place).

    Four rows at a time, so that U[k] is loaded and stored once for four multiplications.
    """
    i = 0
    while i + 4 <= k:
        a, b = U[i, k] * inverse[i], U[i + 1, k] * inverse[i + 1]
        c, d = U[i + 2, k] * inverse[i + 2], U[i + 3, k] * inverse[i + 3]
        for j in range(first, last):
            U[k, j] -= (a * U[i, j] + b * U[i + 1, j]) + (c * U[i + 2, j] + d * U[i + 3, j])
        i += 4
    while i < k:
        a = U[i, k] * inverse[i]
        for j in range(first, last):
            U[k, j] -= a * U[i, j]
        i += 1


@fast_inner
def forward(U, inverse, m, v, start):
    """Solve Uᵀ·D⁻¹·y = v in place, where the first `start` entries are solved already."""
    for i in range(start):
        factor = v[i] * inverse[i]
        for j in range(start, m):
            v[j] -= factor * U[i, j]
    for i in range(start, m):
        factor = v[i] * inverse[i]
        for j in range(i + 1, m):
            v[j] -= factor * U[i, j]


@fast_inner
def backward(U, inverse, m, v):
    """Solve U·y = v in place."""
    for i in range(m - 1, -1, -1):
        total = v[i]
        for j in range(i + 1, m):
            total -= U[i, j] * v[j]
        v[i] = total * inverse[i]


@inner
def solve(U, inverse, m, v):
    """Solve A_FF·y = v in place."""
    forward(U, inverse, m, v, np.int64(0))
    backward(U, inverse, m, v)


@inner
def rank_noise(tolerance):
    """Return what rounding can do to an entry, relatively, for tolerance = √ε of the dtype."""
    return ROUNDINGS * tolerance * tolerance


@inner
def suspect_pivot(noise):
    """Return the relative pivot below which a row may depend on those before it."""
    return SUSPECT_PIVOT if 1e3 * noise < SUSPECT_PIVOT else 1e3 * noise


@inner
def null_noise(z, m, noise):
    """Return how much curvature along (z[:m], 1) rounding errors can hide or feign.

    `noise` is what rounding can do to an entry of the Gramian. A pivot below noise·(1 + ‖z‖²) is
    nothing but that: its row depends on the others.
    """
    total = 1.0
    for i in range(m):
        total += z[i] * z[i]
    return noise * total


@inner
def is_dependent(A, j, U, inverse, m, z, noise):
    """Whether index j, whose column is U[:m + 1, m], depends on the passive ones to rounding.

    If it does, z[:m] is set to the solution of A_FF·z = −A_Fj, so that A·(z, 1) vanishes.
    """
    if U[m, m] > suspect_pivot(noise) * A[j, j]:
        return False
    for i in range(m):
        z[i] = -U[i, m]
    backward(U, inverse, m, z)
    return U[m, m] <= null_noise(z, m, noise)


@inner
def append(A, passive, m, j, U, inverse, v):
    """Write column m of the factor for index j (modifies U[:, m], inverse[m] and v).

    Its pivot U[m, m] is the squared distance of gradient j from the span of the passive ones.
    """
    for i in range(m):
        v[i] = A[j, passive[i]]
    forward(U, inverse, m, v, np.int64(0))
    pivot = A[j, j]
    for i in range(m):
        U[i, m] = v[i]
        pivot -= v[i] * v[i] * inverse[i]
    U[m, m] = pivot
    inverse[m] = 1.0 / pivot


@inner
def extend(A, passive, kept, count, state, U, inverse, z, noise):
    """Factor passive[:count], whose first `kept` rows and columns are done; return the new size.

    Indices that depend on those before them are taken out of the list, with state 0.
    """
    for i in range(kept):
        row = passive[i]
        for j in range(kept, count):
            U[i, j] = A[row, passive[j]]
        eliminate(U, inverse, i, kept, count)
    k = kept
    while k < count:
        row = passive[k]
        for j in range(k, count):
            U[k, j] = A[row, passive[j]]
        eliminate(U, inverse, k, k, count)
        inverse[k] = 1.0 / U[k, k]
        if not is_dependent(A, row, U, inverse, k, z, noise):
            k += 1
            continue
        count -= 1
        state[row] = 0
        passive[k] = passive[count]
        for i in range(k):
            U[i, k] = U[i, count]
    return count


@inner
def delete(U, inverse, passive, m, p, w):
    """Remove the p-th passive index from the list and from the factor, in place.

    The rows below it take a rank-one update with a positive weight, which is stable: method C1 of
    Gill, Golub, Murray and Saunders (Math. Comp. 28, 1974).
    """
    weight = inverse[p]
    for j in range(p + 1, m):
        w[j - 1] = U[p, j]
        passive[j - 1] = passive[j]
    for i in range(p):
        for j in range(p + 1, m):
            U[i, j - 1] = U[i, j]
    for i in range(p + 1, m):
        for j in range(i, m):
            U[i - 1, j - 1] = U[i, j]
    for k in range(p, m - 1):
        old, component = U[k, k], w[k]
        new = old + weight * component * component
        # Row k of the unit factor is U[k]/old; it takes `gain` of what is left of w.
        gain = component * weight / new
        ratio = component / old
        U[k, k] = new
        inverse[k] = 1.0 / new
        for j in range(k + 1, m - 1):
            unit = U[k, j]
            w[j] -= ratio * unit
            U[k, j] = new * (unit / old + gain * w[j])
        weight *= old / new
