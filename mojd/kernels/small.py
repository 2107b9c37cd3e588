"""All right-hand sides of one small Gramian, by tableaus."""

from __future__ import annotations

import math

from mojd.kernels.compiling import inner
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.factor import rank_noise, suspect_pivot
from mojd.kernels.linear_term import answer_at_once, normalise_linear
from mojd.kernels.status import OPTIMAL, UNSETTLED
from mojd.kernels.tableau import solve_tableau
from mojd.kernels.workspace import tableau_arrays


@inner
def solve_row(A, scale, q, x, linear, S, y, work, suspect):
    """Solve NNQP(G, q) for the A = D·G·D and D of :func:`equilibrate`; write x.

    The last five arguments are those of :func:`solve_tableau`. Returns (status, pivots).
    """
    magnitude = normalise_linear(q, scale, linear)
    status, pivots = answer_at_once(A, linear, magnitude, scale, x), 0
    if status != UNSETTLED:
        return status, pivots
    status, pivots = solve_tableau(A.reshape(A.size), linear, y, S, work, suspect)
    for j in range(x.size):
        x[j] = y[j] * scale[j] * magnitude
    return status, pivots


@inner
def solve_rows(G, linear, x, status, iterations, tolerance, tiny, floats):
    """Solve NNQP(G, linear[r]) for all r by tableaus; what they give up on is UNSETTLED.

    `floats` is work space; see :func:`mojd.kernels.workspace.tableau_size`.
    """
    A, term, _, S, y, work, scale, _ = tableau_arrays(floats, G.shape[0])
    code = equilibrate(G, A, scale, tolerance, tiny)
    suspect = suspect_pivot(rank_noise(tolerance))
    for r in range(linear.shape[0]):
        if code == OPTIMAL:
            status[r], iterations[r] = solve_row(A, scale, linear[r], x[r], term, S, y, work, suspect)
        else:
            status[r], iterations[r] = code, 0
            x[r, :] = math.nan
