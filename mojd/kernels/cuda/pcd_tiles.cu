#pragma once
// PCD for 2 <= K <= W + 1: a tile for every Gramian, with a lane for every secondary.
#include "pcd.cuh"
#include "tiles.cuh"

namespace mojd {

// What is wrong with the row of the primary, which is no part of the problem but of the Gramian.
template <class T, int W>
__device__ int examine_primary(const Tile<W>& tile, const T* G, int K, Tolerances allowed) {
    Diagonal own{widen(G[0]), scale_of(G, K, 0)};
    int code = examine_diagonal(own.square);
    for (int j = tile.rank + 1; j < K; j += W) {
        double entry;
        Diagonal across{widen(G[j * (K + 1)]), scale_of(G, K, j)};
        code = worse(code, equilibrate_entry(widen(G[j]), widen(G[j * K]), own, across, allowed, entry));
    }
    return static_cast<int>(tile.maximum(code));
}

// Scales what the lanes hold, the weights of the primary (in all lanes) and of their own secondary, so that d
// gets the length of the primary gradient.
template <class T, int W>
__device__ double rescaling_in_tile(const Tile<W>& tile, const T* G, int K, double primary, double weight,
                                    double* all) {
    const int own = tile.rank + 1;
    tile.sync();
    all[tile.rank] = own < K ? weight : 0.0;
    tile.sync();
    double first = primary * widen(G[0]), product = 0.0, square = 0.0, size = 0.0;
    for (int j = 1; j < K; j++) first += widen(G[j]) * all[j - 1];
    if (own < K) {
        const T* row = G + own * K;
        product = widen(row[0]) * primary;
        for (int j = 1; j < K; j++) product += widen(row[j]) * all[j - 1];
        square = weight * product;
        size = weight * sqrt(widen(row[own]));
    }
    square = tile.sum(square) + primary * first;
    size = tile.sum(size) + primary * sqrt(widen(G[0]));
    return rescaling(square, size, widen(G[0]));
}

// Writes weights w (B, K). With `status` (B), only where that is UNSETTLED. Where the constraints contradict
// each other, the primary alone; NaN where a Gramian is not finite, or is none.
template <class T, int W>
__global__ void __launch_bounds__(TILE_THREADS)
    pcd_tiles(const T* G, const double* tau, long long tau_step, double constant_tau, const double* scales,
              long long scales_step, double constant_scale, T* w, const signed char* status, long long count,
              int K, int rescale, double tolerance, double tiny) {
    MOJD_SHARED(double, shared);
    Tile<W> tile;
    TileMemory<W> memory(shared + threadIdx.x / W * TileMemory<W>::numbers, K - 1);
    Priorities priorities{{tau, tau_step, constant_tau}, {scales, scales_step, constant_scale}};
    const int own = tile.rank + 1;
    for_problems<W>(status, count, [&](long long b) {
        const T* matrix = G + b * K * K;
        double primary = priorities.scales(b, 0), weight = 0.0;
        int code = examine_primary(tile, matrix, K, Tolerances{tolerance, tiny});
        code = worse(code, equilibrate(tile, matrix + K + 1, K, K - 1, memory.A, memory.stride, memory.scale,
                                       Tolerances{tolerance, tiny}));
        if (code == OPTIMAL) {
            if (own < K) {
                double product = 0.5 * (widen(matrix[own]) + widen(matrix[own * K]));
                memory.answer[tile.rank] =
                    priorities.linear_term(b, own, widen(matrix[own * K + own]), product);
            }
            tile.sync();
            code = solve_in_tile(tile, memory.answer, memory, Options{false, tolerance}).status;
            if (code == OPTIMAL && own < K) weight = memory.answer[tile.rank];
        }
        if (code != OPTIMAL && code != INFEASIBLE) primary = weight = nan_value();
        double factor = rescale ? rescaling_in_tile(tile, matrix, K, primary, weight, memory.work.y) : 1.0;
        // NaN stays what it is.
        if (factor == 0.0 && primary == primary) primary = weight = 0.0;
        if (tile.rank == 0) w[b * K] = primary * (factor == 0.0 ? 1.0 : factor);
        if (own < K) w[b * K + own] = weight * (factor == 0.0 ? 1.0 : factor);
        tile.sync();
    });
}

}  // namespace mojd
