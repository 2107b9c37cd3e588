"""UPGrad in one pass: the weighted sum of the K projections, none of which is stored.

For row r the problem is solved for q = G·e_r, that is with preference 1, and scaled afterwards:
projection on a cone is positively homogeneous, and so the linear term is exact.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from mojd.kernels.closed_form import is_in_range, is_pair_sound, solve_pair
from mojd.kernels.compiling import entry_point, inner
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.queue import solve_shared
from mojd.kernels.scalar import workspace
from mojd.kernels.signatures import MATRICES, MATRIX, STATUSES
from mojd.kernels.status import OPTIMAL, UNSETTLED


@inner
def upgrad_general(G, u, w, tolerance, tiny):
    """Write the UPGrad weights of one Gramian (K, K) for preferences u (K,); return the status."""
    K = u.size
    A, scale = np.empty((K, K)), np.empty(K)
    status = equilibrate(G, A, scale, tolerance, tiny)
    if status != OPTIMAL:
        w[:] = math.nan
        return status
    # Row r of A, times 1/scale[r], is what equilibration makes of the linear term G·e_r.
    ones = np.ones(K)
    x, statuses, iterations = np.empty((K, K)), np.empty(K, np.int8), np.empty(K, np.int32)
    solve_shared(A, ones, A, x, statuses, iterations, K > 0, workspace(K))
    w[:] = 0.0
    for r in range(K):
        preference = u[r] / scale[r]
        w[r] += preference
        for j in range(K):
            w[j] += preference * x[r, j]
        if statuses[r] != OPTIMAL:
            status = statuses[r]
    for j in range(K):
        w[j] *= scale[j]
    return status


@inner
def upgrad_pairs(G, u, w, status, tolerance):
    """UPGrad weights of G (B, 2, 2) for preferences u (B, 2) or (1, 2); writes w and status.

    Projecting g₁ on the dual cone takes off its part along g₂ if they conflict.
    """
    shared = u.shape[0] == 1
    for i in range(G.shape[0]):
        k = 0 if shared else i
        a, b, c, transposed = G[i, 0, 0], G[i, 1, 1], G[i, 0, 1], G[i, 1, 0]
        sound = is_in_range(a) & is_in_range(b) & is_pair_sound(a, b, c, transposed, tolerance)
        mean = 0.5 * (c + transposed)
        conflict = -mean if mean < 0.0 else 0.0
        w[i, 0] = u[k, 0] + u[k, 1] * (conflict / a)
        w[i, 1] = u[k, 1] + u[k, 0] * (conflict / b)
        status[i] = 0 if sound else UNSETTLED


@inner
def upgrad_triples(G, u, w, status, tolerance):
    """UPGrad weights of G (B, 3, 3) for preferences u (B, 3) or (1, 3); writes w and status.

    The projection of gᵢ never needs more of gᵢ itself, which leaves a pair of unknowns.
    """
    shared = u.shape[0] == 1
    for i in range(G.shape[0]):
        k = 0 if shared else i
        a, b, c = G[i, 0, 0], G[i, 1, 1], G[i, 2, 2]
        sound = is_in_range(a) & is_in_range(b) & is_in_range(c)
        sound &= is_pair_sound(a, b, G[i, 0, 1], G[i, 1, 0], tolerance)
        sound &= is_pair_sound(a, c, G[i, 0, 2], G[i, 2, 0], tolerance)
        sound &= is_pair_sound(b, c, G[i, 1, 2], G[i, 2, 1], tolerance)
        ab = 0.5 * (G[i, 0, 1] + G[i, 1, 0])
        ac = 0.5 * (G[i, 0, 2] + G[i, 2, 0])
        bc = 0.5 * (G[i, 1, 2] + G[i, 2, 1])
        b0, c0, settled0 = solve_pair(b, c, bc, ab, ac)
        a1, c1, settled1 = solve_pair(a, c, ac, ab, bc)
        a2, b2, settled2 = solve_pair(a, b, ab, ac, bc)
        w[i, 0] = u[k, 0] + (u[k, 1] * a1 + u[k, 2] * a2)
        w[i, 1] = u[k, 1] + (u[k, 0] * b0 + u[k, 2] * b2)
        w[i, 2] = u[k, 2] + (u[k, 0] * c0 + u[k, 1] * c1)
        status[i] = 0 if sound & settled0 & settled1 & settled2 else UNSETTLED


@entry_point(types.void(MATRICES, MATRIX, MATRIX, STATUSES, types.float64, types.float64))
def upgrad_many(G, u, w, status, tolerance, tiny):
    """Write the UPGrad weights of G[b] for u[b] (or u[0], if it has one row), and the statuses."""
    K = G.shape[1]
    if K == 2:
        upgrad_pairs(G, u, w, status, tolerance)
    elif K == 3:
        upgrad_triples(G, u, w, status, tolerance)
    else:
        status[:] = UNSETTLED
    for b in range(G.shape[0]):
        if status[b] == UNSETTLED:
            status[b] = upgrad_general(G[b], u[b if u.shape[0] > 1 else 0], w[b], tolerance, tiny)
