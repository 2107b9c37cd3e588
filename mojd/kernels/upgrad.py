"""UPGrad: closed forms for K = 2 and 3, tableaus for small K."""

from __future__ import annotations

from numba import types

from mojd.kernels.closed_form import is_in_range, is_pair_sound, is_triple_sound, solve_pair
from mojd.kernels.compiling import entry_point, inner
from mojd.kernels.projections import add_projections
from mojd.kernels.signatures import COUNTS_32, MATRIX, STATUSES, VECTOR
from mojd.kernels.small import solve_rows
from mojd.kernels.status import OPTIMAL, UNSETTLED


@inner
def upgrad_pairs(G, u, w, status, tolerance):
    """UPGrad weights for K = 2; writes w and status.

    Projecting g₁ on the dual cone takes off its part along g₂ if they conflict.
    """
    shared = u.size == 2
    for b in range(status.size):
        i, k = 2 * b, 0 if shared else 2 * b
        a, d, c, transposed = G[i, 0], G[i + 1, 1], G[i, 1], G[i + 1, 0]
        sound = is_in_range(a) & is_in_range(d) & is_pair_sound(a, d, c, transposed, tolerance)
        mean = 0.5 * (c + transposed)
        conflict = -mean if mean < 0.0 else 0.0
        w[i] = u[k] + u[k + 1] * (conflict / a)
        w[i + 1] = u[k + 1] + u[k] * (conflict / d)
        status[b] = OPTIMAL if sound else UNSETTLED


@inner
def upgrad_triples(G, u, w, status, tolerance):
    """UPGrad weights for K = 3; writes w and status.

    The projection of gᵢ never needs more of gᵢ itself, which leaves a pair of unknowns.
    """
    shared = u.size == 3
    for b in range(status.size):
        i, k = 3 * b, 0 if shared else 3 * b
        j, h = i + 1, i + 2
        a, d, f = G[i, 0], G[j, 1], G[h, 2]
        sound = is_triple_sound(G, i, tolerance)
        ad = 0.5 * (G[i, 1] + G[j, 0])
        af = 0.5 * (G[i, 2] + G[h, 0])
        df = 0.5 * (G[j, 2] + G[h, 1])
        d0, f0, settled0 = solve_pair(d, f, df, ad, af)
        a1, f1, settled1 = solve_pair(a, f, af, ad, df)
        a2, d2, settled2 = solve_pair(a, d, ad, af, df)
        w[i] = u[k] + (u[k + 1] * a1 + u[k + 2] * a2)
        w[j] = u[k + 1] + (u[k] * d0 + u[k + 2] * d2)
        w[h] = u[k + 2] + (u[k] * f0 + u[k + 1] * f1)
        status[b] = OPTIMAL if sound & settled0 & settled1 & settled2 else UNSETTLED


@entry_point(
    types.int64(
        MATRIX,
        VECTOR,
        VECTOR,
        STATUSES,
        types.float64,
        types.float64,
        MATRIX,
        STATUSES,
        COUNTS_32,
        VECTOR,
    )
)
def upgrad_small(G, u, w, status, tolerance, tiny, x, statuses, iterations, floats):
    """Write the UPGrad weights of B small Gramians, one below the other in G (B·K, K), to w (B·K).

    `u` (B·K) holds their preferences, or (K) that of all; `status` (B) becomes OPTIMAL or, where
    neither formulas nor tableaus settle the problem, UNSETTLED. Returns the worst. The last four
    arrays are work space: x (K, K), two of length K, and that of
    :func:`mojd.kernels.workspace.tableau_size`.
    """
    K, worst = G.shape[1], OPTIMAL
    if K == 2:
        upgrad_pairs(G, u, w, status, tolerance)
    elif K == 3:
        upgrad_triples(G, u, w, status, tolerance)
    else:
        for b in range(status.size):
            at = b * K
            k, own = at if u.size > K else 0, G[at : at + K]
            solve_rows(own, own, x, statuses, iterations, tolerance, tiny, floats)
            status[b] = add_projections(x, statuses, u[k : k + K], w[at : at + K])
    for b in range(status.size):
        worst = status[b] if status[b] > worst else worst
    return worst
