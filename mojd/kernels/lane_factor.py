"""The factor A_FF = Uᵀ·D⁻¹·U of eight passive blocks at once, one in each lane.

U is a flat array of lanes with row stride `stride`; see :mod:`mojd.kernels.lanes`. Below its
diagonal it keeps the entries of A_FF itself, for residuals.
"""

from __future__ import annotations

import numpy as np

from mojd.kernels.compiling import inner
from mojd.kernels.double_double import add_product
from mojd.kernels.lanes import (
    add,
    load,
    maximum,
    multiply,
    negated_fma,
    reciprocal_above,
    splat,
    store,
    subtract,
)
from mojd.kernels.workspace import PANEL


@inner
def update_pair(U, stride, factors, k, first, last, start, stop):
    """Subtract from rows k and k + 1, start ≤ j < stop, what rows first ≤ i < last leave in them.

    factors[2·(i − first)] and the entry after it multiply row i for the two. Two rows by four
    columns stay in registers, so that a row loaded serves eight multiplications.
    """
    row, j = k * stride, start
    below = row + stride
    while j + 4 <= stop:
        a, b, c, d = load(U, row + j), load(U, row + j + 1), load(U, row + j + 2), load(U, row + j + 3)
        e, f, g, h = (
            load(U, below + j),
            load(U, below + j + 1),
            load(U, below + j + 2),
            load(U, below + j + 3),
        )
        at = first * stride + j
        for i in range(0, 2 * (last - first), 2):
            upper, lower = load(factors, i), load(factors, i + 1)
            p, q, r, s = load(U, at), load(U, at + 1), load(U, at + 2), load(U, at + 3)
            a, b = negated_fma(upper, p, a), negated_fma(upper, q, b)
            c, d = negated_fma(upper, r, c), negated_fma(upper, s, d)
            e, f = negated_fma(lower, p, e), negated_fma(lower, q, f)
            g, h = negated_fma(lower, r, g), negated_fma(lower, s, h)
            at += stride
        store(U, row + j, a)
        store(U, row + j + 1, b)
        store(U, row + j + 2, c)
        store(U, row + j + 3, d)
        store(U, below + j, e)
        store(U, below + j + 1, f)
        store(U, below + j + 2, g)
        store(U, below + j + 3, h)
        j += 4
    while j < stop:
        a, e = load(U, row + j), load(U, below + j)
        for i in range(last - first):
            p = load(U, (first + i) * stride + j)
            a = negated_fma(load(factors, 2 * i), p, a)
            e = negated_fma(load(factors, 2 * i + 1), p, e)
        store(U, row + j, a)
        store(U, below + j, e)
        j += 1


@inner
def eliminate_pair(U, stride, inverse, factors, k, first, last, stop):
    """Subtract from rows k and k + 1 what rows first ≤ i < last leave in them.

    The entry left of the diagonal of row k + 1 is computed along, and never read.
    """
    for i in range(first, last):
        reciprocal, at = load(inverse, i), 2 * (i - first)
        store(factors, at, multiply(load(U, i * stride + k), reciprocal))
        store(factors, at + 1, multiply(load(U, i * stride + k + 1), reciprocal))
    update_pair(U, stride, factors, k, first, last, k, stop)


@inner
def pivot_row(U, stride, k, diagonal, inverse, suspect, worst):
    """Store the reciprocal pivot of row k; return the worst A_kk / pivot so far.

    A pivot that is not above suspect·A_kk gets the reciprocal 0, which takes the row out: it leaves
    nothing in other rows, and its solution is 0.
    """
    square = load(diagonal, k)
    reciprocal = reciprocal_above(load(U, k * stride + k), multiply(splat(suspect), square))
    store(inverse, k, reciprocal)
    return maximum(worst, multiply(square, reciprocal))


@inner
def factor(U, stride, m, diagonal, inverse, factors, condition, suspect):
    """Factor U[:m, :m] in place, panel by panel; `condition` gets the greatest A_kk / pivot.

    m must be even: two rows are eliminated at a time. Rows that depend on those before them, up to a
    relative pivot of `suspect`, are taken out: their reciprocal pivot is 0.
    """
    worst = splat(1.0)
    panel = np.int64(0)
    while panel < m:
        end = panel + PANEL if panel + PANEL < m else m
        for k in range(panel, end, 2):
            eliminate_pair(U, stride, inverse, factors, k, panel, k, m)
            worst = pivot_row(U, stride, k, diagonal, inverse, suspect, worst)
            factor_below = multiply(load(U, k * stride + k + 1), load(inverse, k))
            for j in range(k + 1, m):
                below = (k + 1) * stride + j
                store(U, below, negated_fma(factor_below, load(U, k * stride + j), load(U, below)))
            worst = pivot_row(U, stride, k + 1, diagonal, inverse, suspect, worst)
        for k in range(end, m, 2):
            eliminate_pair(U, stride, inverse, factors, k, panel, end, m)
        panel = end
    store(condition, 0, worst)


@inner
def solve_lanes(U, stride, m, inverse, v):
    """Solve A_FF·y = v in place, in every lane."""
    for i in range(m):
        scaled = multiply(load(v, i), load(inverse, i))
        for j in range(i + 1, m):
            store(v, j, negated_fma(scaled, load(U, i * stride + j), load(v, j)))
    for i in range(m - 1, -1, -1):
        total = load(v, i)
        for j in range(i + 1, m):
            total = negated_fma(load(U, i * stride + j), load(v, j), total)
        store(v, i, multiply(total, load(inverse, i)))


@inner
def residual_lanes(U, stride, m, diagonal, right, x, out):
    """Write right − A_FF·x, accumulated in double-double, to `out`."""
    for i in range(m):
        total, error = load(right, i), splat(0.0)
        for k in range(m):
            if k < i:
                entry = load(U, i * stride + k)
            elif k > i:
                entry = load(U, k * stride + i)
            else:
                entry = load(diagonal, i)
            entry = subtract(splat(0.0), entry)
            total, error = add_product(total, error, entry, load(x, k))
        store(out, i, add(total, error))
