// Scale a Gramian by exact powers of two, and look for what makes it no Gramian at all.
#pragma once

#include "arithmetic.cuh"
#include "group.cuh"
#include "status.cuh"

namespace mojd {

// What is wrong with a row, worst first: what is not finite can't be judged by anything else.
__device__ inline int worse(int a, int b) {
    if (a == NONFINITE || b == NONFINITE) return NONFINITE;
    return a > b ? a : b;
}

// The scale of index i: a power of two that brings its diagonal entry into [1/2, 2); 1 for a zero row. The rows
// of G are `length` long, here and below.
template <class T>
__device__ double scale_of(const T* G, long long length, int i) {
    double diagonal = G[i * length + i];
    return diagonal > 0.0 && is_finite(diagonal) ? power_of_two_scale(diagonal) : 1.0;
}

// Computes entry (i, j) of D*G*D, where `own` and `other` are D_ii and D_jj; returns OPTIMAL or what is wrong.
//
// `tolerance` is how far |G_ij - G_ji| and |G_ij| may exceed what sqrt(G_ii*G_jj) allows, relative to it.
// `tiny` is the smallest square that the dtype of the caller resolves: entries beside a zero diagonal are
// underflow if their square is below `tiny` times the other diagonal.
template <class T>
__device__ int equilibrate_entry(const T* G, long long length, int i, int j, double own, double other,
                                 double tolerance, double tiny, double& entry) {
    double row = G[i * length + j], column = G[j * length + i];
    double square = G[i * length + i], across = G[j * length + j];
    entry = 0.0;
    if (!is_finite(row)) return NONFINITE;
    if (i == j) {
        entry = (square * own) * own;
        return square < 0.0 ? NEGATIVE_DIAGONAL : OPTIMAL;
    }
    if (square == 0.0 || across == 0.0) {
        double limit = sqrt(tiny * (square == 0.0 ? across : square));
        return fabs(row) > limit || fabs(column) > limit ? NOT_PSD : OPTIMAL;
    }
    double upper = (column * own) * other, lower = (row * own) * other;
    double bound = ((square * own) * own) * ((across * other) * other);
    entry = 0.5 * (upper + lower);
    if ((upper - lower) * (upper - lower) > tolerance * tolerance * bound) return ASYMMETRIC;
    if (entry * entry > (1.0 + tolerance) * (1.0 + tolerance) * bound) return NOT_PSD;
    return OPTIMAL;
}

// Writes D*G*D to A, whose rows are `stride` long, and the diagonal of D to `scale`.
template <class T, class Group>
__device__ int equilibrate(const Group& group, const T* G, long long length, int K, double* A, int stride,
                           double* scale, double tolerance, double tiny) {
    for (int i = group.rank; i < K; i += group.size) scale[i] = scale_of(G, length, i);
    group.sync();
    int code = OPTIMAL;
    for (int i = 0; i < K; i++) {
        for (int j = group.rank; j < K; j += group.size) {
            double entry;
            int found = equilibrate_entry(G, length, i, j, scale[i], scale[j], tolerance, tiny, entry);
            A[i * stride + j] = entry;
            code = worse(code, found);
        }
    }
    if (group.any(code == NONFINITE)) return NONFINITE;
    return static_cast<int>(group.maximum(code));
}

}  // namespace mojd
