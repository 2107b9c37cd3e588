"""Priority-Constrained Descent for K ≤ 4: closed forms for the secondaries, and the rescaling."""

from __future__ import annotations

import math

from numba import types

from mojd.kernels.closed_form import is_in_range, is_pair_sound, solve_small
from mojd.kernels.compiling import entry_point, inner
from mojd.kernels.signatures import MATRICES, MATRIX, STATUSES, VECTOR
from mojd.kernels.status import OPTIMAL, UNSETTLED

# ‖d‖² below this part of (Σ |w_i|·‖g_i‖)² is what rounding leaves of d = 0.
VANISHING = 64 * 2.0**-53


@inner
def is_primary_sound(G, tolerance):
    """Whether row and column 0 of G are clean enough for a closed form."""
    sound = is_in_range(G[0, 0])
    for j in range(1, G.shape[0]):
        sound &= is_pair_sound(G[0, 0], G[j, j], G[0, j], G[j, 0], tolerance)
    return sound


@inner
def rescale_to_primary(G, w):
    """Scale w in place so that ‖Jᵀw‖ = ‖g₀‖; a direction that vanishes becomes exactly 0."""
    square, size = 0.0, 0.0
    for i in range(w.size):
        product = 0.0
        for j in range(w.size):
            product += G[i, j] * w[j]
        square += w[i] * product
        size += w[i] * math.sqrt(G[i, i])
    if not square > VANISHING * size * size or G[0, 0] == 0.0:
        w[:] = 0.0
        return
    factor = math.sqrt(G[0, 0]) / math.sqrt(square)
    for i in range(w.size):
        w[i] *= factor


@inner
def build_problem(G, tau, scales, block, q):
    """Write PCD's problem NNQP(G_s, q), q_j = s₀·G_j0 − τ_j·s_j·G_jj, to `block` and `q`."""
    m = q.size
    for i in range(m):
        for j in range(m):
            block[i, j] = G[i + 1, j + 1]
        inner_product = 0.5 * (G[i + 1, 0] + G[0, i + 1])
        q[i] = scales[0] * inner_product - tau[i] * (scales[i + 1] * G[i + 1, i + 1])


@entry_point(types.void(MATRICES, MATRIX, MATRIX, MATRIX, STATUSES, types.boolean, types.float64, VECTOR))
def pcd_small(G, tau, scales, w, status, rescale, tolerance, floats):
    """Write the PCD weights of G[b], 2 ≤ K ≤ 4, with tau[b] and scales[b] (or their only row).

    Problems that formulas can't settle get the status UNSETTLED. `floats` is work space for 12.
    """
    m = G.shape[1] - 1
    block, q = floats[: m * m].reshape(m, m), floats[9 : 9 + m]
    for b in range(G.shape[0]):
        t = tau[b if tau.shape[0] > 1 else 0]
        s = scales[b if scales.shape[0] > 1 else 0]
        build_problem(G[b], t, s, block, q)
        w[b, 0] = s[0]
        status[b] = solve_small(block, q, w[b, 1:], tolerance)
        if not is_primary_sound(G[b], tolerance):
            status[b] = UNSETTLED
        elif rescale and status[b] == OPTIMAL:
            rescale_to_primary(G[b], w[b])
