"""Whole methods in one compiled pass, for CPU arrays: no problem is built, no x stored.

They compute what the method's own problem, solver and lift would, row for row; the contract tests
compare the two.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import FloatArray, Precision, writable_view
from mojd.solvers._kernels import in_threads, kernels
from mojd.solvers.active_set import solve_compiled


def upgrad_one(gramian: FloatArray, preference: FloatArray, weights: FloatArray, tolerance: float) -> int:
    """Write the UPGrad weights of one plain Gramian (see NNQP); return the kernel's status."""
    status = np.empty(1, dtype=np.int8)
    kernels().upgrad_many(gramian[None], preference[None], weights[None], status, tolerance, 0.0)
    return int(status[0])


def pcd_one(
    gramian: FloatArray, tau: FloatArray, scales: FloatArray, weights: FloatArray, rescale: bool, tolerance: float
) -> int:
    """Write the PCD weights of one plain Gramian (see NNQP); return the kernel's status."""
    status = np.empty(1, dtype=np.int8)
    kernels().pcd_many(gramian[None], tau[None], scales[None], weights[None], status, rescale, tolerance, 0.0)
    return int(status[0])


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


def upgrad(
    gramian: FloatArray, preference: FloatArray, threads: int, precision: Precision
) -> tuple[FloatArray, Any]:
    """Return UPGrad weights (..., K) and statuses (...) of Gramians (..., K, K)."""
    batch_shape = np.broadcast_shapes(gramian.shape[:-2], preference.shape[:-1])
    matrices, rows = flat_gramians(gramian, batch_shape), flat_rows(preference, batch_shape)
    count, K = matrices.shape[:2]
    weights, status = np.empty((count, K)), np.empty(count, dtype=np.int8)
    if count < threads and K > 3:
        _upgrad_in_threads(matrices, rows, weights, status, threads, precision)
    else:
        upgrad_many = kernels().upgrad_many

        def task(part: slice) -> None:
            own = rows if len(rows) == 1 else rows[part]
            upgrad_many(matrices[part], own, weights[part], status[part], *precision)

        in_threads(task, count, threads)
    return weights.reshape(*batch_shape, K), status.reshape(batch_shape)


def _upgrad_in_threads(
    matrices: FloatArray, rows: FloatArray, weights: FloatArray, status: Any, threads: int, precision: Precision
) -> None:
    """Share the projections of each Gramian between threads, adding up in the kernel's order."""
    for b, matrix in enumerate(matrices):
        symmetric = 0.5 * (matrix + matrix.T)
        raw = solve_compiled(matrix[None], symmetric[None], threads, precision, closed_form=False)
        status[b] = raw.status.max()
        weights[b] = 0.0
        for i, preference in enumerate(rows[b if len(rows) > 1 else 0]):
            weights[b, i] += preference
            weights[b] += preference * raw.x[0, i]


def pcd(
    gramian: FloatArray,
    tau: FloatArray,
    scales: FloatArray,
    rescale: bool,
    threads: int,
    precision: Precision,
) -> tuple[FloatArray, Any]:
    """Return PCD weights (..., K) and statuses (...) for tau (..., K−1) and scales (..., K)."""
    batch_shape = np.broadcast_shapes(gramian.shape[:-2], tau.shape[:-1], scales.shape[:-1])
    matrices = flat_gramians(gramian, batch_shape)
    taus, sizes = flat_rows(tau, batch_shape), flat_rows(scales, batch_shape)
    count, K = matrices.shape[:2]
    weights, status = np.empty((count, K)), np.empty(count, dtype=np.int8)
    pcd_many = kernels().pcd_many

    def task(part: slice) -> None:
        own_tau = taus if len(taus) == 1 else taus[part]
        own_scales = sizes if len(sizes) == 1 else sizes[part]
        pcd_many(matrices[part], own_tau, own_scales, weights[part], status[part], rescale, *precision)

    in_threads(task, count, threads)
    return weights.reshape(*batch_shape, K), status.reshape(batch_shape)
