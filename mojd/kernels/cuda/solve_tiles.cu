#pragma once
// Solve NNQP(G, q) for K <= W: a tile for every right-hand side.
#include "tiles.cuh"

namespace mojd {

// Writes x, status and iterations (B, R) for G (B, K, K) and q (B, R, K). With `unsettled_only`, problems
// whose status is anything but UNSETTLED are left alone.
template <class T, int W>
__global__ void __launch_bounds__(TILE_THREADS)
    solve_tiles(const T* G, const T* q, double* x, signed char* status, int* iterations, long long count,
                long long rows, int K, int bounded, int keep_refusals, int unsettled_only, double tolerance,
                double tiny) {
    MOJD_SHARED(double, shared);
    Tile<W> tile;
    TileMemory<W> memory(shared + threadIdx.x / W * TileMemory<W>::numbers, K);
    for_problems<W>(unsettled_only ? status : nullptr, count * rows, [&](long long t) {
        const T* own = G + t / rows * K * K;
        Swept swept{
            equilibrate(tile, own, K, K, memory.A, memory.stride, memory.scale, Tolerances{tolerance, tiny}),
            0};
        if (swept.status == OPTIMAL)
            swept = solve_in_tile(tile, q + t * K, memory, Options{bounded != 0, tolerance});
        else
            fill(tile, memory.answer, K, nan_value());
        if (tile.rank < K) x[t * K + tile.rank] = memory.answer[tile.rank];
        if (tile.rank == 0) {
            status[t] = visible(swept.status, keep_refusals);
            iterations[t] = swept.pivots;
        }
        tile.sync();
    });
}

}  // namespace mojd
