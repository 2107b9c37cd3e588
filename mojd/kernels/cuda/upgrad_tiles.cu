#pragma once
// UPGrad for K <= W: a tile for every Gramian, which projects one gradient after the other.
#include "staging.cuh"
#include "tiles.cuh"

namespace mojd {

// Writes weights w (B, K). With `status` (B), only where that is UNSETTLED. NaN where a Gramian is not
// finite, or is none.
template <class T, int W>
__global__ void __launch_bounds__(TILE_THREADS)
    upgrad_tiles(const T* G, const double* preference, long long preference_step, double uniform, T* w,
                 const signed char* status, long long count, int K, double tolerance, double tiny) {
    MOJD_SHARED(double, shared);
    Tile<W> tile;
    TileMemory<W> memory(shared + threadIdx.x / W * TileMemory<W>::numbers, K);
    Rows u{preference, preference_step, uniform};
    for_problems<W>(status, count, [&](long long b) {
        const T* own = G + b * K * K;
        int code =
            equilibrate(tile, own, K, K, memory.A, memory.stride, memory.scale, Tolerances{tolerance, tiny});
        double weight = code != OPTIMAL ? nan_value() : tile.rank < K ? u(b, tile.rank) : 0.0;
        for (int r = 0; r < K && code == OPTIMAL; r++) {
            solve_in_tile(tile, own + r * K, memory, Options{true, tolerance});
            if (tile.rank < K) weight += u(b, r) * memory.answer[tile.rank];
            tile.sync();
        }
        if (tile.rank < K) w[b * K + tile.rank] = weight;
    });
}

}  // namespace mojd
