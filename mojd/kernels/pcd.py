"""Priority-Constrained Descent for K = 2 and 3: closed forms, and the rescaling.

With x the multipliers in the units of the raw gradients, x = S·μ, the problem is NNQP(G_s, q) with
q_j = s₀·G_j0 − τ_j·s_j·G_jj: no entry of G is rescaled, so that exact dependencies survive.
"""

from __future__ import annotations

import math

from numba import types

from mojd.kernels.closed_form import is_in_range, is_pair_sound, solve_pair
from mojd.kernels.compiling import entry_point, inner
from mojd.kernels.signatures import MATRICES, MATRIX, STATUSES
from mojd.kernels.status import OPTIMAL, UNSETTLED

# ‖d‖² below this part of (Σ |w_i|·‖g_i‖)² is what rounding leaves of d = 0.
VANISHING = 64 * 2.0**-53


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
def linear_term(a, inner_product, tau, primary_scale, scale):
    """Return q_j = s₀·G_j0 − τ_j·s_j·G_jj."""
    return primary_scale * inner_product - tau * (scale * a)


@inner
def pcd_pairs(G, tau, scales, w, status, tolerance):
    """Solve for K = 2: μ = max(0, τ − g₂ᵀg₁/‖g₂‖²) in the units of the normalised gradients."""
    for b in range(G.shape[0]):
        t, s = b if tau.shape[0] > 1 else 0, b if scales.shape[0] > 1 else 0
        a, c, row, column = G[b, 0, 0], G[b, 1, 1], G[b, 0, 1], G[b, 1, 0]
        q = linear_term(c, 0.5 * (row + column), tau[t, 0], scales[s, 0], scales[s, 1])
        sound = is_in_range(a) & is_in_range(c) & is_pair_sound(a, c, row, column, tolerance)
        w[b, 0] = scales[s, 0]
        w[b, 1] = -q / c if q < 0.0 else 0.0
        status[b] = OPTIMAL if sound else UNSETTLED


@inner
def pcd_triples(G, tau, scales, w, status, tolerance):
    """Solve for K = 3: two secondaries, four passive sets."""
    for b in range(G.shape[0]):
        t, s = b if tau.shape[0] > 1 else 0, b if scales.shape[0] > 1 else 0
        a, c, d = G[b, 0, 0], G[b, 1, 1], G[b, 2, 2]
        sound = is_in_range(a) & is_in_range(c) & is_in_range(d)
        sound &= is_pair_sound(a, c, G[b, 0, 1], G[b, 1, 0], tolerance)
        sound &= is_pair_sound(a, d, G[b, 0, 2], G[b, 2, 0], tolerance)
        sound &= is_pair_sound(c, d, G[b, 1, 2], G[b, 2, 1], tolerance)
        first = 0.5 * (G[b, 0, 1] + G[b, 1, 0])
        second = 0.5 * (G[b, 0, 2] + G[b, 2, 0])
        p = linear_term(c, first, tau[t, 0], scales[s, 0], scales[s, 1])
        q = linear_term(d, second, tau[t, 1], scales[s, 0], scales[s, 2])
        x, y, settled = solve_pair(c, d, 0.5 * (G[b, 1, 2] + G[b, 2, 1]), p, q)
        w[b, 0], w[b, 1], w[b, 2] = scales[s, 0], x, y
        status[b] = OPTIMAL if sound & settled else UNSETTLED


@entry_point(types.void(MATRICES, MATRIX, MATRIX, MATRIX, STATUSES, types.boolean, types.float64))
def pcd_small(G, tau, scales, w, status, rescale, tolerance):
    """Write the PCD weights of G[b], K = 2 or 3, with tau[b] and scales[b] (or their only row).

    Problems that formulas can't settle get the status UNSETTLED.
    """
    if G.shape[1] == 2:
        pcd_pairs(G, tau, scales, w, status, tolerance)
    else:
        pcd_triples(G, tau, scales, w, status, tolerance)
    if rescale:
        for b in range(G.shape[0]):
            if status[b] == OPTIMAL:
                rescale_to_primary(G[b], w[b])
