"""The open-source backends of qpsolvers that solve dense QPs, each at its tightest useful tolerance.

One table row a backend. Of qpsolvers' own list of open-source solvers it leaves out osqp, which has its
file here; ecos, which has no wheels from Python 3.13 on; qpax and jaxopt_osqp, which trace their JAX
programs anew at every call, half a second each, in float32 unless all of JAX is switched to float64; and
qtqp and sip, early releases for large sparse problems.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mojd._arrays import FloatArray
from mojd.kernels.status import INFEASIBLE, MAX_ITER, OPTIMAL
from mojd.solvers._registry import Solver, register
from mojd.solvers._rowwise import Answer, SetUp, SolveOne, give_up, rowwise, unknown


@dataclass(frozen=True, slots=True)
class Backend:
    """What qpsolvers and the registry need to know about one backend.

    Parameters
    ----------
    name : str
        Its name in qpsolvers and in mojd.
    module : str
        What has to be installed for it.
    summary : str
        One line for tables.
    kkt_tolerance : float
        The scale-free KKT residual that it reaches on well-posed problems.
    options : mapping
        Its settings.
    is_sparse : bool
        Whether it takes its matrices in compressed columns.
    rank_deficient : bool
        Whether it solves problems whose Gramian is singular.
    unbounded : str
        The status by which it says that the objective has no lower bound, '' if qpsolvers hides it.
    returns_ray : bool
        Whether it then returns a ray.
    """

    name: str
    module: str
    summary: str
    kkt_tolerance: float
    options: Mapping[str, Any] = field(default_factory=dict)
    is_sparse: bool = False
    rank_deficient: bool = True
    unbounded: str = ""
    returns_ray: bool = False


# An interior point stops at xᵢsᵢ of about its tolerance, so where both should be zero, as at exact ties,
# either is as large as the root of that.
_INTERIOR_POINT_TOLERANCE = 1e-5

BACKENDS = (
    Backend(
        # Where rounding lets a singular Gramian pass its Cholesky test, it returns noise as solved.
        name="quadprog",
        module="quadprog",
        summary="quadprog: dual active set of Goldfarb and Idnani; needs a positive definite Gramian",
        kkt_tolerance=1e-13,
        rank_deficient=False,
    ),
    Backend(
        name="pyqpmad",
        module="pyqpmad",
        summary="qpmad: dual active set of Goldfarb and Idnani; needs a positive definite Gramian",
        kkt_tolerance=1e-13,
        options={"tolerance": 1e-14, "max_iter": 10_000},
        rank_deficient=False,
    ),
    Backend(
        # With its own limit to the progress of proximal steps, some singular Gramians make it give up.
        name="daqp",
        module="daqp",
        summary="DAQP: dual active set, with proximal steps where the Gramian is singular",
        kkt_tolerance=1e-13,
        options={"primal_tol": 1e-12, "dual_tol": 1e-14, "eta_prox": 1e-12},
    ),
    Backend(
        name="cvxopt",
        module="cvxopt",
        summary="CVXOPT: interior point",
        kkt_tolerance=_INTERIOR_POINT_TOLERANCE,
        options={"abstol": 1e-12, "reltol": 1e-12, "feastol": 1e-12},
    ),
    Backend(
        name="piqp",
        module="piqp",
        summary="PIQP: proximal interior point",
        kkt_tolerance=_INTERIOR_POINT_TOLERANCE,
        options={
            "eps_abs": 1e-12,
            "eps_rel": 1e-12,
            "eps_duality_gap_abs": 1e-12,
            "eps_duality_gap_rel": 1e-12,
            "eps_dual_inf": 1e-8,
        },
        unbounded="PIQP_DUAL_INFEASIBLE",
    ),
    Backend(
        # Without the test of the gap it stops with four digits fewer where x and s are both small.
        name="proxqp",
        module="proxsuite",
        summary="ProxQP: augmented Lagrangian",
        kkt_tolerance=1e-10,
        options={
            "eps_abs": 1e-12,
            "eps_rel": 0.0,
            "check_duality_gap": True,
            "eps_duality_gap_abs": 1e-12,
            "eps_duality_gap_rel": 0.0,
            "max_iter": 200,
        },
        unbounded="PROXQP_DUAL_INFEASIBLE",
    ),
    Backend(
        name="qpalm",
        module="qpalm",
        summary="QPALM: augmented Lagrangian",
        kkt_tolerance=1e-11,
        options={"eps_abs": 1e-12, "eps_rel": 0.0, "eps_dual_inf": 1e-8, "max_iter": 10_000},
        is_sparse=True,
        unbounded="dual infeasible",
    ),
    Backend(
        # It adds a regularisation to the diagonal, 1e-7 unless told otherwise. With none, its answers for
        # singular Gramians are wrong; with any, it finds unbounded problems bounded; without an iteration
        # limit, it cycles on some. Exact ties make it stop early, now and then nowhere near a solution.
        name="highs",
        module="highspy",
        summary="HiGHS: null-space active set; needs a positive definite Gramian",
        kkt_tolerance=1e-5,
        options={
            "primal_feasibility_tolerance": 1e-10,
            "dual_feasibility_tolerance": 1e-10,
            "qp_regularization_value": 1e-12,
            "qp_iteration_limit": 5_000,
        },
        is_sparse=True,
        rank_deficient=False,
    ),
    Backend(
        name="scs",
        module="scs",
        summary="SCS: operator splitting (ADMM) with Anderson acceleration",
        kkt_tolerance=1e-11,
        options={"eps_abs": 1e-12, "eps_rel": 0.0, "eps_infeas": 1e-9, "max_iters": 20_000},
        is_sparse=True,
        unbounded="unbounded",
        returns_ray=True,
    ),
    Backend(
        # At its default step fraction, 0.99, one singular Gramian in forty stops it halfway.
        name="clarabel",
        module="clarabel",
        summary="Clarabel: interior point on a homogeneous embedding",
        kkt_tolerance=_INTERIOR_POINT_TOLERANCE,
        options={
            "tol_gap_abs": 1e-12,
            "tol_gap_rel": 1e-12,
            "tol_feas": 1e-12,
            "max_step_fraction": 0.9,
        },
        is_sparse=True,
        unbounded="DualInfeasible",
        returns_ray=True,
    ),
)


def _set_up_with(backend: Backend) -> SetUp:
    """Build the set-up function of one backend."""

    def set_up(gramian: FloatArray) -> SolveOne:
        import qpsolvers
        from scipy import sparse

        size = gramian.shape[0]
        matrix = sparse.csc_matrix(gramian) if backend.is_sparse else gramian
        lower = np.zeros(size)

        def solve_one(linear: FloatArray) -> Answer:
            # A copy, because some (qpmad, at K = 1) factor the matrix in place.
            problem = qpsolvers.Problem(matrix.copy(), linear, lb=lower)
            try:
                with warnings.catch_warnings():
                    # It warns of what the status says as well.
                    warnings.filterwarnings("ignore", module="qpsolvers")
                    solution = qpsolvers.solve_problem(problem, backend.name, **backend.options)
            except (qpsolvers.ProblemError, qpsolvers.SolverError):
                # How qpsolvers says that a backend refuses a Gramian as not positive definite.
                return give_up(linear)
            except ValueError as error:
                # How SCS says it.
                if "ScsWork allocation error" not in str(error):
                    raise
                return give_up(linear)
            x = unknown(size) if solution.x is None else np.asarray(solution.x, dtype=np.float64)
            status, iterations = _report(solution.extras)
            if solution.found:
                return Answer(x, OPTIMAL, iterations)
            if backend.unbounded and status == backend.unbounded:
                return Answer(x if backend.returns_ray else unknown(size), INFEASIBLE, iterations)
            return Answer(x, MAX_ITER, iterations)

        return solve_one

    return set_up


def _report(extras: Mapping[str, Any]) -> tuple[str, int]:
    """Return the status and the iterations that a backend reports: '' and 0 where it does not.

    qpsolvers hands on what the backend gives: a mapping, or an object within one.
    """
    info = extras.get("info", extras)
    fields = info if isinstance(info, dict) else {key: getattr(info, key) for key in ("status", "iter")}
    status = fields.get("status", "")
    iterations: Any = fields.get("iter", fields.get("iterations", 0))
    return str(getattr(status, "name", status)), int(np.ravel(iterations)[0])


for _backend in BACKENDS:
    register(
        Solver(
            name=_backend.name,
            solve=rowwise(_set_up_with(_backend)),
            summary=_backend.summary,
            kkt_tolerance=_backend.kkt_tolerance,
            requires=("qpsolvers", _backend.module),
            extra="solvers",
            rank_deficient=_backend.rank_deficient,
        )
    )
