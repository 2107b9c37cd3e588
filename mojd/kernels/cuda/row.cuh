// One right-hand side of an equilibrated Gramian, by whatever it takes.
#pragma once

#include "closed_form.cuh"
#include "hidden_ray.cuh"
#include "linear_term.cuh"
#include "tableau.cuh"

namespace mojd {

// Writes work.x[0 .. m) to x in its full length, in units of `magnitude`, in those of the caller.
template <class Group>
__device__ void write_solution(const Group& group, const Workspace& work, int m, const double* scale,
                               double magnitude, double* x) {
    for (int j = group.rank; j < work.K; j += group.size) x[j] = 0.0;
    group.sync();
    for (int i = group.rank; i < m; i += group.size) {
        int j = work.passive[i];
        x[j] = work.x[i] * scale[j] * magnitude;
    }
    group.sync();
}

template <class Group>
__device__ void fill(const Group& group, double* x, int K, double value) {
    for (int j = group.rank; j < K; j += group.size) x[j] = value;
    group.sync();
}

// Solves NNQP(A, q) for max|q| about 1 by the general solver, and writes x in the caller's units.
template <class Group>
__device__ __noinline__ Found solve_general(const Group& group, const Matrix& A, const double* q,
                                            double magnitude, const double* scale, const Workspace& work,
                                            bool bounded, double rank_noise, double* x) {
    Found found = solve_equilibrated(group, A, q, work, bounded, rank_noise);
    if (found.status == MAX_ITER) {
        int before = found.iterations;
        found = solve_indefinite(group, A, q, work, bounded, rank_noise);
        found.iterations += before;
    }
    if (found.status == NOT_PSD) {
        fill(group, x, work.K, nan_value());
        return found;
    }
    write_solution(group, work, found.m, scale, found.status == INFEASIBLE ? 1.0 : magnitude, x);
    if (found.status != OPTIMAL || bounded) return found;
    double total = 0.0;
    for (int i = group.rank; i < found.m; i += group.size) total += work.x[i];
    // Nearly every solution ends here.
    if (group.sum(total) < LARGE || is_solution(group, A, q, found.m, work)) return found;
    int m = 0;
    if (finds_ray(group, A, q, m, work, rank_noise)) {
        found.status = INFEASIBLE;
        write_solution(group, work, m, scale, 1.0, x);
    }
    return found;
}

}  // namespace mojd
