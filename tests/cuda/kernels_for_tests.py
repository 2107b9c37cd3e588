"""Kernels that show what the shim for the host's compiler does."""

from __future__ import annotations

SOURCE = r"""
namespace mojd {

__global__ void indices(int* out) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = static_cast<int>(threadIdx.x + 100 * blockIdx.x + 10000 * blockDim.x + 1000000 * gridDim.x);
}

// Numbers for each thread: what it gets from shuffles, sixteen lanes wide.
template <class T>
__global__ void shuffles(const T* a, T* out) {
    const int lane = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
    const T mine = a[lane];
    out[lane] = __shfl_sync(0xffffffffu, mine, 3, 16);
    out[n + lane] = __shfl_sync(0xffffffffu, mine, lane + 1, 16);
    out[2 * n + lane] = __shfl_xor_sync(0xffffffffu, mine, 5, 16);
    out[3 * n + lane] = __shfl_xor_sync(0xffffffffu, mine, 16, 16);
    out[4 * n + lane] = __shfl_up_sync(0xffffffffu, mine, 2, 16);
    out[5 * n + lane] = __shfl_down_sync(0xffffffffu, mine, 2, 16);
}

__global__ void votes(const int* a, unsigned* out) {
    const int mine = a[threadIdx.x];
    const int n = static_cast<int>(blockDim.x);
    unsigned* to = out + threadIdx.x;
    to[0] = __ballot_sync(0xffffffffu, mine);
    to[n] = static_cast<unsigned>(__any_sync(0xffffffffu, mine > 8));
    to[2 * n] = static_cast<unsigned>(__all_sync(0xffffffffu, mine < 8));
    to[3 * n] = static_cast<unsigned>(__syncthreads_or(mine > 8));
    to[4 * n] = static_cast<unsigned>(__syncthreads_and(mine < 9));
    to[5 * n] = static_cast<unsigned>(__syncthreads_count(mine > 0));
}

// Tiles of W lanes, each of which runs as many collectives as its number says.
template <int W>
__global__ void tiles(double* out) {
    const unsigned lane = threadIdx.x % 32, tile = threadIdx.x / W;
    const unsigned mask = (W == 32 ? 0xffffffffu : (1u << W) - 1) << (lane / W * W);
    double sum = threadIdx.x;
    for (unsigned i = 0; i <= tile; ++i) {
        for (int step = W / 2; step > 0; step /= 2) sum += __shfl_xor_sync(mask, sum, step, W);
        __syncwarp(mask);
    }
    out[threadIdx.x] = sum;
}

// A sum by halves in shared memory, to which SYNC = false gives a race.
template <bool SYNC>
__global__ void reduce(const double* a, double* out) {
    MOJD_SHARED(double, partial);
    partial[threadIdx.x] = a[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        if (SYNC) __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = partial[0];
}

// What a lane wrote is read by its neighbour, with or without a sync in between.
template <bool SYNC>
__global__ void neighbours(double* out) {
    MOJD_SHARED(double, box);
    box[threadIdx.x] = 1.0;
    __syncwarp();
    box[threadIdx.x] = 2.0 + threadIdx.x;
    if (SYNC) __syncwarp();
    out[threadIdx.x] = box[threadIdx.x ^ 1];
}

__global__ void shared_is_poisoned(double* out, int write) {
    MOJD_SHARED(double, box);
    out[blockIdx.x] = box[3];
    if (write) box[3] = 1.0;
}

__global__ void diverge(int how) {
    const unsigned i = threadIdx.x;
    if (how == 0 && i < 40) __syncthreads();
    if (how == 1 && i != 7) return;
    if (how == 2 && i < 16) {
        __any_sync(0xffffffffu, 1);
    } else if (how == 2) {
        __ballot_sync(0xffffffffu, 1);
    }
    if (how == 8 && i >= 16 && i < 32) __ballot_sync(0xffffffffu, 1);
    // One barrier of a warp may be reached at different places.
    if (how == 9 && i < 16) {
        __syncwarp();
    } else if (how == 9) {
        __syncwarp();
    }
    if (how == 3) __shfl_sync(i == 5 ? 0x000000ffu : 0xffffffffu, 1.0, 0);
    if (how == 4 && i < 32) __syncthreads();
    if (how == 4 && i >= 32) __syncthreads();
    if (how == 5) __shfl_sync(0x0000ffffu << (i & 16), 1.0, 16 - static_cast<int>(i & 16));
    if (how == 6) __syncwarp(0x0000ffffu);
    __syncthreads();
}

__global__ void touch(long long offset, int write) {
    MOJD_SHARED(double, box);
    box[0] = 0.0;
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1) {
        volatile double* place = box + offset;
        if (write) {
            *place = 1.0;
        } else {
            (void)*place;
        }
    }
}

__global__ void read_far(const double* a, long long offset, double* out) { out[0] = a[offset]; }

// Each call writes to its caller's room, so that no compiler makes a loop of it.
__noinline__ __device__ void deep(volatile int* above, int left) {
    volatile int room[128];
    room[0] = 0;
    if (left > 0) deep(room, left - 1);
    *above = room[0] + 1;
}

__global__ void overflow(int* depth, int calls) { deep(depth, calls); }

__global__ void add(int a, int b, int* out) { *out = a + b; }

struct Pair {
    double first;
    int second;
};

__global__ void parameters(Pair pair, const float* a, unsigned char flag, double factor, double* out) {
    out[0] = pair.first;
    out[1] = pair.second;
    out[2] = a[1];
    out[3] = flag;
    out[4] = factor;
}

__global__ void arithmetic(double a, double b, double c, double* out) {
    int exponent;
    out[0] = __fma_rn(a, b, c);
    out[1] = __dadd_rn(__dmul_rn(a, b), c);
    out[2] = a * b + c;
    out[3] = __ddiv_rn(__dsub_rn(a, b), __dsqrt_rn(c));
    out[4] = frexp(a, &exponent);
    out[5] = ldexp(b, exponent);
    out[6] = __longlong_as_double(__double_as_longlong(a) + 1);
    out[7] = fmin(fabs(a), fmax(b, c)) + (isfinite(a) ? 1.0 : 0.0);
}

__global__ void contraction(double a, double b, double c, double* out) { out[0] = a * b + c; }

// Who comes when: each thread before and after a barrier.
__global__ void turns(int* counter, int* out) {
    const int mine = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    out[atomicAdd(counter, 1)] = mine;
    __syncthreads();
    out[atomicAdd(counter, 1)] = mine;
}

}  // namespace mojd
"""

NAMES = (
    "mojd::indices",
    "mojd::shuffles<int>",
    "mojd::shuffles<long long>",
    "mojd::shuffles<double>",
    "mojd::votes",
    "mojd::tiles<4>",
    "mojd::tiles<32>",
    "mojd::reduce<true>",
    "mojd::reduce<false>",
    "mojd::neighbours<true>",
    "mojd::neighbours<false>",
    "mojd::shared_is_poisoned",
    "mojd::diverge",
    "mojd::touch",
    "mojd::read_far",
    "mojd::overflow",
    "mojd::add",
    "mojd::parameters",
    "mojd::arithmetic",
    "mojd::contraction",
    "mojd::turns",
)
