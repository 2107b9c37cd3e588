"""The direction of a step before the optimiser touched it, and what its method promises of it."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mojd import _checks
from mojd._arrays import Array, FloatArray, as_array, dtype_name, namespace, to_host
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.gramian import gramian
from mojd.properties.step_audit._geometry import Combination, Measured, combine, measure
from mojd.solvers import solve
from mojd.status import Status
from mojd.weightings import Aggregator, Weighting, get_method, method_of, pcd, pcd_problem

_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}


def eps_of(array: Array) -> float:
    """Return the distance from 1 to the next number of an array's dtype, of float64 for integers."""
    return _EPS.get(dtype_name(array), 2.0**-52)


class Progress(NamedTuple):
    """What PCD asks for, per objective: 0 for the primary and for gradients of 0.

    Attributes
    ----------
    tau : array, shape (K,)
        τ.
    lengths : array, shape (K,)
        ‖g̃‖ / ‖d*‖, with d* the direction before it is rescaled; infinite if d* = 0.
    """

    tau: FloatArray
    lengths: FloatArray

    @property
    def needs(self) -> FloatArray:
        """The rates that the constraints ask of d*: τ·‖g̃‖ / ‖d*‖."""
        return np.where(self.tau == 0.0, 0.0, self.tau * self.lengths)


class Promise(NamedTuple):
    """A direction, where it came from, and what PCD promises of it (None for other methods)."""

    rows: Measured
    direction: Combination
    weights: FloatArray | None
    method: str
    eps: float
    progress: Progress | None
    notes: tuple[str, ...]


def make_promise(
    jacobian: Array, values: FloatArray, weighting: Any, weights: Any, nonfinite: str, options: dict[str, Any]
) -> Promise:
    """Find the direction from a weighting or weights, of which one has to be given."""
    if (weighting is None) == (weights is None):
        both = "both" if weights is not None else "neither"
        raise InvalidInputError(
            f"give either weighting (a name such as 'upgrad', or a function) or weights, got {both}"
        )
    if weights is not None:
        if options:
            raise InvalidInputError(
                f"{', '.join(options)}: options are for a weighting, and weights are given instead of one"
            )
        return _from_weights(values, jacobian, as_array(weights, "weights"), "given weights", nonfinite)
    if isinstance(weighting, partial) and not weighting.args:
        options = weighting.keywords | options
        weighting = weighting.func
    name, method = _resolve(weighting)
    if not np.isfinite(values).all():
        # No method has to know what to do about them.
        return _from_weights(values, jacobian, np.full(len(values), math.nan), name, nonfinite)
    if dtype_name(jacobian) in ("float16", "bfloat16"):
        xp = namespace(jacobian)
        jacobian = xp.astype(jacobian, xp.float32)
    if isinstance(method, Aggregator):
        direction = to_host(as_array(method.direction(jacobian, **options), "the direction"))
        combination = Combination(measure(direction), 0.0, False)
        rows, eps = measure(values), eps_of(jacobian)
        return Promise(rows, combination, None, name, eps, None, ())
    matrix = gramian(jacobian)
    found = as_array(method(matrix, **options), "the weights")
    promise = _from_weights(values, jacobian, found, name, nonfinite)
    return _with_progress(promise, matrix, options) if method is pcd else promise


def _resolve(weighting: Any) -> tuple[str, Any]:
    """Return a name for the report, and the function from Gramians to weights or the aggregator."""
    if not isinstance(weighting, str) and not callable(weighting):
        raise InvalidTypeError(
            "weighting must be a function from Gramians to weights or a name, got "
            f"{type(weighting).__name__}; pass weights by their name: weights=..."
        )
    method = get_method(weighting) if isinstance(weighting, str) else method_of(weighting)
    if method is None:
        return getattr(weighting, "__name__", type(weighting).__name__), weighting
    name = method.name
    if method.is_stateful:
        raise InvalidInputError(
            f"{name!r} has a state to carry along: pass weights=, those that it returned in this step"
        )
    if isinstance(method, Aggregator):
        return name, method
    if not isinstance(method, Weighting):
        raise InvalidInputError(
            f"{name!r} weights losses, not gradients: pass weights=, those that it returned in this step"
        )
    return name, method.weights


def _from_weights(values: FloatArray, jacobian: Array, weights: Array, name: str, nonfinite: str) -> Promise:
    if tuple(weights.shape) != (len(values),):
        raise InvalidInputError(
            f"weights must have shape ({len(values)},), one per row of the jacobian; got shape "
            f"{tuple(weights.shape)} from {name}"
        )
    plain = to_host(weights)
    if nonfinite == "raise":
        _checks.check_finite(plain, "weights")
    rows, eps = measure(values), max(eps_of(jacobian), eps_of(weights))
    direction = combine(plain, rows, eps)
    notes = ("d is 0 to rounding: the direction asks to stay where one is",) if direction.cancels else ()
    return Promise(rows, direction, plain, name, eps, None, notes)


def _with_progress(promise: Promise, matrix: Array, options: dict[str, Any]) -> Promise:
    """Add what PCD asks for; its options have been checked by itself."""
    size = len(promise.rows.length)
    tau = options.get("tau", inspect.signature(pcd).parameters["tau"].default)
    taus = np.concatenate([[0.0], np.broadcast_to(to_host(as_array(tau, "tau")), (size - 1,))])
    given = options.get("scales")
    scales = np.ones(size) if given is None else to_host(as_array(given, "scales"))
    plain = options | {"rescale": False}
    unscaled = combine(to_host(as_array(pcd(matrix, **plain), "weights")), promise.rows, promise.eps)
    lengths = scales * promise.rows.norm
    lengths[0] = 0.0
    norm = float(unscaled.vector.norm)
    with np.errstate(divide="ignore"):
        lengths = np.where(lengths > 0.0, lengths / norm, 0.0)
    notes = promise.notes
    if size > 1 and solve(pcd_problem(matrix, tau, scales=given)).status == Status.INFEASIBLE:
        notes += ("the constraints of PCD contradict each other: it dropped them for this step",)
    return promise._replace(progress=Progress(taus, lengths), notes=notes)
