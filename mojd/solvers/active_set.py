"""Block principal pivoting with a finite, rank-revealing active set behind it (numba)."""

from __future__ import annotations

import numpy as np

from mojd._arrays import FloatArray, Precision
from mojd.kernels.sizes import LARGEST_SHARED_TABLEAU, LARGEST_TABLEAU
from mojd.kernels.status import UNSETTLED
from mojd.solvers._kernels import batch_workspace, in_threads, kernels, scalar_solver
from mojd.solvers._registry import RawSolution, Solver, register

_NO_WEIGHTS = np.empty((0, 0))


def solve_compiled(
    gramian: FloatArray,
    linear: FloatArray,
    threads: int,
    precision: Precision,
    *,
    closed_form: bool = False,
    bounded: bool = False,
) -> RawSolution:
    """Solve G (B, K, K) with q (B, R, K) in compiled code, the longer axis shared by threads.

    `closed_form` allows formulas for K ≤ 3; `bounded` promises that there are minimisers.
    """
    count, rows, K = linear.shape
    # Decided here, before threads cut the problem into pieces, so that they don't change a bit.
    lanes = rows > 1 and K > LARGEST_SHARED_TABLEAU
    x = np.empty(linear.shape)
    status = np.empty((count, rows), dtype=np.int8)
    iterations = np.empty((count, rows), dtype=np.int32)

    def over_gramians(part: slice) -> None:
        pieces = RawSolution(x[part], status[part], iterations[part])
        _solve_part(gramian[part], linear[part], pieces, precision, closed_form, bounded, lanes)

    def over_rows(part: slice) -> None:
        pieces = RawSolution(*(np.ascontiguousarray(array[:, part]) for array in (x, status, iterations)))
        own = np.ascontiguousarray(linear[:, part])
        _solve_part(gramian, own, pieces, precision, closed_form, bounded, lanes)
        x[:, part], status[:, part], iterations[:, part] = pieces

    if count >= threads or count > rows:
        in_threads(over_gramians, count, threads)
    else:
        in_threads(over_rows, rows, threads)
    return RawSolution(x, status, iterations)


def _solve_part(
    gramian: FloatArray,
    linear: FloatArray,
    solution: RawSolution,
    precision: Precision,
    closed_form: bool,
    bounded: bool,
    lanes: bool,
) -> None:
    """Solve all at once, and one by one what that leaves unsettled; writes to `solution`."""
    K = linear.shape[-1]
    x, status, iterations = solution
    if lanes or K <= LARGEST_TABLEAU:
        arrays = gramian, linear, x, status, iterations, _NO_WEIGHTS, _NO_WEIGHTS
        worst = kernels.solve_many(*arrays, closed_form, lanes, *precision, *batch_workspace(K))
    else:
        status[:], iterations[:] = UNSETTLED, 0
        worst = UNSETTLED
    if worst == UNSETTLED:
        settle(gramian, linear, solution, precision, closed_form, bounded)


def settle(
    gramian: FloatArray,
    linear: FloatArray,
    solution: RawSolution,
    precision: Precision,
    closed_form: bool,
    bounded: bool,
) -> None:
    """Solve what is UNSETTLED, one by one; writes to `solution`."""
    x, status, iterations = solution
    unsettled = np.argwhere(status == UNSETTLED)
    solve_one, floats, integers = scalar_solver(linear.shape[-1])
    for b, r in unsettled.tolist():
        code = solve_one(
            gramian[b], linear[b, r], x[b, r], closed_form, bounded, *precision, floats, integers
        )
        status[b, r] = code & 255
        iterations[b, r] += code >> 8


def solve(gramian: FloatArray, linear: FloatArray, threads: int, precision: Precision) -> RawSolution:
    """Solve with pivoting at any K."""
    return solve_compiled(gramian, linear, threads, precision)


def load_kernels() -> None:
    """Load, or compile, all kernels of :func:`solve_compiled`."""
    kernels.solve_many, kernels.solve_one  # noqa: B018


register(
    Solver(
        name="active_set",
        solve=solve,
        summary="block principal pivoting with a finite active set behind it; exact, any K",
        kkt_tolerance=1e-12,
        exact=True,
        checks_values=True,
        prepare=load_kernels,
    )
)
