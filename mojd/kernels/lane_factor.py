"""The factor A_FF = Uᵀ·D⁻¹·U of eight passive blocks at once, one in each lane.

U is a flat array of lanes with row stride `stride`; see :mod:`mojd.kernels.lanes`. Below its
diagonal it keeps the entries of A_FF itself, for residuals.
"""

from __future__ import annotations

from mojd.kernels.compiling import inner
from mojd.kernels.lanes import add, divide, fma, load, minimum, multiply, negated_fma, splat, store, subtract

# Rows of a panel: 64 bytes · 32 · K stays in the second-level cache for K in the hundreds.
PANEL = 32


@inner
def update_row(U, stride, factors, k, first, last, start, stop):
    """Subtract Σ_{first ≤ i < last} factors[i − first]·U[i, j] from U[k, j], start ≤ j < stop."""
    row, j = k * stride, start
    while j + 4 <= stop:
        a, b, c, d = load(U, row + j), load(U, row + j + 1), load(U, row + j + 2), load(U, row + j + 3)
        for i in range(first, last):
            factor, above = load(factors, i - first), i * stride + j
            a = negated_fma(factor, load(U, above), a)
            b = negated_fma(factor, load(U, above + 1), b)
            c = negated_fma(factor, load(U, above + 2), c)
            d = negated_fma(factor, load(U, above + 3), d)
        store(U, row + j, a)
        store(U, row + j + 1, b)
        store(U, row + j + 2, c)
        store(U, row + j + 3, d)
        j += 4
    while j < stop:
        a = load(U, row + j)
        for i in range(first, last):
            a = negated_fma(load(factors, i - first), load(U, i * stride + j), a)
        store(U, row + j, a)
        j += 1


@inner
def eliminate_rows(U, stride, inverse, factors, k, first, last, stop):
    """Subtract from U[k, k:stop] what rows first ≤ i < last leave in it."""
    for i in range(first, last):
        store(factors, i - first, multiply(load(U, i * stride + k), load(inverse, i)))
    update_row(U, stride, factors, k, first, last, k, stop)


@inner
def factor(U, stride, m, diagonal, inverse, factors, weakest):
    """Factor U[:m, :m] in place, panel by panel; `weakest` gets the least pivot / A_kk."""
    one = splat(1.0)
    least = one
    panel = 0
    while panel < m:
        end = min(panel + PANEL, m)
        for k in range(panel, end):
            eliminate_rows(U, stride, inverse, factors, k, panel, k, m)
            pivot = load(U, k * stride + k)
            reciprocal = divide(one, pivot)
            store(inverse, k, reciprocal)
            least = minimum(least, divide(pivot, load(diagonal, k)))
        for k in range(end, m):
            eliminate_rows(U, stride, inverse, factors, k, panel, end, m)
        panel = end
    store(weakest, 0, least)


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
            value = load(x, k)
            product = multiply(entry, value)
            product_error = fma(entry, value, subtract(splat(0.0), product))
            new = add(total, product)
            part = subtract(new, total)
            rounding = add(subtract(total, subtract(new, part)), subtract(product, part))
            error = add(error, add(rounding, product_error))
            total = new
        store(out, i, add(total, error))
