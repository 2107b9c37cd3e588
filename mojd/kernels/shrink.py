"""Among equally good solutions of a rank-deficient problem, walk to one with small weights.

If rows depend on each other, x is not unique although the direction is. A badly conditioned
passive set with large weights then solves the problem in exact arithmetic only: rounding errors
show as negative slack. Moving along null directions keeps the direction Jᵀx and lowers Σx, as the
simplex method does on the face of optimal x.
"""

from __future__ import annotations

import math

from mojd.kernels.active_set import OUT, SET_ASIDE, exchange
from mojd.kernels.compiling import inner
from mojd.kernels.factor import append, is_dependent, solve
from mojd.kernels.gradient import slack

# A null direction must lower Σx by this much per unit of x_j to be followed.
GAIN = 1e-3
# Slacks below this may belong to rows that depend on the passive ones.
NEARLY_ACTIVE = 1e-6


@inner
def cheapest(A, passive, m, state, s, U, inverse, y, price, ones):
    """Return the index whose null direction lowers Σx fastest, or −1.

    The last three arrays are work space.
    """
    y[:m] = -1.0
    solve(U, inverse, m, y)
    ones[:] = 1.0
    slack(A, ones, passive, y, m, price)
    chosen, lowest = -1, -GAIN
    for j in range(price.size):
        if state[j] == OUT and A[j, j] > 0.0 and s[j] < NEARLY_ACTIVE and price[j] < lowest:
            chosen, lowest = j, price[j]
    return chosen


@inner
def shrink(A, s, x, y, z, w, passive, m, state, U, inverse, rank_noise):
    """Lower Σx along null directions until none does, or K times; return the new m.

    `s` is the slack of x[:m] on passive[:m]; all arrays but `A` and `s` are modified in place.
    """
    for _ in range(s.size):
        j = cheapest(A, passive, m, state, s, U, inverse, y, w, z)
        if j < 0:
            break
        append(A, passive, m, j, U, inverse, w)
        state[j] = SET_ASIDE
        if is_dependent(A, j, U, inverse, m, z, rank_noise):
            _, m = exchange(A, j, -math.inf, passive, m, state, x, z, U, inverse, w, rank_noise)
    for j in range(s.size):
        if state[j] == SET_ASIDE:
            state[j] = OUT
    return m
