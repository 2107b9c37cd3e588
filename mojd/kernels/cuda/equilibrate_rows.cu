#pragma once
// Equilibrate Gramians that are too large for a tile: a warp for every row.
#include "equilibrate.cuh"

namespace mojd {

// Writes A = D*G*D (B, K, K), the diagonals of D (B, K), and what is wrong with each row (B, K).
template <class T>
__global__ void equilibrate_rows(const T* G, double* A, double* scale, signed char* codes, long long count,
                                 int K, double tolerance, double tiny) {
    Tile<32> tile;
    const Tolerances allowed{tolerance, tiny};
    const long long length = K;
    const long long step = static_cast<long long>(gridDim.x) * (blockDim.x / 32);
    for (long long t = static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
         t < count * K; t += step) {
        const T* own = G + t / K * K * K;
        int i = t % K;
        Diagonal row{widen(own[i * (K + 1LL)]), scale_of(own, K, i)};
        int code = examine_diagonal(row.square);
#pragma unroll 2
        for (int j = tile.rank; j < K; j += 32) {
            double entry = (row.square * row.scale) * row.scale;
            if (i != j) {
                Diagonal across{widen(own[j * (K + 1LL)]), scale_of(own, K, j)};
                double right = widen(own[i * length + j]), below = widen(own[j * length + i]);
                code = worse(code, equilibrate_entry(right, below, row, across, allowed, entry));
            }
            A[t * K + j] = entry;
        }
        bool finite = !tile.any(code == NONFINITE);
        code = static_cast<int>(tile.maximum(code));
        if (tile.rank == 0) {
            scale[t] = row.scale;
            codes[t] = finite ? code : NONFINITE;
        }
    }
}

}  // namespace mojd
