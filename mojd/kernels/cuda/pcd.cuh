// Priority-Constrained Descent's linear term and its rescaling.
//
// With x the multipliers in the units of the raw gradients, x = S*mu, the problem is NNQP(G_s, q) with
// q_j = s_0*G_j0 - tau_j*s_j*G_jj: no entry of G is rescaled, so that exact dependencies survive.
#pragma once

#include "arithmetic.cuh"
#include "gradient.cuh"
#include "group.cuh"
#include "staging.cuh"

namespace mojd {

// |d|^2 below this part of (sum of |w_i|*|g_i|)^2 is what rounding leaves of d = 0.
constexpr double VANISHING = 64 * ROUNDOFF;

struct Priorities {
    Rows tau, scales;

    // q_j for secondary j = 1 .. K - 1 of a Gramian, from its square and its product with the primary. Beside
    // a zero square, products are underflow.
    __device__ double linear_term(long long b, int j, double square, double product) const {
        if (square == 0.0) return 0.0;
        return scales(b, 0) * product - tau(b, j - 1) * (scales(b, j) * square);
    }
};

// The factor that gives d = J'w the length of the primary gradient, and 0 for a direction that vanishes; from
// |d|^2, (sum of w_i*|g_i|) and |g_0|^2.
__device__ inline double rescaling(double square, double size, double primary) {
    if (!(square > VANISHING * size * size) || primary == 0.0) return 0.0;
    return sqrt(primary) / sqrt(square);
}

}  // namespace mojd
