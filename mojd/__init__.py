"""mojd solves the small convex QPs of multi-objective gradient descent, exactly and fast.

``w = mojd.upgrad(G)`` and ``w = mojd.pcd(G, tau=0.02)`` turn the Gramian G = J Jᵀ of the gradients
of several losses into weights; the direction to follow is d = Jᵀw. Arrays of NumPy, PyTorch, JAX,
CuPy or any array-API library go in, and the same kind comes out.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mojd.errors import (
    InvalidInputError,
    InvalidTypeError,
    MissingDependencyError,
    MojdError,
    NonFiniteError,
    NotDifferentiableError,
    SolverError,
)
from mojd.gramian import gramian
from mojd.qp import NNQP, Solution
from mojd.solvers import available_solvers, solve
from mojd.status import Status
from mojd.weightings import (
    FamoState,
    GradVacState,
    NormaliserState,
    aggregate,
    aligned_mtl,
    auxinash,
    auxinash_derivative,
    cagrad,
    config,
    constant,
    dualproj,
    dualproj_problem,
    fairgrad,
    famo,
    graddrop,
    gradvac,
    imtl_g,
    init_famo,
    init_gradvac,
    init_normaliser,
    krum,
    mean,
    mgda,
    mgda_problem,
    nash_mtl,
    normalise,
    pcd,
    pcd_problem,
    pcgrad,
    project,
    project_problem,
    rgw,
    sum,  # noqa: A004
    trimmed_mean,
    update_famo,
    update_preferences,
    upgrad,
    upgrad_problem,
    weighted_sum,
)

if TYPE_CHECKING:
    from mojd import properties
    from mojd.compare.recording import record
    from mojd.properties.checking import check

__version__ = "0.1.0"

__all__ = [
    "NNQP",
    "FamoState",
    "GradVacState",
    "InvalidInputError",
    "InvalidTypeError",
    "MissingDependencyError",
    "MojdError",
    "NonFiniteError",
    "NormaliserState",
    "NotDifferentiableError",
    "Solution",
    "SolverError",
    "Status",
    "aggregate",
    "aligned_mtl",
    "auxinash",
    "auxinash_derivative",
    "available_solvers",
    "cagrad",
    "check",
    "config",
    "constant",
    "dualproj",
    "dualproj_problem",
    "fairgrad",
    "famo",
    "graddrop",
    "gradvac",
    "gramian",
    "imtl_g",
    "init_famo",
    "init_gradvac",
    "init_normaliser",
    "krum",
    "mean",
    "mgda",
    "mgda_problem",
    "nash_mtl",
    "normalise",
    "pcd",
    "pcd_problem",
    "pcgrad",
    "project",
    "project_problem",
    "properties",
    "record",
    "rgw",
    "solve",
    "sum",
    "trimmed_mean",
    "update_famo",
    "update_preferences",
    "upgrad",
    "upgrad_problem",
    "weighted_sum",
]


def __dir__() -> list[str]:
    """List the names that are loaded on first use too."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Load checks and the recorder on first use: a training step has no need of what is around them."""
    if name == "record":
        from mojd.compare.recording import record

        return record
    if name == "check":
        from mojd.properties.checking import check

        return check
    if name == "properties":
        return importlib.import_module("mojd.properties")
    raise AttributeError(f"module 'mojd' has no attribute {name!r}")
