"""Solve one equilibrated problem: a guess, block pivoting, the active set behind it, refinement."""

from __future__ import annotations

from mojd.kernels.active_set import OUT, active_set, drop
from mojd.kernels.block_pivoting import block_pivoting
from mojd.kernels.compiling import inner
from mojd.kernels.factor import REFINE_PIVOT, append, is_dependent, solve
from mojd.kernels.gradient import NOISE, VIOLATION, accurate_slack, noise
from mojd.kernels.guess import guess
from mojd.kernels.shrink import shrink
from mojd.kernels.status import INFEASIBLE, MAX_ITER, NOT_PSD, OPTIMAL

# Most steps of refinement; each gains at least a digit on what passes the rank test.
STEPS = 8
# A change below this part of the largest entry is rounding.
ROUNDING = 2.0**-54
# A slack below this, relative to its terms, is no solution.
GROSS = 1e-6
# How often refinement may send an index out of the passive set.
ATTEMPTS = 4


@inner
def slack_of(A, q, passive, m, x, dense, s):
    """Write the slack of x[:m] to s, accurately; `dense` gets x in its full length."""
    dense[:] = 0.0
    for i in range(m):
        dense[passive[i]] = x[i]
    accurate_slack(A.reshape(A.size), q, dense, s, A.shape[0])


@inner
def refine(A, q, passive, m, x, U, inverse, r, dense, s):
    """Refine x with residuals in double-double, until that changes nothing any more."""
    for _ in range(STEPS):
        slack_of(A, q, passive, m, x, dense, s)
        for i in range(m):
            r[i] = -s[passive[i]]
        solve(U, inverse, m, r)
        largest, change = 0.0, 0.0
        for i in range(m):
            x[i] += r[i]
            largest = abs(x[i]) if abs(x[i]) > largest else largest
            change = abs(r[i]) if abs(r[i]) > change else change
        if not change > ROUNDING * largest:
            break


@inner
def clip(x, m):
    """Set what rounding made negative to 0."""
    for i in range(m):
        x[i] = x[i] if x[i] > 0.0 else 0.0


@inner
def drop_below(least, passive, m, state, x, U, inverse, w):
    """Take the indices with x ≤ least out of the passive set; return the new size."""
    for i in range(m - 1, -1, -1):
        if x[i] <= least:
            m = drop(i, passive, m, state, x, U, inverse, w)
    return m


@inner
def refactor(A, passive, m, state, x, U, inverse, v, z, noise):
    """Factor the passive block afresh, as every exchange has left rounding errors; return its size.

    Indices that turn out to depend on those before them leave the passive set.
    """
    kept = 0
    for i in range(m):
        j = passive[i]
        append(A, passive, kept, j, U, inverse, v)
        if is_dependent(A, j, U, inverse, kept, z, noise):
            state[j] = OUT
        else:
            passive[kept], x[kept] = j, x[i]
            kept += 1
    return kept


@inner
def worst_slack(A, q, passive, m, x, dense, s):
    """Write the slack of x to s and return its smallest entry outside of the passive set."""
    slack_of(A, q, passive, m, x, dense, s)
    for i in range(m):
        s[passive[i]] = 0.0
    worst = 0.0
    for j in range(A.shape[0]):
        worst = s[j] if s[j] < worst else worst
    return worst


@inner
def is_well_conditioned(A, passive, m, U):
    """Whether no pivot of the passive block is small."""
    for i in range(m):
        if U[i, i] < REFINE_PIVOT * A[passive[i], passive[i]]:
            return False
    return True


@inner
def solve_equilibrated(A, q, floats, integers, bounded, rank_noise):
    """Solve NNQP(A, q) for A with its diagonal in [½, 2) ∪ {0}, max|q| about 1, q_j ≥ 0 where A_jj = 0.

    The rows of A, q and of `floats` (K + 9 of them) are padded to whole vectors, with 0 in A and q.
    `rank_noise` is what rounding can do to an entry of A; see :func:`mojd.kernels.factor.null_noise`.
    `floats` and `integers` (2, K + 1) are work space, modified in place. Returns (status, m,
    iterations); the solution (or ray) is floats[0, :m] at indices integers[0, :m]. MAX_ITER means that
    there is none, which a positive semi-definite A excludes.
    """
    K, padded, slack, dense = A.shape[0], q, floats[7], floats[8]
    q, s, w, z = padded[:K], slack[:K], floats[4, :K], floats[3, :K]
    x, y, forwarded, inverse, U = floats[0], floats[1], floats[5], floats[6], floats[9:]
    passive, state = integers[0], integers[1]
    guess(A.reshape(A.size), padded, dense, slack, K)
    for j in range(K):
        state[j] = 1 if dense[j] > 0.0 else 0
    solved, m, iterations = block_pivoting(A, q, s, x, forwarded, z, passive, state, U, inverse, rank_noise)
    if solved and is_well_conditioned(A, passive, m, U):
        clip(x, m)
        return OPTIMAL, m, iterations
    if not solved:
        m = drop_below(0.0, passive, m, state, x, U, inverse, w)
    for attempt in range(ATTEMPTS):
        if attempt > 0 or not solved:
            status, m, more = active_set(
                A, q, s, x, y, z, w, passive, m, state, U, inverse, bounded, rank_noise, 20 * K + 100
            )
            iterations += more
            if status != OPTIMAL:
                return status, m, iterations
        kept = (
            m if solved and attempt == 0 else refactor(A, passive, m, state, x, U, inverse, w, z, rank_noise)
        )
        refine(A, padded, passive, kept, x, U, inverse, y, dense, slack)
        # An index that the refined x wants out was let in by rounding errors: go on without it.
        kept = drop_below(-noise(x, kept), passive, kept, state, x, U, inverse, w)
        if kept == m:
            break
        m = kept
    clip(x, m)
    worst = worst_slack(A, padded, passive, m, x, dense, slack)
    if worst < -VIOLATION:
        m = shrink(A, s, x, y, z, w, passive, m, state, U, inverse, rank_noise)
        refine(A, padded, passive, m, x, U, inverse, y, dense, slack)
        clip(x, m)
        worst = worst_slack(A, padded, passive, m, x, dense, slack)
    limit = 100.0 * rank_noise if 100.0 * rank_noise > GROSS else GROSS
    return OPTIMAL if worst * NOISE >= -limit * noise(x, m) else MAX_ITER, m, iterations


@inner
def solve_indefinite(A, q, floats, integers, bounded, rank_noise):
    """Solve what rounding, or worse, has made indefinite; modifies A. See :func:`solve_equilibrated`.

    The diagonal is raised by what rounding can explain, first of an entry, then of K of them. If that
    does not help, it is no Gramian.
    """
    K, raised = A.shape[0], 0.0
    for shift in (rank_noise, K * rank_noise):
        for j in range(K):
            A[j, j] *= (1.0 + shift) / (1.0 + raised)
        raised = shift
        status, m, iterations = solve_equilibrated(A, q, floats, integers, bounded, rank_noise)
        if status != MAX_ITER:
            return status, m, iterations
    return NOT_PSD, 0, iterations


@inner
def write_solution(solution, passive, m, status, scale, magnitude, x):
    """Write the solution (or, with its length left as it is, the ray) in the caller's units."""
    x[:] = 0.0
    for i in range(m):
        j = passive[i]
        x[j] = solution[i] * scale[j] * (magnitude if status != INFEASIBLE else 1.0)
