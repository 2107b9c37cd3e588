// The slack s = A*x + q of a sparse x, and the rounding error that it carries.
#pragma once

#include "arithmetic.cuh"
#include "group.cuh"
#include "matrix.cuh"

namespace mojd {

constexpr double ROUNDOFF = 1.0 / 9007199254740992.0;
// s is a sum of products of numbers below 2 with x: it is noise below NOISE*(1 + sum x).
constexpr double NOISE = 16 * ROUNDOFF;
// A slack below -VIOLATION, for max|q| = 1, means that the passive set was a poor choice.
constexpr double VIOLATION = 1e-14;

// Writes s = q + sum over i < m of y[i]*A[passive[i], :].
template <class Group>
__device__ __noinline__ void slack(const Group& group, const Matrix& A, const double* q, const int* passive,
                                   const double* y, int m, int K, double* s) {
    for (int j = group.rank; j < K; j += group.size) {
        double total = q[j];
#pragma unroll 4
        for (int i = 0; i < m; i++) total += y[i] * A(passive[i], j);
        s[j] = total;
    }
    group.sync();
}

// The size below which entries of x and s are rounding errors.
template <class Group>
__device__ double noise(const Group& group, const double* y, int m) {
    double total = 0.0;
    for (int i = group.rank; i < m; i += group.size) total += fabs(y[i]);
    return NOISE * (1.0 + group.sum(total));
}

// Writes s = q + A*x, accumulated with twice the working precision.
//
// It turns one step of iterative refinement into an almost correctly rounded solution, however
// ill-conditioned the passive block is.
template <class Group>
__device__ __noinline__ void accurate_slack(const Group& group, const Matrix& A, const double* q,
                                            const double* x, int K, double* s) {
    for (int j = group.rank; j < K; j += group.size) {
        Pair sum{q[j], 0.0};
        for (int i = 0; i < K; i++)
            if (x[i] != 0.0) sum.add_product(A(i, j), x[i]);
        s[j] = sum.value();
    }
    group.sync();
}

}  // namespace mojd
