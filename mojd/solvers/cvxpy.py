"""CVXPY with Clarabel: what most people would write for this problem.

The Gramian's K² numbers go through CVXPY's canonicalisation once, the right-hand sides as a parameter.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from mojd._arrays import FloatArray
from mojd.kernels.status import INFEASIBLE, MAX_ITER, OPTIMAL
from mojd.solvers._registry import Solver, register
from mojd.solvers._rowwise import Answer, SolveOne, give_up, rowwise, unknown

_SETTINGS = {
    "tol_gap_abs": 1e-12,
    "tol_gap_rel": 1e-12,
    "tol_feas": 1e-12,
    # At its default, 0.99, one singular Gramian in forty stops it halfway.
    "max_step_fraction": 0.9,
}


def _set_up(gramian: FloatArray) -> SolveOne:
    cvxpy: Any = importlib.import_module("cvxpy")  # It exports more than its types say.
    size = gramian.shape[0]
    x = cvxpy.Variable(size)
    q = cvxpy.Parameter(size)
    # CVXPY refuses a matrix that rounding has made indefinite, unless told that it is PSD.
    objective = cvxpy.quad_form(x, cvxpy.psd_wrap(gramian)) / 2 + q @ x
    problem = cvxpy.Problem(cvxpy.Minimize(objective), [x >= 0])

    def solve_one(linear: FloatArray) -> Answer:
        q.value = linear
        try:
            with warnings.catch_warnings():
                # It warns of what the status says as well.
                warnings.filterwarnings("ignore", message="Solution may be inaccurate")
                problem.solve(solver=cvxpy.CLARABEL, warm_start=False, **_SETTINGS)
        except cvxpy.SolverError:
            return give_up(linear)
        iterations = int(problem.solver_stats.num_iters or 0)
        match problem.status:
            case cvxpy.OPTIMAL:
                return Answer(x.value, OPTIMAL, iterations)
            case cvxpy.UNBOUNDED:
                return Answer(unknown(size), INFEASIBLE, iterations)
            case _:
                return Answer(unknown(size) if x.value is None else x.value, MAX_ITER, iterations)

    return solve_one


register(
    Solver(
        name="cvxpy",
        solve=rowwise(_set_up),
        summary="CVXPY with Clarabel: interior point behind a modelling language",
        kkt_tolerance=1e-5,
        requires=("cvxpy", "clarabel"),
        extra="solvers",
    )
)
