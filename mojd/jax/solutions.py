"""Solutions that say how good they are, as arrays: of NNQP, and of the programme behind a method."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

import mojd
from mojd._checks import did_you_mean
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.jax._call import call
from mojd.qp import NNQP, Solution
from mojd.status import Status
from mojd.weightings._registry import (
    QuadraticWeighting,
    accepted_options,
    get_method,
    registered_programmes,
)
from mojd.weightings._shared import ALWAYS_SOLVABLE, minimisers, view


class JaxSolution(NamedTuple):
    """Minimisers of NNQP(G, q) and what is known of them, as arrays.

    Attributes
    ----------
    x : array, shape (..., K)
        The minimisers; NaN where there is none.
    active : bool array, shape (..., K)
        Where x > 0.
    status : int8 array, shape (...)
        Values of :class:`mojd.Status`.
    kkt_residual : array, shape (...)
        The scale-free KKT residual of x; see :attr:`mojd.Solution.kkt_residual`.
    ray : array, shape (..., K)
        Where the status is INFEASIBLE, a direction along which the objective falls without bound; else 0.
    iterations : int32 array, shape (...)
        Whatever the solver counts.
    """

    x: Array
    active: Array
    status: Array
    kkt_residual: Array
    ray: Array
    iterations: Array


class CertifiedWeights(NamedTuple):
    """The weights of a method and the solution of its programme.

    Attributes
    ----------
    weights : array, shape (..., K)
        The weights.
    solution : JaxSolution
        Of the method's problem: K problems for each Gramian for UPGrad (``active`` is (..., K, K)), one of
        size K − 1 for PCD, one of size K else.
    """

    weights: Array
    solution: JaxSolution


def solve(gramian: Any, linear: Any, *, solver: str = "auto") -> JaxSolution:
    """Solve min over x ≥ 0 of ½ xᵀGx + qᵀx as :func:`mojd.solve` does, as part of the caller's program.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        Symmetric positive semi-definite, up to rounding in its own dtype.
    linear : array, shape (..., K)
        The linear term q; its leading axes broadcast against those of `gramian`.
    solver
        As for :func:`mojd.jax.upgrad`.

    Returns
    -------
    JaxSolution
        Arrays in the dtype of `gramian`. The derivative is that of x; see :func:`mojd.jax.upgrad`.

    Raises
    ------
    InvalidInputError, InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.jax.upgrad`.

    Examples
    --------
    >>> import mojd.jax, jax.numpy as jnp
    >>> solution = mojd.jax.solve(jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([-3.0, 1.0]))
    >>> solution.x, solution.active
    (Array([1.5, 0. ], dtype=float32), Array([ True, False], dtype=bool))
    """
    result: JaxSolution = call(_solve, (gramian, linear), {"solver": solver})
    return result


def _solve(gramian: Any, linear: Any, solver: str) -> JaxSolution:
    problem = NNQP(gramian, linear)
    return _as_arrays(mojd.solve(problem, solver, nonfinite="propagate"))


def _as_arrays(solution: Solution) -> JaxSolution:
    status = solution.codes
    # Not the NaN of mojd.Solution: jax.debug_nans is to stop where something is wrong.
    ray = jnp.where((status == Status.INFEASIBLE)[..., None], solution.ray, 0.0)
    return JaxSolution(
        x=solution.x,
        active=solution.active,
        status=status,
        kkt_residual=solution.kkt_residual,
        ray=ray,
        iterations=solution.iteration_counts,
    )


def certified(name: str, gramian: Any, *, solver: str = "auto", **options: Any) -> CertifiedWeights:
    """Compute the weights of a method with a quadratic programme, and how good they are.

    Parameters
    ----------
    name : str
        'upgrad', 'dualproj', 'mgda' or 'pcd'.
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    solver
        As for :func:`mojd.jax.upgrad`.
    **options
        Those of the method.

    Returns
    -------
    CertifiedWeights
        The weights, and the solution of the programme that they were lifted from.

    Raises
    ------
    InvalidInputError, InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.jax.upgrad`; also if the method has no quadratic programme.

    Examples
    --------
    >>> import mojd.jax, jax.numpy as jnp
    >>> found = mojd.jax.certified("upgrad", jnp.array([[18.0, -22.0], [-22.0, 38.0]]))
    >>> found.weights
    Array([1.1111112, 0.7894737], dtype=float32)
    >>> found.solution.active
    Array([[False,  True],
           [ True, False]], dtype=bool)
    """
    method = get_method(name)
    if not isinstance(method, QuadraticWeighting):
        known = ", ".join(programme.name for programme in registered_programmes())
        raise InvalidInputError(f"method {name!r} has no quadratic programme to certify; these have: {known}")
    accepted = {*inspect.signature(method.problem).parameters, *inspect.signature(method.lift).parameters}
    for option in options:
        if option not in accepted:
            hint = did_you_mean(option, accepted)
            raise InvalidTypeError(f"{option} is no option of {name}{hint}")
    result: CertifiedWeights = call(_certified, (name, gramian), {"solver": solver, "options": options})
    return result


def _certified(name: str, gramian: Any, solver: str, options: dict[str, Any]) -> CertifiedWeights:
    method = get_method(name)
    assert isinstance(method, QuadraticWeighting)
    problem = method.problem(gramian, **accepted_options(method.problem, options))
    solution, matrix = mojd.solve(problem, solver, nonfinite="propagate"), view(gramian)
    x = minimisers(solution, matrix) if name in ALWAYS_SOLVABLE else solution.x_float64
    weights = method.lift(x, matrix, **accepted_options(method.lift, options))
    return CertifiedWeights(matrix.xp.astype(weights, matrix.original.dtype), _as_arrays(solution))
