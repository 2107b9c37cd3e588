// Among equally good solutions of a rank-deficient problem, walk to one with small weights.
//
// If rows depend on each other, x is not unique although the direction is. A badly conditioned passive set
// with large weights then solves the problem in exact arithmetic only: rounding errors show as negative
// slack. Moving along null directions keeps the direction and lowers the sum of x, as the simplex method does
// on the face of optimal x.
#pragma once

#include "active_set.cuh"

namespace mojd {

// A null direction must lower the sum of x by this much per unit of x_j to be followed.
constexpr double GAIN = 1e-3;
// Slacks below this may belong to rows that depend on the passive ones.
constexpr double NEARLY_ACTIVE = 1e-6;

// The index whose null direction lowers the sum of x fastest, or -1; uses y, z and w.
template <class Group>
__device__ __noinline__ int cheapest(const Group& group, const Matrix& A, int m, const Workspace& work) {
    double *ones = work.z, *price = work.w;
    for (int i = group.rank; i < m; i += group.size) work.y[i] = -1.0;
    for (int i = group.rank; i < work.K; i += group.size) ones[i] = 1.0;
    group.sync();
    solve(group, work.U, m, work.y);
    slack(group, A, ones, work.passive, work.y, m, work.K, price);
    Least chosen{0.0, -1};
    for (int j = group.rank; j < work.K; j += group.size)
        if (work.state[j] == OUT && A(j, j) > 0.0 && work.s[j] < NEARLY_ACTIVE && price[j] < -GAIN)
            chosen.take(price[j], j);
    return group.least(chosen).index;
}

// Lowers the sum of x along null directions until none does, or K times; returns the new m. `work.s` is the
// slack of x, and stays.
template <class Group>
__device__ __noinline__ int shrink(const Group& group, const Matrix& A, int m, const Workspace& work,
                                   double rank_noise) {
    for (int step = 0; step < work.K; step++) {
        int j = cheapest(group, A, m, work);
        if (j < 0) break;
        double pivot = append(group, A, work.passive, m, j, work.U, work.w);
        if (group.rank == 0) work.state[j] = SET_ASIDE;
        group.sync();
        if (is_dependent(group, A(j, j), pivot, work.U, m, work.z, rank_noise))
            exchange(group, A, j, -infinity(), m, work, rank_noise);
    }
    for (int j = group.rank; j < work.K; j += group.size)
        if (work.state[j] == SET_ASIDE) work.state[j] = OUT;
    group.sync();
    return m;
}

}  // namespace mojd
