"""mojd solves the small convex QPs of multi-objective gradient descent, exactly and fast.

``w = mojd.upgrad(G)`` and ``w = mojd.pcd(G, tau=0.02)`` turn the Gramian G = J Jᵀ of the gradients
of several losses into weights; the direction to follow is d = Jᵀw. Arrays of NumPy, PyTorch, JAX,
CuPy or any array-API library go in, and the same kind comes out.
"""

from typing import TYPE_CHECKING, Any

from mojd.errors import (
    InvalidInputError,
    InvalidTypeError,
    MissingDependencyError,
    MojdError,
    NonFiniteError,
    SolverError,
)
from mojd.gramian import gramian
from mojd.qp import NNQP, Solution
from mojd.solvers import available_solvers, solve
from mojd.status import Status
from mojd.weightings import (
    NormaliserState,
    aggregate,
    auxinash,
    auxinash_derivative,
    dualproj,
    dualproj_problem,
    fairgrad,
    init_normaliser,
    mgda,
    mgda_problem,
    nash_mtl,
    normalise,
    pcd,
    pcd_problem,
    project,
    project_problem,
    update_preferences,
    upgrad,
    upgrad_problem,
)

if TYPE_CHECKING:
    from mojd.compare.recording import record

__version__ = "0.1.0"

__all__ = [
    "NNQP",
    "InvalidInputError",
    "InvalidTypeError",
    "MissingDependencyError",
    "MojdError",
    "NonFiniteError",
    "NormaliserState",
    "Solution",
    "SolverError",
    "Status",
    "aggregate",
    "auxinash",
    "auxinash_derivative",
    "available_solvers",
    "dualproj",
    "dualproj_problem",
    "fairgrad",
    "gramian",
    "init_normaliser",
    "mgda",
    "mgda_problem",
    "nash_mtl",
    "normalise",
    "pcd",
    "pcd_problem",
    "project",
    "project_problem",
    "record",
    "solve",
    "update_preferences",
    "upgrad",
    "upgrad_problem",
]


def __getattr__(name: str) -> Any:
    """Load the recorder on first use: a training step has no need of the comparison around it."""
    if name == "record":
        from mojd.compare.recording import record

        return record
    raise AttributeError(f"module 'mojd' has no attribute {name!r}")
