// Solve one equilibrated problem: a guess, block pivoting, the active set behind it, refinement.
#pragma once

#include "active_set.cuh"
#include "block_pivoting.cuh"
#include "guess.cuh"
#include "shrink.cuh"

namespace mojd {

// Most steps of refinement; each gains at least a digit on what passes the rank test.
constexpr int STEPS = 8;
// A change below this part of the largest entry is rounding.
constexpr double NO_CHANGE = ROUNDOFF / 2;
// A slack below this, relative to its terms, is no solution.
constexpr double GROSS = 1e-6;
// How often refinement may send an index out of the passive set.
constexpr int ATTEMPTS = 4;

// Writes the slack of x[0 .. m) to s, accurately; `dense` gets x in its full length.
template <class Group>
__device__ __noinline__ void slack_of(const Group& group, const Matrix& A, const double* q, int m,
                                      const Workspace& work) {
    for (int j = group.rank; j < work.K; j += group.size) work.dense[j] = 0.0;
    group.sync();
    for (int i = group.rank; i < m; i += group.size) work.dense[work.passive[i]] = work.x[i];
    group.sync();
    accurate_slack(group, A, q, work.dense, work.K, work.s);
}

// Refines x with residuals in twice the working precision, until that changes nothing any more.
template <class Group>
__device__ __noinline__ void refine(const Group& group, const Matrix& A, const double* q, int m,
                                    const Workspace& work) {
    for (int step = 0; step < STEPS; step++) {
        slack_of(group, A, q, m, work);
        for (int i = group.rank; i < m; i += group.size) work.y[i] = -work.s[work.passive[i]];
        group.sync();
        solve(group, work.U, m, work.y);
        double largest = 0.0, change = 0.0;
        for (int i = group.rank; i < m; i += group.size) {
            double value = work.x[i] + work.y[i];
            work.x[i] = value;
            largest = fabs(value) > largest ? fabs(value) : largest;
            change = fabs(work.y[i]) > change ? fabs(work.y[i]) : change;
        }
        largest = group.maximum(largest);
        change = group.maximum(change);
        group.sync();
        if (!(change > NO_CHANGE * largest)) return;
    }
}

// Sets what rounding made negative to 0.
template <class Group>
__device__ void clip(const Group& group, double* x, int m) {
    for (int i = group.rank; i < m; i += group.size) x[i] = x[i] > 0.0 ? x[i] : 0.0;
    group.sync();
}

// Takes the indices with x <= least out of the passive set; returns the new size.
template <class Group>
__device__ int drop_below(const Group& group, double least, int m, const Workspace& work) {
    for (int i = m - 1; i >= 0; i--)
        if (work.x[i] <= least) m = drop(group, i, m, work);
    return m;
}

// Factors the passive block afresh, as every exchange has left rounding errors; returns its size. Indices
// that turn out to depend on those before them leave the passive set.
template <class Group>
__device__ __noinline__ int refactor(const Group& group, const Matrix& A, int m, const Workspace& work,
                                     double noise) {
    int kept = 0;
    for (int i = 0; i < m; i++) {
        int j = work.passive[i];
        double x = work.x[i], pivot = append(group, A, work.passive, kept, j, work.U, work.w);
        if (is_dependent(group, A(j, j), pivot, work.U, kept, work.z, noise)) {
            if (group.rank == 0) work.state[j] = OUT;
        } else {
            group.sync();
            if (group.rank == 0) {
                work.passive[kept] = j;
                work.x[kept] = x;
            }
            kept++;
        }
        group.sync();
    }
    return kept;
}

// Writes the slack of x to s and returns its smallest entry outside of the passive set, or 0.
template <class Group>
__device__ double worst_slack(const Group& group, const Matrix& A, const double* q, int m,
                              const Workspace& work) {
    slack_of(group, A, q, m, work);
    for (int i = group.rank; i < m; i += group.size) work.s[work.passive[i]] = 0.0;
    group.sync();
    double worst = 0.0;
    for (int j = group.rank; j < work.K; j += group.size) worst = -work.s[j] > worst ? -work.s[j] : worst;
    return -group.maximum(worst);
}

// Whether no pivot of the passive block is small.
template <class Group>
__device__ bool is_well_conditioned(const Group& group, const Matrix& A, int m, const Workspace& work) {
    bool small = false;
    for (int i = group.rank; i < m; i += group.size)
        small = small || work.U(i, i) < REFINE_PIVOT * A(work.passive[i], work.passive[i]);
    return !group.any(small);
}

// Solves NNQP(A, q) for A with its diagonal in [1/2, 2) or 0, max|q| about 1, q_j >= 0 where A_jj = 0.
//
// `rank_noise` is what rounding can do to an entry of A; see null_noise. The solution (or ray) is
// work.x[0 .. m) at indices work.passive[0 .. m). MAX_ITER means that there is none, which a positive
// semi-definite A excludes.
template <class Group>
__device__ __noinline__ Found solve_equilibrated(const Group& group, const Matrix& A, const double* q,
                                                 const Workspace& work, bool bounded, double rank_noise) {
    guess(group, A, q, work.K, work.dense, work.s);
    for (int j = group.rank; j < work.K; j += group.size) work.state[j] = work.dense[j] > 0.0 ? JOINING : OUT;
    group.sync();
    Pivoted pivoted = block_pivoting(group, A, q, work.K, work.s, work.x, work.forwarded, work.z,
                                     work.passive, work.state, work.U, rank_noise);
    int m = pivoted.m, iterations = pivoted.iterations;
    if (pivoted.solved && is_well_conditioned(group, A, m, work)) {
        clip(group, work.x, m);
        return Found{OPTIMAL, m, iterations};
    }
    if (!pivoted.solved) m = drop_below(group, 0.0, m, work);
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        bool fresh = pivoted.solved && attempt == 0;
        if (!fresh) {
            Found found = active_set(group, A, q, m, work, bounded, rank_noise, 20 * work.K + 100);
            iterations += found.iterations;
            m = found.m;
            if (found.status != OPTIMAL) return Found{found.status, m, iterations};
        }
        int kept = fresh ? m : refactor(group, A, m, work, rank_noise);
        refine(group, A, q, kept, work);
        // An index that the refined x wants out was let in by rounding errors: go on without it.
        kept = drop_below(group, -noise(group, work.x, kept), kept, work);
        bool done = kept == m;
        m = kept;
        if (done) break;
    }
    clip(group, work.x, m);
    double worst = worst_slack(group, A, q, m, work);
    if (worst < -VIOLATION) {
        m = shrink(group, A, m, work, rank_noise);
        refine(group, A, q, m, work);
        clip(group, work.x, m);
        worst = worst_slack(group, A, q, m, work);
    }
    double limit = 100.0 * rank_noise > GROSS ? 100.0 * rank_noise : GROSS;
    bool solved = worst * NOISE >= -limit * noise(group, work.x, m);
    return Found{solved ? OPTIMAL : MAX_ITER, m, iterations};
}

// Solves what rounding, or worse, has made indefinite: see solve_equilibrated. The diagonal is raised by what
// rounding can explain, first of an entry, then of K of them. If that does not help, it is no Gramian.
template <class Group>
__device__ Found solve_indefinite(const Group& group, Matrix A, const double* q, const Workspace& work,
                                  bool bounded, double rank_noise) {
    Found found{NOT_PSD, 0, 0};
    for (int trial = 0; trial < 2; trial++) {
        A.diagonal_factor = 1.0 + (trial == 0 ? rank_noise : work.K * rank_noise);
        found = solve_equilibrated(group, A, q, work, bounded, rank_noise);
        if (found.status != MAX_ITER) return found;
    }
    return Found{NOT_PSD, 0, found.iterations};
}

}  // namespace mojd
