"""What can be said of the weights of a step: who was active, how it ended, how far off d can be."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import Array, FloatArray, is_array, to_host
from mojd.solvers import solve
from mojd.status import Status
from mojd.weightings import QuadraticWeighting, Weighting, method_of
from mojd.weightings._registry import accepted_options
from mojd.weightings._shared import ALWAYS_SOLVABLE, View, minimisers, view


class Optimum(NamedTuple):
    """The certified solution of the programmes of a step.

    Attributes
    ----------
    status : Status
        The worst of the programmes.
    active : tuple of int
        The losses whose constraint is active in one of them.
    x : array
        The minimisers, float64.
    weights : array, shape (K,)
        What they are lifted to, float64.
    error : float
        A bound on ‖Jᵀ(weights − w*)‖; NaN where there is no solution, infinite where none was found.
    """

    status: Status
    active: tuple[int, ...]
    x: FloatArray
    weights: FloatArray
    error: float


def method_behind(function: Callable[..., Any] | None) -> tuple[Weighting | None, dict[str, Any]]:
    """Return the registered method of a function of mojd, and the options that a partial binds."""
    method = method_of(function)
    if function is None or not isinstance(method, Weighting):
        return None, {}
    options: dict[str, Any] = {}
    chain = []
    while isinstance(function, partial):
        chain.append(function)
        function = function.func
    for link in reversed(chain):
        options |= link.keywords
    return method, {name: _on_host(value) for name, value in options.items()}


def _on_host(value: Any) -> Any:
    return to_host(value) if is_array(value) else value


def residual_of(
    function: Callable[..., Any] | None, gramian: FloatArray, weights: FloatArray
) -> float | None:
    """Return the scale-free residual of weights (K,) in the problem of their method, if it defines one."""
    method, options = method_behind(function)
    if method is None or method.residual is None:
        return None
    return float(method.residual(weights, gramian, **accepted_options(method.residual, options)))


def optimum_of(function: Callable[..., Any] | None, gramian: Array) -> Optimum | None:
    """Solve the programmes of a method again and certify the solution; None if there are none.

    Parameters
    ----------
    function : callable or None
        A function of mojd, or a partial of one.
    gramian : array, shape (K, K)
        On the CPU, in the dtype in which the weights were computed from it.
    """
    method, options = method_behind(function)
    if not isinstance(method, QuadraticWeighting):
        return None
    matrix = view(gramian)
    if method.name == "pcd" and matrix.size == 1:
        return Optimum(
            Status.OPTIMAL, (), np.zeros(0), np.asarray(method.weights(matrix.values, **options)), 0.0
        )
    problem = method.problem(gramian, **accepted_options(method.problem, options))
    solution = solve(problem, nonfinite="propagate")
    codes = np.asarray(solution.codes)
    solvable = method.name in ALWAYS_SOLVABLE
    if solvable:
        codes = np.where(codes == int(Status.INFEASIBLE), int(Status.OPTIMAL), codes)
    x = np.asarray(minimisers(solution, matrix) if solvable else solution.x_float64, dtype=np.float64)
    weights = np.asarray(method.lift(x, matrix, **accepted_options(method.lift, options)), dtype=np.float64)
    positive = x > 0
    used = np.any(positive.reshape(-1, positive.shape[-1]), axis=0)
    first = matrix.size - len(used)
    bounds = np.asarray(solution.direction_error_bound, dtype=np.float64)
    rule = _ERRORS.get(method.name)
    error = math.inf if rule is None else rule(bounds, x, matrix, options)
    active = tuple(int(index) + first for index in np.flatnonzero(used))
    return Optimum(Status(int(np.max(codes))), active, x, weights, error)


def norms_of(weights: FloatArray, gramian: FloatArray) -> tuple[float, float]:
    """Return a lower and an upper bound on ‖Jᵀw‖: wᵀGw has rounding errors."""
    square = float(weights @ gramian @ weights)
    size = np.abs(weights) @ np.sqrt(np.maximum(np.diagonal(gramian), 0.0))
    rounding = (len(weights) + 2) * 2.0**-52 * float(size) ** 2
    return math.sqrt(max(square - rounding, 0.0)), math.sqrt(max(square, 0.0) + rounding)


def _sum_of_projections(bounds: FloatArray, x: FloatArray, matrix: View, options: dict[str, Any]) -> float:
    """Bound the error of d = Σᵢ dᵢ."""
    del x, matrix, options
    return float(np.sum(bounds))


def _projection(bounds: FloatArray, x: FloatArray, matrix: View, options: dict[str, Any]) -> float:
    """Bound the error of d: without preferences, the problem is that of u = 1, and d is divided by K."""
    del x
    return float(bounds) / (matrix.size if options.get("pref_vector") is None else 1)


def _hull(bounds: FloatArray, x: FloatArray, matrix: View, options: dict[str, Any]) -> float:
    """Bound the error of d for w = x/Σx, where the problem's bound holds for ‖Jᵀe‖ and √c·|Σe|, e = x − x*.

    d − d* = (Jᵀe − d*·Σe)/Σx, and ‖d*‖ is no more than ‖d‖, as no point of the hull is shorter.
    """
    del options
    total = float(np.sum(x))
    norms = np.diagonal(matrix.values)
    offset = 2.0 ** math.floor(math.log2(np.min(norms[norms > 0]))) if (norms > 0).any() else 1.0
    _, length = norms_of(x / total, matrix.values)
    return float(bounds) * (1.0 + length / math.sqrt(offset)) / total


def _priority(bounds: FloatArray, x: FloatArray, matrix: View, options: dict[str, Any]) -> float:
    """Bound the error of d: of vectors scaled to one length ρ, at most 2ρ·‖e‖/‖d‖."""
    error = float(bounds)
    if not options.get("rescale", False) or math.isnan(error):
        return error
    primary = math.sqrt(max(float(matrix.values[0, 0]), 0.0))
    scales = options.get("scales")
    first = 1.0 if scales is None else float(np.asarray(scales, dtype=np.float64)[0])
    length, _ = norms_of(np.concatenate([[first], x]), matrix.values)
    if primary == 0.0 or error == 0.0:
        return 0.0
    return 2.0 * primary * error / length if length > 0 else math.inf


_ERRORS: dict[str, Callable[[FloatArray, FloatArray, View, dict[str, Any]], float]] = {
    "upgrad": _sum_of_projections,
    "dualproj": _projection,
    "mgda": _hull,
    "pcd": _priority,
}
