"""Entry point: solve NNQP(G, q) for many right-hand sides on many Gramians."""

from __future__ import annotations

from numba import types

from mojd.kernels.closed_form import solve_pairs, solve_small
from mojd.kernels.compiling import entry_point
from mojd.kernels.projections import add_projections
from mojd.kernels.queue import solve_shared
from mojd.kernels.signatures import (
    COUNT_TABLE,
    COUNTS,
    MATRICES,
    MATRIX,
    STATUS_TABLE,
    VECTOR,
)
from mojd.kernels.small import solve_rows
from mojd.kernels.status import OPTIMAL


@entry_point(
    types.int64(
        MATRICES,
        MATRICES,
        MATRICES,
        STATUS_TABLE,
        COUNT_TABLE,
        MATRIX,
        MATRIX,
        types.boolean,
        types.boolean,
        types.float64,
        types.float64,
        VECTOR,
        COUNTS,
    )
)
def solve_many(G, q, x, status, iterations, u, w, closed_form, lanes, tolerance, tiny, floats, integers):
    """Solve NNQP(G[b], q[b, r]) for all b and r; write x, statuses (or refusals) and iterations.

    If w has rows, they get the weights u[b] + Σ_r u[b, r]·x[b, r] of UPGrad's projections (R = K); u
    may have one row for all. Returns the worst status.

    `lanes` says whether to take SIMD lanes, which pay where many right-hand sides share a Gramian, or
    tableaus, for K ≤ 32 only. Problems that need the general solver get the status UNSETTLED: hand
    them to :func:`mojd.kernels.nnqp.solve_one`. The last two arrays are work space of the sizes that
    :func:`mojd.kernels.workspace.batch_sizes` gives.
    """
    B, R, K = q.shape
    if closed_form and K == 2 and R == 1:
        solve_pairs(G, q, x, status, tolerance)
        iterations[:, :] = 0
    elif closed_form and K <= 3:
        for b in range(B):
            for r in range(R):
                status[b, r] = solve_small(G[b], q[b, r], x[b, r], tolerance)
                iterations[b, r] = 0
    elif lanes:
        for b in range(B):
            solve_shared(G[b], q[b], x[b], status[b], iterations[b], tolerance, tiny, floats, integers)
    else:
        for b in range(B):
            solve_rows(G[b], q[b], x[b], status[b], iterations[b], tolerance, tiny, floats)
    worst = OPTIMAL
    for b in range(w.shape[0]):
        add_projections(x[b], status[b], u[b if u.shape[0] > 1 else 0], w[b])
    for b in range(B):
        for r in range(R):
            worst = status[b, r] if status[b, r] > worst else worst
    return worst
