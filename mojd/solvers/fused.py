"""Whole methods for CPU arrays with no problem built in between, closed forms where there are any.

They compute what the method's own problem, solver and lift would; the contract tests compare them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import FloatArray, Precision
from mojd.kernels.sizes import LARGEST_SHARED_TABLEAU
from mojd.kernels.status import INFEASIBLE, OPTIMAL, UNSETTLED
from mojd.solvers._kernels import (
    batch_workspace,
    in_threads,
    kernels,
    pcd_workspace,
    projection_workspace,
    scalar_solver,
    upgrad_workspace,
)
from mojd.solvers.active_set import settle, solve_compiled


def flat_rows(array: FloatArray, batch_shape: tuple[int, ...]) -> FloatArray:
    """Return vectors (..., m) as (B, m), or as their only row (1, m) if all problems share it."""
    if math.prod(array.shape[:-1]) == 1:
        return np.ascontiguousarray(array.reshape(1, array.shape[-1]))
    full = np.broadcast_to(array, (*batch_shape, array.shape[-1]))
    return np.ascontiguousarray(full.reshape(-1, array.shape[-1]))


def flat_gramians(gramian: FloatArray, batch_shape: tuple[int, ...]) -> FloatArray:
    """Return Gramians (..., K, K), broadcast to the batch shape, as (B, K, K)."""
    K = gramian.shape[-1]
    if gramian.shape[:-2] != batch_shape:
        gramian = np.broadcast_to(gramian, (*batch_shape, K, K))
    return np.ascontiguousarray(gramian.reshape(math.prod(batch_shape), K, K))


def solve_plain(
    gramian: FloatArray, linear: FloatArray, precision: Precision, bounded: bool = False
) -> FloatArray | None:
    """Return x for a plain Gramian and one or more linear terms, or None if any is not simply OPTIMAL."""
    if linear.ndim == 2:
        options = {"closed_form": True, "bounded": bounded}
        raw = solve_compiled(gramian[None], linear[None], 1, precision, **options)
        return None if raw.status.any() else raw.x[0]
    x = np.empty_like(linear)
    solve_one, floats, integers = scalar_solver(len(linear))
    code = solve_one(gramian, linear, x, True, bounded, *precision, floats, integers)
    return x if code & 255 == OPTIMAL else None


def is_gramian(gramian: FloatArray, precision: Precision) -> bool:
    """Whether kernels take a plain Gramian; for those that are changed before they are solved."""
    zero = np.zeros(len(gramian))
    return solve_plain(gramian, zero, precision) is not None


def upgrad_plain(gramian: FloatArray, preference: FloatArray, precision: Precision) -> FloatArray | None:
    """Return the UPGrad weights of one plain Gramian for u (K,), or None if they take a detour."""
    K = len(gramian)
    weights = np.empty(K)
    if 1 < K <= LARGEST_SHARED_TABLEAU:
        status, space = upgrad_workspace(K)
        worst = kernels.upgrad_small(gramian, preference, weights, status, *precision, *space)
    else:
        raw, space = projection_workspace(K), batch_workspace(K)
        matrices, rows = gramian[None], (preference[None], weights[None])
        worst = kernels.solve_many(matrices, matrices, *raw, *rows, False, K > 1, *precision, *space)
        if worst == UNSETTLED:
            settle(matrices, matrices, raw, precision, closed_form=True, bounded=True)
            worst = int(raw.status.max(initial=OPTIMAL))
            _sum_projections(rows[0], raw.x, rows[1])
    return weights if worst == OPTIMAL else None


def upgrad_flat(
    gramian: FloatArray, preference: FloatArray, threads: int, precision: Precision
) -> tuple[FloatArray, Any]:
    """Return UPGrad weights (B, K) and statuses (B,) of G (B, K, K) and u (B, K) or (1, K)."""
    count, K = gramian.shape[:2]
    weights, status = np.empty((count, K)), np.empty(count, dtype=np.int8)
    if not 1 < K <= LARGEST_SHARED_TABLEAU:
        _upgrad_pivoting(gramian, preference, weights, status, threads, precision)
        return weights, status

    def task(part: slice) -> None:
        own = preference if len(preference) == 1 else preference[part]
        some, space = gramian[part].reshape(-1, K), upgrad_workspace(K)[1]
        out = weights[part].reshape(-1)
        kernels.upgrad_small(some, own.reshape(-1), out, status[part], *precision, *space)

    in_threads(task, count, threads)
    left = np.flatnonzero(status == UNSETTLED)
    if len(left) and K <= 3:
        own = preference if len(preference) == 1 else preference[left]
        left = _retry_in_ordinary_units(gramian, own, weights, status, left, precision)
    if len(left):
        own = preference if len(preference) == 1 else preference[left]
        some, codes = np.empty((len(left), K)), np.empty(len(left), dtype=np.int8)
        _upgrad_pivoting(gramian[left], own, some, codes, threads, precision)
        weights[left], status[left] = some, codes
    return weights, status


def _retry_in_ordinary_units(
    gramian: FloatArray,
    preference: FloatArray,
    weights: FloatArray,
    status: Any,
    left: Any,
    precision: Precision,
) -> Any:
    """Retry closed forms with the largest gradient near norm 1; return what is still unsettled.

    Weights do not depend on the units of the losses, and so the exponents alone must not decide who
    solves: the last bit may differ between formulas and pivoting.
    """
    K = weights.shape[1]
    largest = np.max(np.diagonal(gramian[left], axis1=1, axis2=2), axis=1)
    exponents = np.where(np.isfinite(largest) & (largest > 0), np.frexp(largest)[1] & ~1, 0)
    scaled = np.ldexp(gramian[left], -exponents[:, None, None])
    some, codes = np.empty((len(left), K)), np.empty(len(left), dtype=np.int8)
    kernels.upgrad_small(
        scaled.reshape(-1, K),
        preference.reshape(-1),
        some.reshape(-1),
        codes,
        *precision,
        *upgrad_workspace(K)[1],
    )
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
) -> int:
    """Write UPGrad weights and statuses by K projections of each Gramian; return the worst status."""
    raw = solve_compiled(gramian, gramian, threads, precision, closed_form=True, bounded=True)
    _sum_projections(preference, raw.x, weights)
    raw.status.max(axis=1, out=status)
    return int(status.max(initial=OPTIMAL))


def _sum_projections(preference: FloatArray, x: FloatArray, weights: FloatArray) -> None:
    """Write the weights for minimisers x (B, K, K): see :func:`mojd.kernels.projections.add_projections`."""
    np.matmul(preference[:, None, :], x, out=weights[:, None, :])
    weights += preference


def _without_underflow(gramian: FloatArray) -> FloatArray:
    """Return Gramians (B, K, K) in which gradients with a square of 0 have no products with others.

    A product may be more than 0 where the square has underflowed, and would make a ray of that gradient.
    """
    zero = np.diagonal(gramian, axis1=1, axis2=2) == 0.0
    return np.where(zero[:, :, None] | zero[:, None, :], 0.0, gramian)


def upgrad(
    gramian: FloatArray, preference: FloatArray, threads: int, precision: Precision
) -> tuple[FloatArray, Any]:
    """Return UPGrad weights (..., K) and statuses (...) of Gramians (..., K, K)."""
    batch_shape = np.broadcast_shapes(gramian.shape[:-2], preference.shape[:-1])
    matrices, rows = flat_gramians(gramian, batch_shape), flat_rows(preference, batch_shape)
    weights, status = upgrad_flat(matrices, rows, threads, precision)
    left = np.flatnonzero(status == INFEASIBLE)
    if len(left):
        own = rows if len(rows) == 1 else rows[left]
        weights[left], status[left] = upgrad_flat(_without_underflow(matrices[left]), own, threads, precision)
    return weights.reshape(*batch_shape, gramian.shape[-1]), status.reshape(batch_shape)


def pcd_plain(
    gramian: FloatArray, tau: FloatArray, scales: FloatArray, rescale: bool, precision: Precision
) -> FloatArray | None:
    """Return the PCD weights of one plain Gramian, τ (K−1,) and s (K,), or None if they take a detour."""
    K = len(gramian)
    weights, (status, space) = np.empty(K), pcd_workspace(K)
    worst = kernels.pcd_small(gramian, tau, scales, weights, status, rescale, *precision, *space)
    return weights if worst == OPTIMAL else None


def pcd_settled(
    gramian: FloatArray,
    tau: FloatArray,
    scales: FloatArray,
    rescale: bool,
    threads: int,
    precision: Precision,
) -> tuple[FloatArray, Any]:
    """Return PCD weights (B, K) and statuses (B,) for 2 ≤ K ≤ 33, UNSETTLED where it takes pivoting."""
    count, K = gramian.shape[:2]
    weights, status = np.empty((count, K)), np.empty(count, dtype=np.int8)

    def task(part: slice) -> None:
        taus = (tau if len(tau) == 1 else tau[part]).reshape(-1)
        sizes = (scales if len(scales) == 1 else scales[part]).reshape(-1)
        some, out, space = gramian[part].reshape(-1, K), weights[part].reshape(-1), pcd_workspace(K)[1]
        kernels.pcd_small(some, taus, sizes, out, status[part], rescale, *precision, *space)

    in_threads(task, count, threads)
    return weights, status


def update_scales(
    gramian: FloatArray, average: FloatArray, beta: float, correction: float, eps: float
) -> tuple[FloatArray, FloatArray] | None:
    """Return PCD's scales and the new moving average for one plain Gramian, or None if it isn't finite."""
    new_average, scales = np.empty_like(average), np.empty_like(average)
    finite = kernels.update_scales(gramian, average, new_average, scales, beta, correction, eps)
    return (scales, new_average) if finite else None
