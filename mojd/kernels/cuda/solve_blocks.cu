#pragma once
// Solve NNQP(G, q) for K > 32: a block for every right-hand side, which pivots to the end.
#include "equilibrate.cuh"
#include "row.cuh"
#include "shared.cuh"

namespace mojd {

// What is wrong with a Gramian, from its rows.
__device__ inline int worst_of_rows(const Block& block, const signed char* codes, int K) {
    int code = OPTIMAL;
    for (int i = block.rank; i < K; i += block.size) code = worse(code, codes[i]);
    if (block.any(code == NONFINITE)) return NONFINITE;
    return static_cast<int>(block.maximum(code));
}

// Writes x, status and iterations (B, R) for q (B, R, K) and what equilibrate_rows made of the Gramians.
// `factors` has room for K*(K + 1)/2 numbers a block.
template <class T>
__global__ void __launch_bounds__(512)
    solve_blocks(const double* A, const double* scale, const signed char* codes, const T* q, double* x,
                 signed char* status, int* iterations, double* factors, long long count, long long rows,
                 int K, int bounded, int keep_refusals, double tolerance) {
    MOJD_SHARED(double, shared);
    Block block(shared);
    double *vectors = shared + 64, *linear = vectors + Workspace::vectors * K, *strip = linear + K;
    Workspace work(K, factors + blockIdx.x * (K * (K + 1LL) / 2), vectors, strip,
                   strip + Block::strip * (Block::strip + Block::stage), K);
    const double noise = rank_noise(tolerance);
    for (long long t = blockIdx.x; t < count * rows; t += gridDim.x) {
        long long b = t / rows;
        const double *own_scale = scale + b * K, *own = A + b * K * K;
        double* solution = x + t * K;
        Found found{worst_of_rows(block, codes + b * K, K), 0, 0};
        if (found.status != OPTIMAL) {
            fill(block, solution, K, nan_value());
        } else {
            double magnitude = normalise_linear(block, q + t * K, own_scale, K, linear);
            found.status =
                answer_at_once(block, own, K, linear, magnitude, own_scale, K, bounded != 0, solution);
            if (found.status == UNSETTLED)
                found = solve_general(block, Matrix{own, K, 1.0, nullptr}, linear, magnitude, own_scale, work,
                                      bounded != 0, noise, solution);
        }
        block.sync();
        if (block.rank == 0) {
            status[t] = visible(found.status, keep_refusals);
            iterations[t] = found.iterations;
        }
    }
}

}  // namespace mojd
