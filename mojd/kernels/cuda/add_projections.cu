#pragma once
// UPGrad's weights from the minimisers of its K problems: a thread for every weight.
#include "staging.cuh"

namespace mojd {

// Writes w (B, K) = u_j + sum over r of u_r*x[b, r, j] for x (B, K, K). The problems are solved for
// preferences of 1 and scaled here: projection on a cone is positively homogeneous, and so their linear terms
// are the rows of G themselves, exact. NaN in x, where there is no answer, becomes NaN in w.
template <class T>
__global__ void add_projections(const double* x, const double* preference, long long preference_step,
                                double uniform, T* w, long long count, int K) {
    Rows u{preference, preference_step, uniform};
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long t = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; t < count * K;
         t += step) {
        long long b = t / K;
        int j = t % K;
        double total = u(b, j);
#pragma unroll 8
        for (int r = 0; r < K; r++) total += u(b, r) * x[(b * K + r) * K + j];
        w[t] = total;
    }
}

}  // namespace mojd
