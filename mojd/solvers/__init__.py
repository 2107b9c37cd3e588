"""Solvers for NNQP, one backend a file. To add one, write its file and name it here.

The order of the names is the order of tables.
"""

from importlib import import_module

from mojd.solvers._registry import Solver, get_solver, register, registered_solvers
from mojd.solvers.dispatch import available_solvers, solve

__all__ = ["Solver", "available_solvers", "get_solver", "register", "registered_solvers", "solve"]

# Each module registers what it offers.
for _name in (
    "active_set",
    "closed_form",
    "array_api",
    "cuda",
    "xla",
    "osqp",
    "cvxpy",
    "scipy_nnls",
    "qpsolvers",
):
    import_module(f"mojd.solvers.{_name}")
