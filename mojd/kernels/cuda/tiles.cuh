// One problem in a tile, K <= W: a tableau, and the general solver behind it, in shared memory.
#pragma once

#include "equilibrate.cuh"
#include "row.cuh"
#include "shared.cuh"

namespace mojd {

// Threads of a block of tiles.
constexpr int TILE_THREADS = 64;

// The shared memory of a tile. Rows are odd in length, so that columns lie in different banks.
template <int W>
struct TileMemory {
    static constexpr int stride = W + 1, vectors = 3 + Workspace::vectors;
    static constexpr int strip = Tile<W>::strip * (Tile<W>::strip + Tile<W>::stage);
    // In float64 numbers; the last are integers, two in the room of one.
    static constexpr int numbers = 2 * W * stride + vectors * W + strip + W;

    double *A, *scale, *linear, *answer;
    Workspace work;

    // The tableau is given up where the factor begins.
    __device__ TileMemory(double* memory, int K)
        : A(memory),
          scale(memory + 2 * W * stride),
          linear(scale + W),
          answer(scale + 2 * W),
          work(K, memory + W * stride, scale + 3 * W, scale + vectors * W, scale + vectors * W + strip, W) {}
};

// Calls work(t) for problems t < count, each by one tile of the grid; with `status`, only for those that are
// UNSETTLED, which are few: a warp looks at many statuses at once.
template <int W, class Work>
__device__ void for_problems(const signed char* status, long long count, const Work& work) {
    constexpr int tiles = 32 / W, looks = 4;
    const long long threads = static_cast<long long>(gridDim.x) * TILE_THREADS;
    const long long thread = static_cast<long long>(blockIdx.x) * TILE_THREADS + threadIdx.x;
    if (!status) {
        for (long long t = thread / W; t < count; t += threads / W) work(t);
        return;
    }
    const int lane = threadIdx.x % 32;
    for (long long first = thread / 32 * 32 * looks; first < count; first += threads * looks) {
        unsigned unsettled[looks];
        for (int look = 0; look < looks; look++) {
            long long t = first + look * 32 + lane;
            unsettled[look] = __ballot_sync(~0u, t < count && status[t] == UNSETTLED);
        }
        for (int look = 0, found = 0; look < looks; look++)
            for (unsigned left = unsettled[look]; left; left &= left - 1, found++)
                if (found % tiles == lane / W) work(first + look * 32 + __ffs(left) - 1);
    }
}

struct Options {
    // Whether there is a minimiser for sure.
    bool bounded;
    double tolerance;
};

// Solves NNQP(G, q) for the equilibrated G in `memory`, and writes `memory.answer`. `q` may be anywhere.
template <class T, int W>
__device__ Swept solve_in_tile(const Tile<W>& tile, const T* q, const TileMemory<W>& memory,
                               Options options) {
    const int K = memory.work.K, stride = memory.stride;
    double magnitude = normalise_linear(tile, q, memory.scale, K, memory.linear);
    int status = answer_at_once(tile, memory.A, stride, memory.linear, magnitude, memory.scale, K,
                                options.bounded, memory.answer);
    if (status != UNSETTLED) return Swept{status, 0};
    double noise = rank_noise(options.tolerance);
    Swept swept{UNSETTLED, 0};
    if (K <= 3) {
        bool settled = false;
        if (tile.rank == 0)
            settled = solve_small(memory.A, stride, memory.linear, K, options.tolerance, memory.answer);
        swept.status = tile.any(settled) ? OPTIMAL : UNSETTLED;
        tile.sync();
    } else {
        swept = solve_tableau(tile, memory.A, stride, memory.linear, K, memory.answer, memory.work.U.U,
                              memory.work.y, suspect_pivot(noise));
    }
    if (swept.status == OPTIMAL) {
        if (tile.rank < K) memory.answer[tile.rank] *= memory.scale[tile.rank] * magnitude;
        tile.sync();
        return swept;
    }
    Matrix A{memory.A, stride, 1.0, nullptr};
    Found found = solve_general(tile, A, memory.linear, magnitude, memory.scale, memory.work, options.bounded,
                                noise, memory.answer);
    return Swept{found.status, swept.pivots + found.iterations};
}

}  // namespace mojd
