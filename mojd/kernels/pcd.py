"""Priority-Constrained Descent in one pass: secondary block, active set, weights, rescaling."""

from __future__ import annotations

import math

import numpy as np
from numba import types

from mojd.kernels.closed_form import is_in_range, is_pair_sound, solve_small
from mojd.kernels.compiling import entry_point, inner
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.scalar import solve_scaled, workspace
from mojd.kernels.signatures import MATRICES, MATRIX, STATUSES
from mojd.kernels.status import ASYMMETRIC, INFEASIBLE, NEGATIVE_DIAGONAL, NONFINITE, NOT_PSD, OPTIMAL

# ‖d‖² below this part of (Σ |w_i|·‖g_i‖)² is what rounding leaves of d = 0.
VANISHING = 64 * 2.0**-53


@inner
def check_primary(G, tolerance, tiny):
    """Return OPTIMAL, or what is wrong with row and column 0 of G."""
    a = G[0, 0]
    if not math.isfinite(a):
        return NONFINITE
    if a < 0.0:
        return NEGATIVE_DIAGONAL
    for j in range(1, G.shape[0]):
        row, column, b = G[0, j], G[j, 0], G[j, j]
        if not math.isfinite(row + column):
            return NONFINITE
        bound = math.sqrt(a) * math.sqrt(b) if b > 0.0 else 0.0
        if bound == 0.0:
            if max(abs(row), abs(column)) > math.sqrt(tiny * max(a, b)):
                return NOT_PSD
        elif abs(row - column) > tolerance * bound:
            return ASYMMETRIC
        elif max(abs(row), abs(column)) > (1.0 + tolerance) * bound:
            return NOT_PSD
    return OPTIMAL


@inner
def rescale_to_primary(G, w):
    """Scale w in place so that ‖Jᵀw‖ = ‖g₀‖; a direction that vanishes becomes exactly 0."""
    square, size = 0.0, 0.0
    for i in range(w.size):
        product = 0.0
        for j in range(w.size):
            product += G[i, j] * w[j]
        square += w[i] * product
        size += w[i] * math.sqrt(max(G[i, i], 0.0))
    if not square > VANISHING * size * size or G[0, 0] == 0.0:
        w[:] = 0.0
        return
    factor = math.sqrt(G[0, 0]) / math.sqrt(square)
    for i in range(w.size):
        w[i] *= factor


@inner
def pcd_general(G, tau, scales, w, rescale, tolerance, tiny):
    """Write the PCD weights of one Gramian (K, K); return the status.

    With x the multipliers in the units of the raw gradients, x = S·μ, the problem is
    NNQP(G_s, q) with q_j = s₀·G_j0 − τ_j·s_j·G_jj: no entry of G is rescaled, so that exact
    dependencies between rows survive. INFEASIBLE leaves the primary alone (Algorithm 1).
    """
    m = G.shape[0] - 1
    w[:] = 0.0
    w[0] = scales[0]
    status = check_primary(G, tolerance, tiny)
    if status == OPTIMAL and m > 0:
        block, q = np.empty((m, m)), np.empty(m)
        for i in range(m):
            for j in range(m):
                block[i, j] = G[i + 1, j + 1]
            cosine_part = scales[0] * (0.5 * (G[i + 1, 0] + G[0, i + 1]))
            q[i] = cosine_part - tau[i] * (scales[i + 1] * G[i + 1, i + 1])
        x = w[1:]
        if m > 3 or solve_small(block, q, x, tolerance) != OPTIMAL:
            A, scale = np.empty((m, m)), np.empty(m)
            status = equilibrate(block, A, scale, tolerance, tiny)
            if status == OPTIMAL:
                floats, integers = workspace(m)
                status, _ = solve_scaled(A, scale, q, x, floats, integers)
                if status == INFEASIBLE:
                    x[:] = 0.0
    if status > INFEASIBLE:
        w[:] = math.nan
    elif rescale:
        rescale_to_primary(G, w)
    return status


@inner
def pair(G, tau, scales, w, tolerance):
    """Write the weights for K = 2, μ = max(0, τ − g₂ᵀg₁/‖g₂‖²); return whether G is sound."""
    a, b, c = G[0, 0], G[1, 1], 0.5 * (G[0, 1] + G[1, 0])
    q = scales[0] * c - tau * (scales[1] * b)
    w[0], w[1] = scales[0], (-q / b if q < 0.0 else 0.0)
    return is_in_range(a) & is_in_range(b) & is_pair_sound(a, b, G[0, 1], G[1, 0], tolerance)


@entry_point(
    types.void(MATRICES, MATRIX, MATRIX, MATRIX, STATUSES, types.boolean, types.float64, types.float64)
)
def pcd_many(G, tau, scales, w, status, rescale, tolerance, tiny):
    """Write the PCD weights of G[b], with tau[b] and scales[b] (or their only row), and statuses."""
    for b in range(G.shape[0]):
        t = tau[b if tau.shape[0] > 1 else 0]
        s = scales[b if scales.shape[0] > 1 else 0]
        if G.shape[1] == 2 and pair(G[b], t[0], s, w[b], tolerance):
            status[b] = OPTIMAL
            if rescale:
                rescale_to_primary(G[b], w[b])
        else:
            status[b] = pcd_general(G[b], t, s, w[b], rescale, tolerance, tiny)
