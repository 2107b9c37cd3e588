// CUDA for a host compiler: what mojd's kernels use of it, so that tests can run them without a GPU.
//
// It comes before the kernels' source. The threads of a block are fibers that take turns (runtime.cpp): at
// most one runs at a time, each from one collective (barrier, shuffle, vote) to the next. No system header is
// included: they take longer to compile than most kernels, and collide with CUDA's names.
#pragma once

#define MOJD_ON_HOST 1

#define __global__
#define __device__
#define __host__
#define __noinline__ __attribute__((noinline))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// Where a block's dynamic shared memory begins, as a pointer in place of an array without a size.
#define MOJD_SHARED(type, name) type* const name = static_cast<type*>(mojd_host::shared)

#include "runtime.hpp"

// One dimension only: whoever uses another shall not compile.
struct MojdIndex {
    unsigned x;
};
extern MojdIndex threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// The last argument of every collective is the line of its call, for messages.
#define MOJD_LINE int line = __builtin_LINE()

inline void __syncthreads(MOJD_LINE) { mojd_host::meet_block(mojd_host::SYNC_THREADS, 0, line); }
inline int __syncthreads_or(int value, MOJD_LINE) {
    return mojd_host::meet_block(mojd_host::SYNC_THREADS_OR, value, line);
}
inline int __syncthreads_and(int value, MOJD_LINE) {
    return mojd_host::meet_block(mojd_host::SYNC_THREADS_AND, value, line);
}
inline int __syncthreads_count(int value, MOJD_LINE) {
    return mojd_host::meet_block(mojd_host::SYNC_THREADS_COUNT, value, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, MOJD_LINE) {
    mojd_host::meet_warp(mojd_host::SYNC_WARP, mask, 0, 0, 32, line);
}
inline unsigned __ballot_sync(unsigned mask, int value, MOJD_LINE) {
    return static_cast<unsigned>(mojd_host::meet_warp(mojd_host::BALLOT, mask, value != 0, 0, 32, line));
}
inline int __any_sync(unsigned mask, int value, MOJD_LINE) {
    return mojd_host::meet_warp(mojd_host::ANY, mask, value != 0, 0, 32, line) != 0;
}
inline int __all_sync(unsigned mask, int value, MOJD_LINE) {
    return mojd_host::meet_warp(mojd_host::ALL, mask, value != 0, 0, 32, line) == mask;
}

namespace mojd_host {
template <class T>
__forceinline__ T shuffle(Kind kind, unsigned mask, T value, int operand, int width, int line) {
    Bits bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = meet_warp(kind, mask, bits, operand, width, line);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
}  // namespace mojd_host

// Overloads, as in CUDA, and no templates: a bool or a short becomes an int.
#define MOJD_SHUFFLE(function, kind, operand, T)                                                       \
    inline T function(unsigned mask, T value, operand lanes, int width = 32, MOJD_LINE) {              \
        return mojd_host::shuffle(mojd_host::kind, mask, value, static_cast<int>(lanes), width, line); \
    }
#define MOJD_SHUFFLES(T)                                  \
    MOJD_SHUFFLE(__shfl_sync, SHUFFLE, int, T)            \
    MOJD_SHUFFLE(__shfl_xor_sync, SHUFFLE_XOR, int, T)    \
    MOJD_SHUFFLE(__shfl_up_sync, SHUFFLE_UP, unsigned, T) \
    MOJD_SHUFFLE(__shfl_down_sync, SHUFFLE_DOWN, unsigned, T)
MOJD_SHUFFLES(int)
MOJD_SHUFFLES(unsigned)
MOJD_SHUFFLES(long)
MOJD_SHUFFLES(unsigned long)
MOJD_SHUFFLES(long long)
MOJD_SHUFFLES(unsigned long long)
MOJD_SHUFFLES(float)
MOJD_SHUFFLES(double)

#include "arithmetic.hpp"
