// The factor of the passive block, A_FF = U'*inverse(D)*U, grown and shrunk index by index.
//
// U is upper triangular with the pivots D on its diagonal. It belongs to an ordered list passive[0 .. m); the
// first k rows and columns are the factor of passive[0 .. k). `inverse` holds 1/D. Long triangular solves go
// panel by panel: a panel of the group solves a small triangle, then all threads take it off the rest.
#pragma once

#include "group.cuh"
#include "matrix.cuh"

namespace mojd {

// Relative pivots below this are looked at closely before they are trusted.
constexpr double SUSPECT_PIVOT = 1e-6;
// Below this relative pivot the passive block is ill-conditioned enough for refinement to pay.
constexpr double REFINE_PIVOT = 1e-2;
// How many roundings an entry of a Gramian and of its factor has gone through, generously.
constexpr double ROUNDINGS = 8.0;

struct Factor {
    // The upper half alone, row after row; the first row has `length` numbers.
    double* U;
    int length;
    double* inverse;
    // Shared memory for strip*(strip + stage) numbers, as the group has them.
    double* strip;

    __device__ double& operator()(int i, int j) const { return U[i * (2 * length - i - 1) / 2 + j]; }
};

// What rounding can do to an entry, relatively, for tolerance = the root of the dtype's epsilon.
__device__ inline double rank_noise(double tolerance) { return ROUNDINGS * tolerance * tolerance; }

// The relative pivot below which a row may depend on those before it.
__device__ inline double suspect_pivot(double noise) {
    return 1e3 * noise < SUSPECT_PIVOT ? SUSPECT_PIVOT : 1e3 * noise;
}

// Solves U'*inverse(D)*y = v in place, where the first `start` entries are solved already.
template <class Group>
__device__ __noinline__ void forward(const Group& group, const Factor& U, int m, double* v, int start) {
    const int width = Group::Panel::size;
    for (int done = 0; done < m;) {
        int end = done < start ? start : done + width < m ? done + width : m;
        if (done >= start && in_panel(group)) {
            auto panel = group.panel();
            int j = done + panel.rank;
            for (int i = done; i < end; i++) {
                if (j > i && j < end) v[j] -= v[i] * U.inverse[i] * U(i, j);
                panel.sync();
            }
        }
        group.sync();
        for (int j = end + group.rank; j < m; j += group.size) {
            double value = v[j];
#pragma unroll 4
            for (int i = done; i < end; i++) value -= v[i] * U.inverse[i] * U(i, j);
            v[j] = value;
        }
        group.sync();
        done = end;
    }
}

// Solves U*y = v in place.
template <class Group>
__device__ __noinline__ void backward(const Group& group, const Factor& U, int m, double* v) {
    const int width = Group::Panel::size;
    auto panel = group.panel();
    for (int end = m; end > 0;) {
        int begin = (end - 1) / width * width;
        // What is solved already leaves the rows of this panel, each of which some panel of threads sums up.
        for (int i = begin + group.rank / width; end < m && i < end; i += group.size / width) {
            double total = 0.0;
#pragma unroll 4
            for (int j = end + panel.rank; j < m; j += width) total += U(i, j) * v[j];
            total = panel.sum(total);
            if (panel.rank == 0) v[i] -= total;
        }
        group.sync();
        if (in_panel(group)) {
            for (int i = end - 1; i >= begin; i--) {
                if (panel.rank == 0) v[i] *= U.inverse[i];
                panel.sync();
                int k = begin + panel.rank;
                if (k < i) v[k] -= U(k, i) * v[i];
                panel.sync();
            }
        }
        group.sync();
        end = begin;
    }
}

// Solves A_FF*y = v in place.
template <class Group>
__device__ void solve(const Group& group, const Factor& U, int m, double* v) {
    forward(group, U, m, v, 0);
    backward(group, U, m, v);
}

// How much curvature along (z, 1) rounding errors can hide or feign: a pivot below that is nothing but noise,
// and its row depends on the others.
template <class Group>
__device__ double null_noise(const Group& group, const double* z, int m, double noise) {
    double total = 0.0;
    for (int i = group.rank; i < m; i += group.size) total += z[i] * z[i];
    return noise * (1.0 + group.sum(total));
}

// Whether the index whose column of the factor is U[0 .. m), with `pivot` below and squared norm `square`,
// depends on the passive ones to rounding. If it does, z is set to the solution of A_FF*z = -A_Fj, so that
// A*(z, 1) vanishes.
template <class Group>
__device__ __noinline__ bool is_dependent(const Group& group, double square, double pivot, const Factor& U,
                                          int m, double* z, double noise) {
    if (pivot > suspect_pivot(noise) * square) return false;
    for (int i = group.rank; i < m; i += group.size) z[i] = -U(i, m);
    group.sync();
    backward(group, U, m, z);
    return pivot <= null_noise(group, z, m, noise);
}

// Writes column m of the factor for index j, and modifies v; returns its pivot, the squared distance of
// gradient j from the span of the passive ones.
template <class Group>
__device__ __noinline__ double append(const Group& group, const Matrix& A, const int* passive, int m, int j,
                                      const Factor& U, double* v) {
    for (int i = group.rank; i < m; i += group.size) v[i] = A(j, passive[i]);
    group.sync();
    forward(group, U, m, v, 0);
    double total = 0.0;
    for (int i = group.rank; i < m; i += group.size) {
        U(i, m) = v[i];
        total += v[i] * v[i] * U.inverse[i];
    }
    double pivot = A(j, j) - group.sum(total);
    if (group.rank == 0) {
        U(m, m) = pivot;
        U.inverse[m] = 1.0 / pivot;
    }
    group.sync();
    return pivot;
}

// Removes the p-th passive index from the list and from the factor.
//
// The rows below it take a rank-one update with a positive weight, which is stable: method C1 of Gill, Golub,
// Murray and Saunders (Math. Comp. 28, 1974).
template <class Group>
__device__ __noinline__ void remove(const Group& group, const Factor& U, int* passive, int m, int p,
                                    double* w) {
    double weight = U.inverse[p];
    for (int j = p + 1 + group.rank; j < m; j += group.size) w[j - 1] = U(p, j);
    // A row a thread, as neighbours would overwrite each other's entries.
    for (int i = group.rank; i < p; i += group.size)
        for (int j = p + 1; j < m; j++) U(i, j - 1) = U(i, j);
    group.sync();
    shift_down(group, passive, p, m);
    for (int i = p + 1; i < m; i++) {
        for (int j = i + group.rank; j < m; j += group.size) U(i - 1, j - 1) = U(i, j);
        group.sync();
    }
    for (int k = p; k < m - 1; k++) {
        double old = U(k, k), component = w[k];
        double pivot = old + weight * component * component;
        // Row k of the unit factor is U[k]/old; it takes `gain` of what is left of w.
        double gain = component * weight / pivot, ratio = component / old;
        group.sync();
        if (group.rank == 0) {
            U(k, k) = pivot;
            U.inverse[k] = 1.0 / pivot;
        }
        for (int j = k + 1 + group.rank; j < m - 1; j += group.size) {
            double unit = U(k, j);
            w[j] -= ratio * unit;
            U(k, j) = pivot * (unit / old + gain * w[j]);
        }
        weight *= old / pivot;
        group.sync();
    }
}

}  // namespace mojd
