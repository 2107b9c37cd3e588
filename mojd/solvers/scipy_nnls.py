r"""SciPy's nnls: the active set of Lawson and Hanson, on a factor of the Gramian.

With G = AᵀA and a linear term in the range of G, q = −Aᵀb, NNQP(G, q) is min ‖Ax − b‖ over x ≥ 0, which
is nnls's own problem. A linear term outside that range has no such b. Then the dual of NNQP(G, q),

    min ½‖y‖²  subject to  Aᵀy ≥ −q,

is a least distance problem, which Lawson and Hanson solve by one more nnls [1]_: min over u ≥ 0 of
‖Au‖² + (1 + qᵀu)². Let t be that minimum; u/t solves NNQP(G, q) if t > 0, and if t = 0, u is a ray along
which NNQP(G, q) is unbounded, since then Gu = 0 and qᵀu = −1. (It would serve for every q, but the
nnls of SciPy 1.17 returns wrong answers, without a word, on factors whose rows are dependent.)

References
----------
.. [1] C. L. Lawson, R. J. Hanson: Solving Least Squares Problems. SIAM, 1995, chapter 23.
"""

from __future__ import annotations

import numpy as np

from mojd._arrays import FloatArray
from mojd.kernels.status import INFEASIBLE, OPTIMAL
from mojd.solvers._registry import Solver, register
from mojd.solvers._rowwise import Answer, SolveOne, give_up, rowwise

_ITERATIONS_PER_COLUMN = 30  # SciPy's own limit is 3, which hard problems reach.


def _set_up(gramian: FloatArray) -> SolveOne:
    from scipy.optimize import nnls

    size = gramian.shape[0]
    max_iterations = _ITERATIONS_PER_COLUMN * size
    eigenvalues, eigenvectors = np.linalg.eigh(gramian)
    # A negative eigenvalue shows how far rounding has moved all of them, as in a float32 Gramian.
    noise = max(size * float(np.finfo(np.float64).eps) * eigenvalues[-1], -2 * eigenvalues[0])
    in_range = eigenvalues > noise
    if not in_range.any():
        return give_up
    roots = np.sqrt(eigenvalues[in_range])
    basis = eigenvectors[:, in_range]
    factor = roots[:, None] * basis.T

    def solve_in_range(coordinates: FloatArray) -> Answer:
        x, _ = nnls(factor, -coordinates / roots, maxiter=max_iterations)
        return Answer(x, OPTIMAL)

    def solve_by_least_distance(linear: FloatArray) -> Answer:
        target = np.zeros(roots.size + 1)
        target[-1] = -1.0
        x, distance = nnls(np.vstack([factor, linear]), target, maxiter=max_iterations)
        if distance**2 <= noise * (x @ x):
            return Answer(x, INFEASIBLE)
        return Answer(x / distance**2, OPTIMAL)

    def solve_one(linear: FloatArray) -> Answer:
        coordinates = basis.T @ linear
        outside = float(np.linalg.norm(linear - basis @ coordinates))
        preimage = float(np.linalg.norm(coordinates / roots**2))
        try:
            if outside <= 10 * noise * max(1.0, preimage):
                return solve_in_range(coordinates)
            return solve_by_least_distance(linear)
        except RuntimeError as error:
            if "Maximum number of iterations" not in str(error):
                raise
            return give_up(linear)

    return solve_one


register(
    Solver(
        name="scipy_nnls",
        solve=rowwise(_set_up),
        summary="SciPy's nnls (Lawson-Hanson active set) on an eigenvalue factor of the Gramian",
        kkt_tolerance=1e-12,
    )
)
