#pragma once
// Equilibrate Gramians that are too large for a tile: a warp for every row.
#include "equilibrate.cuh"

namespace mojd {

// Writes A = D*G*D (B, K, K), the diagonals of D (B, K), and what is wrong with each row (B, K).
template <class T>
__global__ void equilibrate_rows(const T* G, double* A, double* scale, signed char* codes, long long count,
                                 int K, double tolerance, double tiny) {
    Tile<32> tile;
    const long long step = static_cast<long long>(gridDim.x) * (blockDim.x / 32);
    for (long long t = static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
         t < count * K; t += step) {
        const T* own = G + t / K * K * K;
        int i = t % K, code = OPTIMAL;
        double row_scale = scale_of(own, K, i);
        for (int j = tile.rank; j < K; j += 32) {
            double entry;
            int found =
                equilibrate_entry(own, K, i, j, row_scale, scale_of(own, K, j), tolerance, tiny, entry);
            A[t * K + j] = entry;
            code = worse(code, found);
        }
        bool finite = !tile.any(code == NONFINITE);
        code = static_cast<int>(tile.maximum(code));
        if (tile.rank == 0) {
            scale[t] = row_scale;
            codes[t] = finite ? code : NONFINITE;
        }
    }
}

}  // namespace mojd
