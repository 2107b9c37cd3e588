"""Entry point: solve NNQP(G, q) for one problem."""

from __future__ import annotations

import math

from numba import types

from mojd.kernels.closed_form import solve_small
from mojd.kernels.compiling import entry_point
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.factor import rank_noise, suspect_pivot
from mojd.kernels.hidden_ray import hidden_ray
from mojd.kernels.linear_term import answer_at_once, normalise_linear
from mojd.kernels.scalar import solve_equilibrated, solve_indefinite, write_solution
from mojd.kernels.signatures import COUNTS, MATRIX, VECTOR
from mojd.kernels.sizes import LARGEST_TABLEAU
from mojd.kernels.status import INFEASIBLE, MAX_ITER, NOT_PSD, OPTIMAL, UNSETTLED
from mojd.kernels.tableau import solve_tableau
from mojd.kernels.workspace import matrix, padded, tableau_arrays


@entry_point(
    types.int64(
        MATRIX, VECTOR, VECTOR, types.boolean, types.boolean, types.float64, types.float64, VECTOR, COUNTS
    )
)
def solve_one(G, q, x, closed_form, bounded, tolerance, tiny, floats, integers):
    """Solve one NNQP(G, q) and write x; return status + 256·iterations (or why G is refused).

    `bounded` promises that the problem has a minimiser. The last two arrays are work space of the
    sizes that :func:`mojd.kernels.workspace.scalar_sizes` gives.
    """
    K = q.size
    if closed_form and K <= 3 and solve_small(G, q, x, tolerance) == OPTIMAL:
        return OPTIMAL
    A, linear, _, S, y, work, scale, at = tableau_arrays(floats, K)
    code = equilibrate(G, A, scale, tolerance, tiny)
    if code != OPTIMAL:
        x[:] = math.nan
        return code
    magnitude = normalise_linear(q, scale, linear)
    code = answer_at_once(A, linear, magnitude, scale, x)
    if code != UNSETTLED:
        return code
    noise, iterations = rank_noise(tolerance), 0
    if closed_form and K <= 3:
        # Once more in numbers of ordinary size: exponents alone must not decide who solves.
        code = solve_small(A, linear[:K], x, tolerance)
    elif K <= LARGEST_TABLEAU:
        code, iterations = solve_tableau(A.reshape(A.size), linear, y, S, work, suspect_pivot(noise))
        for j in range(K):
            x[j] = y[j]
    if code == OPTIMAL:
        for j in range(K):
            x[j] *= scale[j] * magnitude
        return OPTIMAL + 256 * iterations
    general, _ = matrix(floats, at, K + 9, padded(K))
    indices = integers[: 2 * K + 2].reshape(2, K + 1)
    code, m, more = solve_equilibrated(A, linear, general, indices, bounded, noise)
    iterations += more
    if code == MAX_ITER:
        code, m, more = solve_indefinite(A, linear, general, indices, bounded, noise)
        iterations += more
    if code == NOT_PSD:
        x[:] = math.nan
        return code
    write_solution(general[0], integers, m, code, scale, magnitude, x)
    if code == OPTIMAL and not bounded:
        m = hidden_ray(G, A, scale, linear, x, magnitude, general, indices, tolerance, tiny)
        if m > 0:
            code = INFEASIBLE
            write_solution(general[0], integers, m, code, scale, magnitude, x)
    return code + 256 * iterations
