#pragma once
// PCD for K = 2 and 3 by closed forms: a thread for every Gramian.
#include "closed_form.cuh"
#include "pcd.cuh"
#include "status.cuh"

namespace mojd {

template <int K>
__device__ double rescaling_of(const double (&G)[K * K], const double* w) {
    double square = 0.0, size = 0.0;
    for (int i = 0; i < K; i++) {
        double product = 0.0;
        for (int j = 0; j < K; j++) product += G[i * K + j] * w[j];
        square += w[i] * product;
        size += w[i] * sqrt(G[i * (K + 1)]);
    }
    return rescaling(square, size, G[0]);
}

// mu = max(0, tau - g_2'g_1/|g_2|^2) in the units of the normalised gradients. G is the original Gramian, but
// for zero rows, which it has no use for.
__device__ inline bool pcd_small(const double (&G)[4], const double (&original)[4], long long b,
                                 const Priorities& priorities, double tolerance, double* w) {
    double c = G[3], q = priorities.linear_term(b, 1, original[3], 0.5 * (G[1] + G[2]));
    w[0] = priorities.scales(b, 0);
    w[1] = q < 0.0 ? -q / c : 0.0;
    return is_sound(G, tolerance) && is_zero_or_in_range(q);
}

// Two secondaries, four passive sets.
__device__ inline bool pcd_small(const double (&G)[9], const double (&original)[9], long long b,
                                 const Priorities& priorities, double tolerance, double* w) {
    double c = G[4], d = G[8];
    double p = priorities.linear_term(b, 1, original[4], 0.5 * (G[1] + G[3]));
    double q = priorities.linear_term(b, 2, original[8], 0.5 * (G[2] + G[6]));
    w[0] = priorities.scales(b, 0);
    bool settled = solve_pair(c, d, 0.5 * (G[5] + G[7]), p, q, w[1], w[2]);
    return settled && is_sound(G, tolerance) && is_zero_or_in_range(p) && is_zero_or_in_range(q);
}

// Writes weights w (B, K) and status (B): OPTIMAL or UNSETTLED, where pcd_tiles is to go on.
template <class T, int K>
__global__ void __launch_bounds__(BATCH)
    pcd_closed(const T* G, const double* tau, long long tau_step, double constant_tau, const double* scales,
               long long scales_step, double constant_scale, T* w, signed char* status, long long count,
               int rescale, double tolerance) {
    MOJD_SHARED(double, shared);
    const int thread = threadIdx.x;
    double *matrices = shared, *weights = shared + BATCH * odd(K * K);
    Priorities priorities{{tau, tau_step, constant_tau}, {scales, scales_step, constant_scale}};
    for (long long first = blockIdx.x * static_cast<long long>(BATCH); first < count;
         first += gridDim.x * static_cast<long long>(BATCH)) {
        int here = count - first < BATCH ? count - first : BATCH;
        stage_in<K * K>(matrices, G, first, here);
        __syncthreads();
        if (thread < here) {
            double matrix[K * K], *own = weights + thread * odd(K);
            for (int i = 0; i < K * K; i++) matrix[i] = matrices[thread * odd(K * K) + i];
            double detached[K * K];
            for (int i = 0; i < K * K; i++) detached[i] = matrix[i];
            detach_zero_rows<K>(detached, nullptr);
            bool settled = pcd_small(detached, matrix, first + thread, priorities, tolerance, own);
            double factor = rescale ? rescaling_of<K>(matrix, own) : 1.0;
            for (int i = 0; i < K; i++) own[i] = factor == 0.0 ? 0.0 : own[i] * factor;
            status[first + thread] = settled ? OPTIMAL : UNSETTLED;
        }
        __syncthreads();
        stage_out<K>(weights, w, first, here);
    }
}

}  // namespace mojd
