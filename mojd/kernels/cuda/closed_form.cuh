// Closed forms for K <= 3, by one thread. What they can't settle (nearly dependent rows, exponents near
// overflow, input that is no Gramian) is left to the general solver.
//
// Every decision is the sign of a difference of two products, which Kahan's algorithm gives with its sign
// right; decisions and values are scale-free.
#pragma once

#include "arithmetic.cuh"

namespace mojd {

// A 2 x 2 determinant below this part of its first term is left to the general solver's rank test.
constexpr double NEARLY_DEPENDENT = 1e-12;
// Relative pivots above this need no refinement.
constexpr double WELL_CONDITIONED = 1e-2;
// Rounding errors of a slack, relative to the sum of the sizes of its terms.
constexpr double SLACK_ROUNDING = 4.0 / 9007199254740992.0;

// Whether a diagonal entry is positive, finite and far from overflow in a product of three.
__device__ inline bool is_in_range(double a) { return a > power_of_two(-250) && a < power_of_two(250); }

__device__ inline bool is_zero_or_in_range(double q) { return q == 0.0 || is_in_range(fabs(q)); }

// Whether off-diagonal entries are alike and no larger than a PSD matrix allows.
__device__ inline bool is_pair_sound(double a, double b, double c, double transposed, double tolerance) {
    double difference = c - transposed, bound = a * b;
    double relaxed = (1.0 + tolerance) * (1.0 + tolerance) * bound;
    return difference * difference <= tolerance * tolerance * bound && c * c <= relaxed;
}

// Whether a small Gramian is clean enough for a closed form.
__device__ inline bool is_sound(const double (&G)[4], double tolerance) {
    return is_in_range(G[0]) && is_in_range(G[3]) && is_pair_sound(G[0], G[3], G[1], G[2], tolerance);
}

__device__ inline bool is_sound(const double (&G)[9], double tolerance) {
    double a = G[0], b = G[4], c = G[8];
    return is_in_range(a) && is_in_range(b) && is_in_range(c) && is_pair_sound(a, b, G[1], G[3], tolerance) &&
           is_pair_sound(a, c, G[2], G[6], tolerance) && is_pair_sound(b, c, G[5], G[7], tolerance);
}

// Solves NNQP([[a, c], [c, b]], (p, q)); returns whether x and y can be trusted. `first` and `second` are the
// slacks, times b and a, that remain when only the other index is passive.
__device__ inline bool solve_pair(double a, double b, double c, double p, double q, double& x, double& y) {
    double second = difference_of_products(a, q, c, p);
    double first = difference_of_products(b, p, c, q);
    double determinant = difference_of_products(a, b, c, c);
    bool none = p >= 0.0 && q >= 0.0;
    bool only_first = p < 0.0 && second >= 0.0;
    bool only_second = q < 0.0 && first >= 0.0;
    bool both = !(none || only_first || only_second);
    // One division each: they take most of the time.
    double over_x = both ? determinant : a, over_y = both ? determinant : b;
    x = both ? -first : only_first ? -p : 0.0;
    y = both ? -second : only_second && !only_first ? -q : 0.0;
    x = x == 0.0 ? 0.0 : x / over_x;
    y = y == 0.0 ? 0.0 : y / over_y;
    return !both || determinant > NEARLY_DEPENDENT * a * b;
}

// Solves NNQP(G, q) for K = 3; G is symmetric, with rows of length `stride`. Leaving one index out gives a
// pair; if its slack then is not negative, that is the solution. If none can be left out, all are passive.
__device__ inline bool solve_triple(const double* G, int stride, const double* q, double* x) {
    for (int i = 0; i < 3; i++) {
        int j = (i + 1) % 3, k = (i + 2) % 3;
        double xj, xk, ij = G[i * stride + j], ik = G[i * stride + k];
        if (!solve_pair(G[j * stride + j], G[k * stride + k], G[j * stride + k], q[j], q[k], xj, xk))
            return false;
        double slack = q[i] + (ij * xj + ik * xk), size = fabs(q[i]) + (fabs(ij) * xj + fabs(ik) * xk);
        if (slack >= -SLACK_ROUNDING * size) {
            x[i] = 0.0;
            x[j] = xj;
            x[k] = xk;
            return true;
        }
    }
    double a = G[0], d = G[1], f = G[2], second = G[stride + 1], third = G[2 * stride + 2];
    double b = difference_of_products(a, second, d, d);
    double c = difference_of_products(a, third, f, f);
    double bc = difference_of_products(a, G[stride + 2], d, f);
    double p = difference_of_products(a, q[1], d, q[0]);
    double r = difference_of_products(a, q[2], f, q[0]);
    double determinant = difference_of_products(b, c, bc, bc);
    if (b < WELL_CONDITIONED * a * second || determinant < WELL_CONDITIONED * b * (a * third)) return false;
    x[1] = -difference_of_products(c, p, bc, r) / determinant;
    x[2] = -difference_of_products(b, r, bc, p) / determinant;
    x[0] = -(q[0] + (d * x[1] + f * x[2])) / a;
    return x[0] >= 0.0 && x[1] >= 0.0 && x[2] >= 0.0;
}

// Makes an index whose row and column are 0 one of its own, of norm 1: nothing else changes, and its unknown
// is 0 if its linear term q is not negative (null for one that is 0 there). Losses that are masked have such
// gradients, in whole batches.
template <int K>
__device__ void detach_zero_rows(double* G, const double* q) {
    for (int i = 0; i < K; i++) {
        bool zero = !q || q[i] >= 0.0;
        for (int j = 0; j < K; j++) zero = zero && G[i * K + j] == 0.0 && G[j * K + i] == 0.0;
        if (zero) G[i * (K + 1)] = 1.0;
    }
}

// Solves NNQP(G, q) for K <= 3 and writes x; returns whether it can be trusted.
__device__ inline bool solve_small(const double* G, int stride, const double* q, int K, double tolerance,
                                   double* x) {
    for (int i = 0; i < K; i++) {
        if (!is_in_range(G[i * stride + i]) || !is_zero_or_in_range(q[i])) return false;
        for (int j = 0; j < i; j++) {
            double c = G[i * stride + j], transposed = G[j * stride + i];
            if (c != transposed) return false;
            if (!is_pair_sound(G[i * stride + i], G[j * stride + j], c, transposed, tolerance)) return false;
        }
    }
    if (K == 1) {
        x[0] = q[0] < 0.0 ? -q[0] / G[0] : 0.0;
        return true;
    }
    if (K == 2) return solve_pair(G[0], G[stride + 1], G[1], q[0], q[1], x[0], x[1]);
    return solve_triple(G, stride, q, x);
}

}  // namespace mojd
