// The linear term in units that suit the solvers, and the answers that it gives away at once.
#pragma once

#include "arithmetic.cuh"
#include "group.cuh"
#include "status.cuh"

namespace mojd {

// Writes D*q*2^k with max|.| in [1/2, 1) to `out`; returns 2^-k (0 if q = 0, NaN if it is not finite).
template <class T, class Group>
__device__ double normalise_linear(const Group& group, const T* q, const double* scale, int K, double* out) {
    double largest = 0.0, check = 0.0;
    for (int j = group.rank; j < K; j += group.size) {
        double value = widen(q[j]) * scale[j];
        out[j] = value;
        largest = fabs(value) > largest ? fabs(value) : largest;
        check += value * 0.0;
    }
    bool finite = !group.any(!is_finite(check));
    largest = group.maximum(largest);
    if (!finite) return nan_value();
    if (largest == 0.0) return 0.0;
    int exponent;
    frexp(largest, &exponent);
    // Clamped, so that 2^-k exists even for subnormal numbers.
    exponent = exponent > -1000 ? exponent : -1000;
    for (int j = group.rank; j < K; j += group.size) out[j] = ldexp(out[j], -exponent);
    group.sync();
    return ldexp(1.0, exponent);
}

// Answers a problem that needs no solving: writes x and returns its status, or UNSETTLED. `q` and `magnitude`
// are those of normalise_linear; a row of zeros is one with A_jj = 0. Where there is a minimiser for sure, a
// linear term beside one is underflow, and becomes 0.
template <class Group>
__device__ int answer_at_once(const Group& group, const double* A, int stride, double* q, double magnitude,
                              const double* scale, int K, bool bounded, double* x) {
    int status = UNSETTLED;
    double value = 0.0;
    Least downhill{0.0, -1};
    if (!(magnitude >= 0.0)) {
        status = NONFINITE;
        value = nan_value();
    } else if (magnitude == 0.0) {
        status = OPTIMAL;
    } else {
        for (int j = group.rank; j < K; j += group.size) {
            if (A[static_cast<long long>(j) * stride + j] != 0.0) continue;
            if (bounded) q[j] = 0.0;
            if (q[j] < 0.0) downhill.take(0.0, j);
        }
        // Also a barrier: all threads see q.
        group.sync();
        downhill = group.least(downhill);
        if (downhill.index < 0) return UNSETTLED;
        status = INFEASIBLE;
    }
    for (int j = group.rank; j < K; j += group.size) x[j] = j == downhill.index ? scale[j] : value;
    group.sync();
    return status;
}

}  // namespace mojd
