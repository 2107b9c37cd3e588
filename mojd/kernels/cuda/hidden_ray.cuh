// Find the ray behind a solution that is none.
//
// Where rows cancel only with weights of very different size, an index may seem to be independent that is
// not. What comes out as a solution then is a multiple of the ray, as long as rounding lets it be, with a
// slack that is as large as the linear term.
#pragma once

#include "general.cuh"

namespace mojd {

// The sum of x from which on a solution is looked at once more, and the slack that makes it none.
constexpr double LARGE = 1e6, NO_SOLUTION = 1e-2;
// A*z of a ray z whose entries sum to 1 is rounding below this.
constexpr double NULL_SLACK = 1e-12;

// Whether x = work.x[0 .. m) satisfies the KKT conditions at least roughly.
template <class Group>
__device__ bool is_solution(const Group& group, const Matrix& A, const double* q, int m,
                            const Workspace& work) {
    slack_of(group, A, q, m, work);
    double worst = 0.0;
    for (int j = group.rank; j < work.K; j += group.size) {
        double missed = work.dense[j] > 0.0 ? fabs(work.s[j]) : -work.s[j];
        worst = missed > worst ? missed : worst;
    }
    return group.maximum(worst) <= NO_SOLUTION;
}

// Replaces the solution work.x[0 .. m) of NNQP(A, q) by the ray behind it, if there is one; says whether.
//
// The ray minimises 0.5*z'Az + 0.5*(q'z + 1)^2 over z >= 0, a problem that always has a solution; z'Az is 0
// there if there is a ray at all. If there is none, `work` no longer holds the solution.
template <class Group>
__device__ bool finds_ray(const Group& group, const Matrix& A, const double* q, int& m, const Workspace& work,
                          double rank_noise) {
    Matrix raised = A;
    raised.rank_one = q;
    m = solve_equilibrated(group, raised, q, work, true, rank_noise).m;
    double total = 0.0, slope = 0.0, size = NOISE;
    for (int i = group.rank; i < m; i += group.size) total += work.x[i];
    total = group.sum(total);
    if (!(total > 0.0)) return false;
    group.sync();
    for (int i = group.rank; i < m; i += group.size) {
        work.x[i] /= total;
        slope += q[work.passive[i]] * work.x[i];
    }
    slope = group.sum(slope);
    group.sync();
    slack_of(group, A, q, m, work);
    for (int j = group.rank; j < work.K; j += group.size) {
        double product = fabs(work.s[j] - q[j]);
        size = product > size ? product : size;
    }
    size = group.maximum(size);
    return size <= NULL_SLACK && -slope > RAY * size;
}

}  // namespace mojd
