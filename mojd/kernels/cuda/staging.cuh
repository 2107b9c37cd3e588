// Batches of tiny problems, a thread each: rows of numbers pass through shared memory, so that what a warp
// reads and writes of global memory is contiguous.
#pragma once

#include "arithmetic.cuh"
#include "shared.cuh"

namespace mojd {

// Threads of a block, and problems that it takes at a time.
constexpr int BATCH = 128;

// The length of a row of N numbers in shared memory: odd, so that threads meet in no bank.
__device__ constexpr int odd(int N) { return N | 1; }

// Reads rows first .. first + count of N numbers into shared memory.
template <int N, class T>
__device__ void stage_in(double* room, const T* from, long long first, int count) {
    for (int e = threadIdx.x; e < count * N; e += BATCH)
        room[e / N * odd(N) + e % N] = widen(from[first * N + e]);
}

// Writes rows of N numbers from shared memory.
template <int N, class T>
__device__ void stage_out(const double* room, T* to, long long first, int count) {
    for (int e = threadIdx.x; e < count * N; e += BATCH) to[first * N + e] = room[e / N * odd(N) + e % N];
}

// A vector of each problem, of one that all share, or a number in all places.
struct Rows {
    const double* values;
    // How far apart the rows of two problems are: 0 if they share one.
    long long step;
    double constant;

    __device__ double operator()(long long problem, int i) const {
        return values ? values[problem * step + i] : constant;
    }
};

}  // namespace mojd
