#pragma once
// UPGrad for K = 2 and 3 by closed forms: a thread for every Gramian.
#include "closed_form.cuh"
#include "staging.cuh"
#include "status.cuh"

namespace mojd {

// Brings the largest diagonal entry near 1. Weights do not depend on the units of the losses, and so
// exponents alone must not decide who solves.
template <int K>
__device__ void to_ordinary_units(double (&G)[K * K]) {
    double largest = 0.0;
    for (int i = 0; i < K; i++) largest = G[i * (K + 1)] > largest ? G[i * (K + 1)] : largest;
    if (!(largest > 0.0) || !is_finite(largest)) return;
    int exponent;
    frexp(largest, &exponent);
    double factor = ldexp(1.0, -(exponent > -1000 ? exponent & ~1 : -1000));
    for (int i = 0; i < K * K; i++) G[i] *= factor;
}

// Projecting g_1 on the dual cone takes off its part along g_2 if they conflict.
__device__ inline bool upgrad_small(const double (&G)[4], const double* u, double tolerance, double* w) {
    double a = G[0], d = G[3], mean = 0.5 * (G[1] + G[2]), conflict = mean < 0.0 ? -mean : 0.0;
    w[0] = u[0] + u[1] * (conflict / a);
    w[1] = u[1] + u[0] * (conflict / d);
    return is_sound(G, tolerance);
}

// The projection of g_i never needs more of g_i itself, which leaves a pair of unknowns.
__device__ inline bool upgrad_small(const double (&G)[9], const double* u, double tolerance, double* w) {
    double a = G[0], d = G[4], f = G[8];
    double ad = 0.5 * (G[1] + G[3]), af = 0.5 * (G[2] + G[6]), df = 0.5 * (G[5] + G[7]);
    double d0, f0, a1, f1, a2, d2;
    bool settled = solve_pair(d, f, df, ad, af, d0, f0);
    settled = solve_pair(a, f, af, ad, df, a1, f1) && settled;
    settled = solve_pair(a, d, ad, af, df, a2, d2) && settled;
    w[0] = u[0] + (u[1] * a1 + u[2] * a2);
    w[1] = u[1] + (u[0] * d0 + u[2] * d2);
    w[2] = u[2] + (u[0] * f0 + u[1] * f1);
    return settled && is_sound(G, tolerance);
}

// Writes weights w (B, K) and status (B): OPTIMAL or UNSETTLED, where upgrad_tiles is to go on.
template <class T, int K>
__global__ void __launch_bounds__(BATCH)
    upgrad_closed(const T* G, const double* preference, long long preference_step, double uniform, T* w,
                  signed char* status, long long count, double tolerance) {
    MOJD_SHARED(double, shared);
    const int thread = threadIdx.x;
    double *matrices = shared, *weights = shared + BATCH * odd(K * K);
    Rows u{preference, preference_step, uniform};
    for (long long first = blockIdx.x * static_cast<long long>(BATCH); first < count;
         first += gridDim.x * static_cast<long long>(BATCH)) {
        int here = count - first < BATCH ? count - first : BATCH;
        stage_in<K * K>(matrices, G, first, here);
        __syncthreads();
        if (thread < here) {
            double matrix[K * K], own[K];
            for (int i = 0; i < K * K; i++) matrix[i] = matrices[thread * odd(K * K) + i];
            for (int i = 0; i < K; i++) own[i] = u(first + thread, i);
            to_ordinary_units<K>(matrix);
            detach_zero_rows<K>(matrix, nullptr);
            bool settled = upgrad_small(matrix, own, tolerance, weights + thread * odd(K));
            status[first + thread] = settled ? OPTIMAL : UNSETTLED;
        }
        __syncthreads();
        stage_out<K>(weights, w, first, here);
    }
}

}  // namespace mojd
