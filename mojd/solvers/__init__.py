"""Solvers for NNQP, one backend a file. To add one, write its file and name it here.

The order is the order of tables.
"""

from mojd.solvers import (  # noqa: F401  (each registers itself)
    active_set,
    array_api,
    closed_form,
    cvxpy,
    osqp,
    qpsolvers,
    scipy_nnls,
)
from mojd.solvers._registry import Solver, get_solver, register, registered_solvers
from mojd.solvers.dispatch import available_solvers, solve

__all__ = ["Solver", "available_solvers", "get_solver", "register", "registered_solvers", "solve"]
