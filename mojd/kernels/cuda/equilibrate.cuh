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

// The scale of index i: a power of two that brings its diagonal entry into [1/2, 2); 1 for a zero row. The
// rows of G are `length` long, here and below.
template <class T>
__device__ double scale_of(const T* G, long long length, int i) {
    double diagonal = widen(G[i * length + i]);
    return diagonal > 0.0 && is_finite(diagonal) ? power_of_two_scale(diagonal) : 1.0;
}

// How far rounding may take a Gramian from one.
struct Tolerances {
    // How far |G_ij - G_ji| and |G_ij| may exceed what sqrt(G_ii*G_jj) allows, relative to it.
    double tolerance;
    // The smallest square that the dtype of the caller resolves: entries beside a zero diagonal are underflow
    // if their square is below `tiny` times the other diagonal.
    double tiny;
};

// One diagonal entry of G, and the scale that goes with it.
struct Diagonal {
    double square, scale;
};

// Computes an entry off the diagonal of D*G*D from G_ij and G_ji; returns OPTIMAL or what is wrong.
__device__ inline int equilibrate_entry(double row, double column, Diagonal own, Diagonal across,
                                        Tolerances allowed, double& entry) {
    entry = 0.0;
    if (!is_finite(row)) return NONFINITE;
    if (own.square == 0.0 || across.square == 0.0) {
        double limit = sqrt(allowed.tiny * (own.square == 0.0 ? across.square : own.square));
        return fabs(row) > limit || fabs(column) > limit ? NOT_PSD : OPTIMAL;
    }
    double upper = (column * own.scale) * across.scale, lower = (row * own.scale) * across.scale;
    double bound = ((own.square * own.scale) * own.scale) * ((across.square * across.scale) * across.scale);
    double relaxed = (1.0 + allowed.tolerance) * (1.0 + allowed.tolerance) * bound;
    entry = 0.5 * (upper + lower);
    if ((upper - lower) * (upper - lower) > allowed.tolerance * allowed.tolerance * bound) return ASYMMETRIC;
    return entry * entry > relaxed ? NOT_PSD : OPTIMAL;
}

// What is wrong with a diagonal entry.
__device__ inline int examine_diagonal(double square) {
    return !is_finite(square) ? NONFINITE : square < 0.0 ? NEGATIVE_DIAGONAL : OPTIMAL;
}

// Writes D*G*D to A, whose rows are `stride` long, and the diagonal of D to `scale`. For K <= W.
template <class T, int W>
__device__ int equilibrate(const Tile<W>& tile, const T* G, long long length, int K, double* A, int stride,
                           double* scale, Tolerances allowed) {
    // Rows whose entries are on their way at the same time.
    constexpr int ahead = W < 8 ? W : 8;
    const int j = tile.rank;
    Diagonal across{1.0, 1.0};
    if (j < K) {
        across = Diagonal{widen(G[j * length + j]), scale_of(G, length, j)};
        scale[j] = across.scale;
        A[j * stride + j] = across.square;
    }
    int code = j < K ? examine_diagonal(across.square) : OPTIMAL;
    tile.sync();
    for (int first = 0; first < K; first += ahead) {
        double rows[ahead], columns[ahead];
#pragma unroll
        for (int r = 0; r < ahead; r++) {
            bool used = first + r < K && j < K;
            rows[r] = used ? widen(G[(first + r) * length + j]) : 0.0;
            columns[r] = used ? widen(G[j * length + first + r]) : 0.0;
        }
#pragma unroll
        for (int r = 0; r < ahead; r++) {
            int i = first + r;
            if (i >= K || i == j || j >= K) continue;
            double entry;
            Diagonal own{A[i * stride + i], scale[i]};
            code = worse(code, equilibrate_entry(rows[r], columns[r], own, across, allowed, entry));
            A[i * stride + j] = entry;
        }
    }
    tile.sync();
    if (j < K) A[j * stride + j] = (across.square * across.scale) * across.scale;
    if (tile.any(code == NONFINITE)) return NONFINITE;
    return static_cast<int>(tile.maximum(code));
}

}  // namespace mojd
