"""Block principal pivoting: exchange every infeasible index at once.

The method of Júdice and Pires (Computers & OR 21, 1994) takes a handful of iterations whatever K
is, but may cycle, so it only runs while the number of infeasible indices keeps falling. It never
answers wrongly: it either ends in a point that satisfies the KKT conditions or gives up.
"""

from __future__ import annotations

import numpy as np

from mojd.kernels.compiling import inner
from mojd.kernels.factor import backward, extend, forward
from mojd.kernels.gradient import noise, slack

# How many iterations in a row may fail to lower the number of infeasible indices.
PATIENCE = 3


@inner
def keep_prefix(passive, m, state, K):
    """Reorder `passive` to the indices with a positive state, and return (kept, count).

    The longest prefix that stays keeps its place, and with it its rows of the factor; the other
    survivors follow and the new indices come last.
    """
    kept = 0
    while kept < m and state[passive[kept]] == 2:
        kept += 1
    count = kept
    for i in range(kept, m):
        if state[passive[i]] == 2:
            passive[count] = passive[i]
            count += 1
    # Without branches: which indices are new is as good as random.
    for j in range(K):
        new = state[j] == 1
        passive[count] = j
        state[j] = 2 if new else state[j]
        count += new
    return kept, count


@inner
def block_pivoting(A, q, s, y, forwarded, z, passive, state, U, inverse, rank_noise):
    """Look for the passive set by block exchanges, from the indices of state 1 on (0 elsewhere).

    All arrays but `A` and `q` are work space, modified in place. On return passive[:m] is the
    passive set with its factor, y[:m] the minimiser on it (which may have negative entries if the
    method gave up), s the slack, and state[j] = 2 exactly for passive j.

    Returns (solved, m, iterations).
    """
    K = q.size
    m, best, patience, iterations = np.int64(0), K + 1, PATIENCE, 0
    while True:
        iterations += 1
        kept, count = keep_prefix(passive, m, state, K)
        m = extend(A, passive, kept, count, state, U, inverse, z, rank_noise)
        for i in range(kept, m):
            forwarded[i] = -q[passive[i]]
        forward(U, inverse, m, forwarded, kept)
        for i in range(m):
            y[i] = forwarded[i]
        backward(U, inverse, m, y)
        slack(A, q, passive, y, m, s)
        threshold = -noise(y, m)
        infeasible = 0
        for i in range(m):
            s[passive[i]] = 0.0
            infeasible += y[i] < threshold
        for j in range(K):
            infeasible += s[j] < threshold
        if infeasible == 0:
            return True, m, iterations
        if infeasible < best:
            best, patience = infeasible, PATIENCE
        else:
            patience -= 1
            if patience < 0:
                return False, m, iterations
        for i in range(m):
            state[passive[i]] = 0 if y[i] < threshold else 2
        for j in range(K):
            state[j] = 1 if s[j] < threshold else state[j]
