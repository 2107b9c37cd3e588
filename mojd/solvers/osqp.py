"""OSQP: operator splitting (ADMM), with polishing of the active set that it finds.

Its iterations keep about as many digits as the tolerance asks for. The polishing step then solves for
the active set directly, which is where the rest of the digits come from.

OSQP 1.1 polishes only where some constraint is active, and prints a line to stdout at every solve
where none is, whatever ``verbose`` says (osqp issue 785). So each problem gets one more coordinate,
uncoupled from the others, which is always at its bound.
"""

from __future__ import annotations

import numpy as np

from mojd._arrays import FloatArray
from mojd.kernels.status import INFEASIBLE, MAX_ITER, OPTIMAL
from mojd.solvers._registry import Solver, register
from mojd.solvers._rowwise import Answer, SolveOne, give_up, rowwise

_SETTINGS = {
    "verbose": False,
    # With anything tighter, exact ties keep it from ever stopping.
    "eps_abs": 1e-9,
    "eps_rel": 1e-9,
    "eps_dual_inf": 1e-8,
    "max_iter": 20_000,
    "adaptive_rho_tolerance": 2.0,
    "polishing": True,
    "polish_refine_iter": 20,
    # Only the step size that it adapts carries over from one right-hand side to the next.
    "warm_starting": False,
}


def _set_up(gramian: FloatArray) -> SolveOne:
    import osqp
    from scipy import sparse

    size = gramian.shape[0]
    padded = np.eye(size + 1)
    padded[:size, :size] = np.triu(gramian)
    model = osqp.OSQP()
    try:
        model.setup(
            P=sparse.csc_matrix(padded),
            q=np.ones(size + 1),
            A=sparse.identity(size + 1, format="csc"),
            l=np.zeros(size + 1),
            u=np.full(size + 1, np.inf),
            **_SETTINGS,
        )
    except osqp.OSQPException as error:
        if error != osqp.SolverError.OSQP_NONCVX_ERROR:
            raise
        return give_up

    def solve_one(linear: FloatArray) -> Answer:
        model.update(q=np.append(linear, 1.0))
        result = model.solve(raise_error=False)
        iterations = int(result.info.iter)
        match result.info.status_val:
            case osqp.SolverStatus.OSQP_SOLVED:
                return Answer(result.x[:size], OPTIMAL, iterations)
            case osqp.SolverStatus.OSQP_DUAL_INFEASIBLE:
                return Answer(result.dual_inf_cert[:size], INFEASIBLE, iterations)
            case _:
                return Answer(result.x[:size], MAX_ITER, iterations)

    return solve_one


register(
    Solver(
        name="osqp",
        solve=rowwise(_set_up),
        summary="OSQP: operator splitting (ADMM) with a polished active set",
        kkt_tolerance=1e-8,
        requires=("osqp",),
        extra="solvers",
    )
)
