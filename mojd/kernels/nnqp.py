"""Entry points: solve NNQP(G, q) for one problem, or for many right-hand sides on many Gramians."""

from __future__ import annotations

import math

import numpy as np
from numba import types

from mojd.kernels.closed_form import solve_small
from mojd.kernels.compiling import entry_point
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.queue import solve_own, solve_shared
from mojd.kernels.scalar import solve_scaled, workspace
from mojd.kernels.signatures import COUNT_TABLE, MATRICES, MATRIX, STATUS_TABLE, VECTOR
from mojd.kernels.status import OPTIMAL, UNSETTLED


@entry_point(types.int64(MATRIX, VECTOR, VECTOR, types.boolean, types.float64))
def solve_one(G, q, x, closed_form, tolerance):
    """Solve one NNQP(G, q) and write x; return status + 256·iterations (or why G is refused)."""
    K = q.size
    if closed_form and K <= 3 and solve_small(G, q, x, tolerance) == OPTIMAL:
        return OPTIMAL
    A, scale = np.empty((K, K)), np.empty(K)
    code = equilibrate(G, A, scale, tolerance, 0.0)
    if code != OPTIMAL:
        x[:] = math.nan
        return code
    floats, integers = workspace(K)
    status, iterations = solve_scaled(A, scale, q, x, floats, integers)
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
    )
)
def solve_many(G, q, x, status, iterations, closed_form, tolerance, tiny):
    """Solve NNQP(G[b], q[b, r]) for all b and r; write x, status (or refusal) and iterations."""
    B, R, K = q.shape
    A, scale = np.empty((K, K)), np.empty(K)
    spare = workspace(K)
    # Not a literal, for which numba would compile everything below once more.
    bounded = K < 0
    if closed_form and K <= 3:
        for b in range(B):
            code = UNSETTLED
            for r in range(R):
                if solve_small(G[b], q[b, r], x[b, r], tolerance) == OPTIMAL:
                    status[b, r], iterations[b, r] = OPTIMAL, 0
                    continue
                if code == UNSETTLED:
                    code = equilibrate(G[b], A, scale, tolerance, tiny)
                if code == OPTIMAL:
                    status[b, r], iterations[b, r] = solve_scaled(
                        A, scale, q[b, r], x[b, r], spare[0], spare[1]
                    )
                else:
                    x[b, r, :] = math.nan
                    status[b, r], iterations[b, r] = code, 0
    elif R == 1:
        solve_own(G, q, x, status, iterations, bounded, tolerance, tiny, spare)
    else:
        for b in range(B):
            code = equilibrate(G[b], A, scale, tolerance, tiny)
            if code == OPTIMAL:
                solve_shared(A, scale, q[b], x[b], status[b], iterations[b], bounded, spare)
            else:
                x[b] = math.nan
                status[b] = code
                iterations[b] = 0
