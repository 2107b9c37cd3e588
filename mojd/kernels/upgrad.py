"""UPGrad: closed forms for K = 2 and 3, and the sum of the projections for any K."""

from __future__ import annotations

from numba import types

from mojd.kernels.closed_form import is_in_range, is_pair_sound, solve_pair
from mojd.kernels.compiling import entry_point, inner
from mojd.kernels.signatures import MATRICES, MATRIX, STATUS_TABLE, STATUSES
from mojd.kernels.status import UNSETTLED


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


@entry_point(types.void(MATRICES, MATRIX, MATRIX, STATUSES, types.float64))
def upgrad_small(G, u, w, status, tolerance):
    """Write the UPGrad weights of G[b] for u[b] (or u[0], if it has one row), for K = 2 and 3.

    Problems that formulas can't settle get the status UNSETTLED.
    """
    if G.shape[1] == 2:
        upgrad_pairs(G, u, w, status, tolerance)
    else:
        upgrad_triples(G, u, w, status, tolerance)


@entry_point(types.int64(MATRICES, STATUS_TABLE, MATRIX, MATRIX, STATUSES))
def sum_projections(x, statuses, u, w, status):
    """Write w[b] = Σ_r u_r·(e_r + x[b, r]): the K projections of a Gramian, weighted and summed.

    status[b] becomes the worst of statuses[b]; returns the worst of all. The problems are solved for
    preferences of 1 and scaled here: projection on a cone is positively homogeneous, and so their
    linear terms are the rows of G themselves, exact.
    """
    shared, worst = u.shape[0] == 1, 0
    for b in range(x.shape[0]):
        k, code = 0 if shared else b, 0
        for j in range(w.shape[1]):
            w[b, j] = u[k, j]
        for r in range(x.shape[1]):
            preference = u[k, r]
            code = statuses[b, r] if statuses[b, r] > code else code
            for j in range(w.shape[1]):
                w[b, j] += preference * x[b, r, j]
        status[b] = code
        worst = code if code > worst else worst
    return worst
