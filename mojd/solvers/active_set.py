"""Block principal pivoting with a finite, rank-revealing active set behind it (numba)."""

from __future__ import annotations

import numpy as np

from mojd._arrays import FloatArray, Precision, writable_view
from mojd.solvers._kernels import in_threads, kernels
from mojd.solvers._registry import RawSolution, Solver, register


def solve_compiled(
    gramian: FloatArray, linear: FloatArray, threads: int, precision: Precision, closed_form: bool
) -> RawSolution:
    """Solve G (B, K, K) with q (B, R, K) in the compiled kernel, over the longer axis in threads."""
    gramian, linear = writable_view(gramian), writable_view(linear)
    count, rows, _ = linear.shape
    x = np.empty(linear.shape)
    status = np.empty((count, rows), dtype=np.int8)
    iterations = np.empty((count, rows), dtype=np.int32)
    solve_many = kernels().solve_many

    def over_gramians(part: slice) -> None:
        solve_many(gramian[part], linear[part], x[part], status[part], iterations[part], closed_form, *precision)

    def over_rows(part: slice) -> None:
        pieces = [np.ascontiguousarray(array[:, part]) for array in (linear, x, status, iterations)]
        solve_many(gramian, *pieces, closed_form, *precision)
        x[:, part], status[:, part], iterations[:, part] = pieces[1:]

    if count >= threads or count > rows:
        in_threads(over_gramians, count, threads)
    else:
        in_threads(over_rows, rows, threads)
    return RawSolution(x, status, iterations)


def solve(gramian: FloatArray, linear: FloatArray, threads: int, precision: Precision) -> RawSolution:
    """Solve with pivoting at any K."""
    return solve_compiled(gramian, linear, threads, precision, closed_form=False)


register(
    Solver(
        name="active_set",
        solve=solve,
        summary="block principal pivoting with a finite active set behind it; exact, any K",
        kkt_tolerance=1e-12,
        exact=True,
        checks_values=True,
    )
)
