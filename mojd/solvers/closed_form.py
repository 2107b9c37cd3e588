"""Closed forms for K ≤ 3; what they leave unsettled goes to the active set."""

from __future__ import annotations

from mojd._arrays import FloatArray, Precision
from mojd.solvers._registry import RawSolution, Solver, register
from mojd.solvers.active_set import load_kernels, solve_compiled


def solve(gramian: FloatArray, linear: FloatArray, threads: int, precision: Precision) -> RawSolution:
    """Solve with formulas; nearly dependent rows are settled by pivoting."""
    return solve_compiled(gramian, linear, threads, precision, closed_form=True)


register(
    Solver(
        name="closed_form",
        solve=solve,
        summary="formulas for K <= 3; exact",
        kkt_tolerance=1e-12,
        max_size=3,
        exact=True,
        checks_values=True,
        prepare=load_kernels,
    )
)
