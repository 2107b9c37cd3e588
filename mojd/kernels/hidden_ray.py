"""Find the ray behind a solution that is none.

Where rows cancel only with weights of very different size, an index may seem to be independent that is
not. What comes out as a solution then is a multiple of the ray, as long as rounding lets it be, with a
slack that is as large as the linear term.
"""

from __future__ import annotations

from mojd.kernels.active_set import RAY
from mojd.kernels.compiling import inner
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.factor import rank_noise
from mojd.kernels.gradient import NOISE, accurate_slack
from mojd.kernels.scalar import solve_equilibrated

# Σx from which on a solution is looked at once more, and the slack that makes it none, for max|q| = 1.
LARGE, NO_SOLUTION = 1e6, 1e-2
# A·z of a ray z with Σz = 1 is rounding below this.
NULL = 1e-12


@inner
def is_solution(A, q, dense, s):
    """Whether x, in its full length, satisfies the KKT conditions at least roughly; modifies s."""
    K = A.shape[0]
    accurate_slack(A.reshape(A.size), q, dense, s, K)
    worst = 0.0
    for j in range(K):
        missed = abs(s[j]) if dense[j] > 0.0 else -s[j]
        worst = missed if missed > worst else worst
    return worst <= NO_SOLUTION


@inner
def hidden_ray(G, A, scale, q, x, magnitude, floats, integers, tolerance, tiny):
    """Return m if there is a ray behind the solution x, then in floats[0, :m]; otherwise 0.

    The ray minimises ½zᵀAz + ½(qᵀz + 1)² over z ≥ 0, a problem that always has a solution; zᵀAz is 0 there
    if there is a ray at all. `A` and `scale` are those of :func:`equilibrate`, or what became of them, and
    modified; so are `floats` and `integers`, as by :func:`solve_equilibrated`.
    """
    K, z, s, dense = A.shape[0], floats[0], floats[7], floats[8]
    passive = integers[0]
    dense[:] = 0.0
    total = 0.0
    for j in range(K):
        dense[j] = x[j] / (scale[j] * magnitude)
        total += dense[j]
    # Nearly every solution ends here.
    if total < LARGE:
        return 0
    equilibrate(G, A, scale, tolerance, tiny)
    if is_solution(A, q, dense, s):
        return 0
    for i in range(K):
        for j in range(K):
            A[i, j] += q[i] * q[j]
    _, m, _ = solve_equilibrated(A, q, floats, integers, True, rank_noise(tolerance))
    equilibrate(G, A, scale, tolerance, tiny)
    dense[:] = 0.0
    total, slope, size = 0.0, 0.0, NOISE
    for i in range(m):
        total += z[i]
    if not total > 0.0:
        return 0
    for i in range(m):
        z[i] /= total
        dense[passive[i]] = z[i]
        slope += q[passive[i]] * z[i]
    accurate_slack(A.reshape(A.size), q, dense, s, K)
    for j in range(K):
        size = abs(s[j] - q[j]) if abs(s[j] - q[j]) > size else size
    return m if size <= NULL and -slope > RAY * size else 0
