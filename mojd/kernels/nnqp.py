"""Entry points: solve NNQP(G, q) for one problem, or for many right-hand sides on many Gramians."""

from __future__ import annotations

import math

import numpy as np
from numba import types

from mojd.kernels.closed_form import solve_small
from mojd.kernels.compiling import entry_point
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.factor import rank_noise
from mojd.kernels.queue import solve_own, solve_shared
from mojd.kernels.scalar import normalise_linear, solve_scaled
from mojd.kernels.signatures import (
    COUNT_TABLE,
    COUNTS,
    MATRICES,
    MATRIX,
    STATUS_TABLE,
    VECTOR,
)
from mojd.kernels.status import OPTIMAL
from mojd.kernels.workspace import matrix


@entry_point(
    types.int64(
        MATRIX, VECTOR, VECTOR, types.boolean, types.boolean, types.float64, types.float64, VECTOR, COUNTS
    )
)
def solve_one(G, q, x, closed_form, bounded, tolerance, tiny, floats, integers):
    """Solve one NNQP(G, q) and write x; return status + 256·iterations (or why G is refused).

    `bounded` promises that the problem has a minimiser. The last two arrays are work space of the
    sizes that :func:`mojd.kernels.workspace.scalar_sizes` gives.
    """
    K = q.size
    if closed_form and K <= 3 and solve_small(G, q, x, tolerance) == OPTIMAL:
        return OPTIMAL
    A, at = matrix(floats, np.int64(0), K, K)
    scale = floats[at : at + K]
    code = equilibrate(G, A, scale, tolerance, tiny)
    if code != OPTIMAL:
        x[:] = math.nan
        return code
    if closed_form and K <= 3:
        # Once more in numbers of ordinary size: exponents alone must not decide who solves.
        linear = floats[at + K : at + 2 * K]
        magnitude = normalise_linear(q, scale, linear)
        if magnitude > 0.0 and solve_small(A, linear, x, tolerance) == OPTIMAL:
            for j in range(K):
                x[j] *= scale[j] * magnitude
            return OPTIMAL
    work, at = matrix(floats, at + K, K + 8, K)
    status, iterations = solve_scaled(
        A, scale, q, x, work, integers[: 2 * K + 2].reshape(2, K + 1), bounded, rank_noise(tolerance)
    )
    return status + 256 * iterations


@entry_point(
    types.void(
        MATRICES,
        MATRICES,
        MATRICES,
        STATUS_TABLE,
        COUNT_TABLE,
        types.boolean,
        types.float64,
        types.float64,
        VECTOR,
        COUNTS,
    )
)
def solve_many(G, q, x, status, iterations, closed_form, tolerance, tiny, floats, integers):
    """Solve NNQP(G[b], q[b, r]) for all b and r; write x, statuses (or refusals) and iterations.

    Problems that need the scalar solver get the status UNSETTLED: hand them to :func:`solve_one`.
    The last two arrays are work space of the sizes that
    :func:`mojd.kernels.workspace.lane_sizes` gives for shared = (R > 1).
    """
    B, R, K = q.shape
    if closed_form and K <= 3:
        for b in range(B):
            for r in range(R):
                status[b, r] = solve_small(G[b], q[b, r], x[b, r], tolerance)
                iterations[b, r] = 0
    elif R == 1:
        solve_own(G, q, x, status, iterations, tolerance, tiny, floats, integers)
    else:
        for b in range(B):
            solve_shared(G[b], q[b], x[b], status[b], iterations[b], tolerance, tiny, floats, integers)
