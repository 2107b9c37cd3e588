"""Priority-Constrained Descent: closed forms for K = 2 and 3, tableaus for small K, the rescaling.

With x the multipliers in the units of the raw gradients, x = S·μ, the problem is NNQP(G_s, q) with
q_j = s₀·G_j0 − τ_j·s_j·G_jj: no entry of G is rescaled, so that exact dependencies survive.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from mojd.kernels.closed_form import (
    is_in_range,
    is_pair_sound,
    is_triple_sound,
    is_zero_or_in_range,
    solve_pair,
)
from mojd.kernels.compiling import entry_point, inner
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.factor import rank_noise, suspect_pivot
from mojd.kernels.signatures import MATRIX, STATUSES, VECTOR
from mojd.kernels.small import solve_row
from mojd.kernels.status import OPTIMAL, UNSETTLED
from mojd.kernels.workspace import matrix, tableau_arrays

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
    for b in range(status.size):
        i, t, s = 2 * b, b if tau.size > 1 else 0, 2 * b if scales.size > 2 else 0
        a, c, row, column = G[i, 0], G[i + 1, 1], G[i, 1], G[i + 1, 0]
        q = linear_term(c, 0.5 * (row + column), tau[t], scales[s], scales[s + 1])
        sound = is_in_range(a) & is_in_range(c) & is_pair_sound(a, c, row, column, tolerance)
        sound &= is_zero_or_in_range(q)
        w[i] = scales[s]
        w[i + 1] = -q / c if q < 0.0 else 0.0
        status[b] = OPTIMAL if sound else UNSETTLED


@inner
def pcd_triples(G, tau, scales, w, status, tolerance):
    """Solve for K = 3: two secondaries, four passive sets."""
    for b in range(status.size):
        i, t, s = 3 * b, 2 * b if tau.size > 2 else 0, 3 * b if scales.size > 3 else 0
        j, k = i + 1, i + 2
        c, d = G[j, 1], G[k, 2]
        p = linear_term(c, 0.5 * (G[i, 1] + G[j, 0]), tau[t], scales[s], scales[s + 1])
        q = linear_term(d, 0.5 * (G[i, 2] + G[k, 0]), tau[t + 1], scales[s], scales[s + 2])
        sound = is_triple_sound(G, i, tolerance) & is_zero_or_in_range(p) & is_zero_or_in_range(q)
        x, y, settled = solve_pair(c, d, 0.5 * (G[j, 2] + G[k, 1]), p, q)
        w[i], w[j], w[k] = scales[s], x, y
        status[b] = OPTIMAL if sound & settled else UNSETTLED


@inner
def are_usable(scales):
    """Whether no scale is negative, infinite or NaN."""
    usable = True
    for i in range(scales.size):
        usable &= (scales[i] >= 0.0) & (scales[i] < math.inf)
    return usable


@inner
def pcd_tableau(G, tau, scales, w, tolerance, tiny, floats, inner_floats):
    """Solve for any K by a tableau of the secondaries; write w and return the status.

    The primary's row is equilibrated along, so that it is looked at too.
    """
    K = w.size
    full, at = matrix(floats, np.int64(0), K, K)
    diagonal, q = floats[at : at + K], floats[at + K : at + 2 * K - 1]
    code = equilibrate(G, full, diagonal, tolerance, tiny)
    if code != OPTIMAL:
        return UNSETTLED
    A, term, _, S, y, work, scale, _ = tableau_arrays(inner_floats, K - 1)
    for j in range(K - 1):
        scale[j] = diagonal[j + 1]
        product = 0.5 * (G[0, j + 1] + G[j + 1, 0])
        q[j] = linear_term(G[j + 1, j + 1], product, tau[j], scales[0], scales[j + 1])
        # Beside a zero square, products are underflow.
        q[j] = 0.0 if G[j + 1, j + 1] == 0.0 else q[j]
        for i in range(K - 1):
            A[j, i] = full[j + 1, i + 1]
    w[0] = scales[0]
    status, _ = solve_row(A, scale, q, w[1:], term, S, y, work, suspect_pivot(rank_noise(tolerance)))
    return OPTIMAL if status == OPTIMAL else UNSETTLED


@entry_point(
    types.int64(
        MATRIX,
        VECTOR,
        VECTOR,
        VECTOR,
        STATUSES,
        types.boolean,
        types.float64,
        types.float64,
        VECTOR,
        VECTOR,
    )
)
def pcd_small(G, tau, scales, w, status, rescale, tolerance, tiny, floats, inner_floats):
    """Write the PCD weights of B Gramians, one below the other in G (B·K, K) for K ≤ 33, to w (B·K).

    `tau` holds B·(K − 1) numbers, or K − 1 for all; `scales` B·K, or K. `status` (B) becomes OPTIMAL
    or, where neither formulas nor tableaus settle the problem or any scale is unusable, UNSETTLED.
    Returns the worst. The last two arrays are work space: K² + 2K numbers, and what
    :func:`mojd.kernels.workspace.tableau_size` says for K − 1.
    """
    K, worst = G.shape[1], OPTIMAL
    if K == 2:
        pcd_pairs(G, tau, scales, w, status, tolerance)
    elif K == 3:
        pcd_triples(G, tau, scales, w, status, tolerance)
    else:
        for b in range(status.size):
            t, s, at = b * (K - 1) if tau.size >= K else 0, b * K if scales.size > K else 0, b * K
            status[b] = pcd_tableau(
                G[at : at + K],
                tau[t : t + K - 1],
                scales[s : s + K],
                w[at : at + K],
                tolerance,
                tiny,
                floats,
                inner_floats,
            )
    if not are_usable(scales):
        status[:] = UNSETTLED
    for b in range(status.size):
        worst = status[b] if status[b] > worst else worst
        if rescale and status[b] == OPTIMAL:
            rescale_to_primary(G[b * K : b * K + K], w[b * K : b * K + K])
    return worst
