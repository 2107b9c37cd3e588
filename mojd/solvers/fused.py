"""Whole methods for CPU arrays with no problem built in between, closed forms where there are any.

They compute what the method's own problem, solver and lift would; the contract tests compare them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import FLOAT64_PRECISION, FloatArray, Precision, writable_view
from mojd.kernels.status import OPTIMAL, UNSETTLED
from mojd.solvers._kernels import in_threads, kernels, lane_workspace, projection_workspace, scalar_solver
from mojd.solvers.active_set import solve_compiled


def flat_rows(array: FloatArray, batch_shape: tuple[int, ...]) -> FloatArray:
    """Return vectors (..., m) as (B, m), or as their only row (1, m) if all problems share it."""
    if math.prod(array.shape[:-1]) == 1:
        return writable_view(np.ascontiguousarray(array.reshape(1, array.shape[-1])))
    full = np.broadcast_to(array, (*batch_shape, array.shape[-1]))
    return writable_view(np.ascontiguousarray(full.reshape(-1, array.shape[-1])))


def flat_gramians(gramian: FloatArray, batch_shape: tuple[int, ...]) -> FloatArray:
    """Return Gramians (..., K, K), broadcast to the batch shape, as (B, K, K)."""
    K = gramian.shape[-1]
    if gramian.shape[:-2] != batch_shape:
        gramian = np.broadcast_to(gramian, (*batch_shape, K, K))
    return writable_view(np.ascontiguousarray(gramian.reshape(math.prod(batch_shape), K, K)))


def solve_plain(gramian: FloatArray, linear: FloatArray, bounded: bool = False) -> FloatArray | None:
    """Return x for one problem of plain arrays (see NNQP), or None if it is not simply OPTIMAL."""
    x = np.empty_like(linear)
    solve_one, floats, integers = scalar_solver(len(linear))
    code = solve_one(gramian, linear, x, True, bounded, *FLOAT64_PRECISION, floats, integers)
    return x if code & 255 == OPTIMAL else None


def upgrad_plain(gramian: FloatArray, preference: FloatArray) -> FloatArray | None:
    """Return the UPGrad weights of one plain Gramian for u (1, K), or None if they take a detour."""
    K = len(gramian)
    compiled, matrices = kernels(), gramian[None]
    weights = np.empty((1, K))
    x, statuses, iterations = projection_workspace(K)
    if K in (2, 3):
        compiled.upgrad_small(matrices, preference, weights, statuses[0], FLOAT64_PRECISION.tolerance)
        return weights[0] if statuses[0, 0] == OPTIMAL else None
    floats, integers = lane_workspace(K, K > 1)
    tolerance, tiny = FLOAT64_PRECISION
    compiled.solve_many(matrices, matrices, x, statuses, iterations, False, tolerance, tiny, floats, integers)
    worst = compiled.sum_projections(x, statuses, preference, weights, statuses[0])
    return weights[0] if worst == OPTIMAL else None


def upgrad_flat(
    gramian: FloatArray, preference: FloatArray, threads: int, precision: Precision
) -> tuple[FloatArray, Any]:
    """Return UPGrad weights (B, K) and statuses (B,) of G (B, K, K) and u (B, K) or (1, K)."""
    count, K = gramian.shape[:2]
    weights, status = np.empty((count, K)), np.empty(count, dtype=np.int8)
    if K not in (2, 3):
        _upgrad_pivoting(gramian, preference, weights, status, threads, precision)
        return weights, status
    upgrad_small = kernels().upgrad_small

    def task(part: slice) -> None:
        own = preference if len(preference) == 1 else preference[part]
        upgrad_small(gramian[part], own, weights[part], status[part], precision.tolerance)

    in_threads(task, count, threads)
    left = np.flatnonzero(status == UNSETTLED)
    if len(left):
        own = preference if len(preference) == 1 else preference[left]
        left = _retry_in_ordinary_units(gramian, own, weights, status, left, precision.tolerance)
        own = preference if len(preference) == 1 else preference[left]
    if len(left):
        some, codes = np.empty((len(left), K)), np.empty(len(left), dtype=np.int8)
        _upgrad_pivoting(gramian[left], own, some, codes, threads, precision)
        weights[left], status[left] = some, codes
    return weights, status


def _retry_in_ordinary_units(
    gramian: FloatArray, preference: FloatArray, weights: FloatArray, status: Any, left: Any, tolerance: float
) -> Any:
    """Retry closed forms with the largest gradient near norm 1; return what is still unsettled.

    Weights do not depend on the units of the losses, and so the exponents alone must not decide who
    solves: the last bit may differ between formulas and pivoting.
    """
    largest = np.max(np.diagonal(gramian[left], axis1=1, axis2=2), axis=1)
    exponents = np.where(np.isfinite(largest) & (largest > 0), np.frexp(largest)[1] & ~1, 0)
    scaled = np.ldexp(gramian[left], -exponents[:, None, None])
    some, codes = np.empty((len(left), weights.shape[1])), np.empty(len(left), dtype=np.int8)
    kernels().upgrad_small(scaled, preference, some, codes, tolerance)
    settled = codes == OPTIMAL
    weights[left[settled]], status[left[settled]] = some[settled], OPTIMAL
    return left[~settled]


def _upgrad_pivoting(
    gramian: FloatArray,
    preference: FloatArray,
    weights: FloatArray,
    status: Any,
    threads: int,
    precision: Precision,
) -> None:
    """Write UPGrad weights and statuses by K projections of each Gramian."""
    raw = solve_compiled(gramian, gramian, threads, precision, closed_form=True, bounded=True)
    kernels().sum_projections(raw.x, raw.status, preference, weights, status)


def upgrad(
    gramian: FloatArray, preference: FloatArray, threads: int, precision: Precision
) -> tuple[FloatArray, Any]:
    """Return UPGrad weights (..., K) and statuses (...) of Gramians (..., K, K)."""
    batch_shape = np.broadcast_shapes(gramian.shape[:-2], preference.shape[:-1])
    matrices, rows = flat_gramians(gramian, batch_shape), flat_rows(preference, batch_shape)
    weights, status = upgrad_flat(matrices, rows, threads, precision)
    return weights.reshape(*batch_shape, gramian.shape[-1]), status.reshape(batch_shape)


def pcd_settled(
    gramian: FloatArray, tau: FloatArray, scales: FloatArray, rescale: bool, threads: int, tolerance: float
) -> tuple[FloatArray, Any]:
    """Return PCD weights (B, K) and statuses (B,) for K = 2 and 3, UNSETTLED where formulas fail."""
    count, K = gramian.shape[:2]
    weights, status = np.empty((count, K)), np.empty(count, dtype=np.int8)
    pcd_small = kernels().pcd_small

    def task(part: slice) -> None:
        own_tau = tau if len(tau) == 1 else tau[part]
        own_scales = scales if len(scales) == 1 else scales[part]
        pcd_small(gramian[part], own_tau, own_scales, weights[part], status[part], rescale, tolerance)

    in_threads(task, count, threads)
    return weights, status
