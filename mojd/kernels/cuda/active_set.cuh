// The finite single-pivot active set, with a rank test before every step.
//
// A primal method in the manner of Lawson and Hanson: x stays feasible and the objective falls at every step,
// so that no passive set is ever seen twice. An index that depends on the passive ones enters by moving along
// the null direction until a passive index leaves; if none does, that direction is a ray.
#pragma once

#include "block_pivoting.cuh"
#include "factor.cuh"
#include "gradient.cuh"
#include "group.cuh"
#include "status.cuh"

namespace mojd {

// A ray z must have -q'z above this many times max|A*z|: if q = A*a then -q'z <= |a|_1*max|A*z|, and so what
// A*z keeps of rounding errors, or of a float32 Gramian's, is not taken for a ray.
constexpr double RAY = 1e3;
// Entries of a null direction below this part of its largest are rounding errors.
constexpr double ZERO = 1e-12;
// Another value of `state`: out for as long as nothing else moves.
constexpr int SET_ASIDE = 3;
// What becomes of an exchange.
enum Exchange { MOVED, FREE, TOO_SHORT };

// What the solvers of one problem work on. Vectors are long enough for K + 1 numbers.
struct Workspace {
    int K;
    Factor U;
    double *x, *y, *z, *w, *forwarded, *s, *dense;
    int *passive, *state;

    // How many vectors there are, with that of the factor.
    static constexpr int vectors = 8;

    // Cuts vectors of `length` numbers out of `memory`, and from `integers` on those of indices. The factor
    // lies in `U_memory`, what it needs beside it in `strip`.
    __device__ Workspace(int size, double* U_memory, double* memory, double* strip, double* integers,
                         int length)
        : K(size),
          U{U_memory, length, memory, strip},
          x(memory + length),
          y(memory + 2 * length),
          z(memory + 3 * length),
          w(memory + 4 * length),
          forwarded(memory + 5 * length),
          s(memory + 6 * length),
          dense(memory + 7 * length),
          passive(reinterpret_cast<int*>(integers)),
          state(passive + length) {}
};

// Takes the p-th passive index out of the passive set; returns the new size.
template <class Group>
__device__ __noinline__ int drop(const Group& group, int p, int m, const Workspace& work) {
    if (group.rank == 0) work.state[work.passive[p]] = OUT;
    group.sync();
    remove(group, work.U, work.passive, m, p, work.w);
    shift_down(group, work.x, p, m);
    return m - 1;
}

// Moves x to the minimiser on the passive set, dropping what blocks the way; returns its size.
//
// `entered` is the index that came in last. Were it to leave before x has moved at all, it came in on a
// rounding error: it is then set aside until another index has entered.
template <class Group>
__device__ __noinline__ int minimise_on_passive(const Group& group, const double* q, int entered, int m,
                                                const Workspace& work) {
    double *x = work.x, *y = work.y;
    while (true) {
        for (int i = group.rank; i < m; i += group.size) y[i] = -q[work.passive[i]];
        group.sync();
        solve(group, work.U, m, y);
        Least blocking{0.0, -1};
        for (int i = group.rank; i < m; i += group.size)
            if (y[i] <= 0.0) blocking.take(x[i] > 0.0 ? x[i] / (x[i] - y[i]) : 0.0, i);
        blocking = group.least(blocking);
        double step = blocking.index < 0 ? 1.0 : blocking.value;
        for (int i = group.rank; i < m; i += group.size)
            x[i] = blocking.index < 0 ? y[i] : x[i] + step * (y[i] - x[i]);
        group.sync();
        if (blocking.index < 0) return m;
        int leaving = work.passive[blocking.index];
        m = drop(group, blocking.index, m, work);
        if (leaving == entered && step == 0.0) {
            if (group.rank == 0) work.state[leaving] = SET_ASIDE;
            group.sync();
        }
    }
}

// Brings the dependent index j in for the passive index that its null direction z drives out; updates m. The
// way down may be too short to be told from rounding errors.
template <class Group>
__device__ __noinline__ Exchange exchange(const Group& group, const Matrix& A, int j, double slope, int& m,
                                          const Workspace& work, double rank_noise) {
    double *x = work.x, *z = work.z, entering = 0.0;
    while (true) {
        double largest = 1.0;
        for (int i = group.rank; i < m; i += group.size)
            largest = fabs(z[i]) > largest ? fabs(z[i]) : largest;
        largest = group.maximum(largest);
        Least blocking{0.0, -1};
        for (int i = group.rank; i < m; i += group.size)
            if (z[i] < -ZERO * largest) blocking.take(-x[i] / z[i], i);
        blocking = group.least(blocking);
        double step = blocking.value;
        if (blocking.index < 0 || !(step < infinity())) return FREE;
        if (entering == 0.0 && -slope <= 0.5 * step * null_noise(group, z, m, rank_noise)) return TOO_SHORT;
        for (int i = group.rank; i < m; i += group.size) {
            double moved = x[i] + step * z[i];
            x[i] = moved > 0.0 ? moved : 0.0;
        }
        entering += step;
        group.sync();
        m = drop(group, blocking.index, m, work);
        double pivot = append(group, A, work.passive, m, j, work.U, work.w);
        if (!is_dependent(group, A(j, j), pivot, work.U, m, z, rank_noise)) {
            if (group.rank == 0) {
                work.passive[m] = j;
                work.state[j] = PASSIVE;
                x[m] = entering;
            }
            m++;
            group.sync();
            return MOVED;
        }
    }
}

// Whether (z, 1) on the passive indices and j is a direction of unbounded descent; uses w.
template <class Group>
__device__ __noinline__ bool is_ray(const Group& group, const Matrix& A, int m, int j, double slope,
                                    const Workspace& work) {
    double* s = work.w;
    if (group.rank == 0) {
        work.passive[m] = j;
        work.z[m] = 1.0;
    }
    for (int i = group.rank; i < work.K; i += group.size) s[i] = 0.0;
    group.sync();
    slack(group, A, s, work.passive, work.z, m + 1, work.K, s);
    double size = 0.0;
    for (int i = group.rank; i < work.K; i += group.size) size = fabs(s[i]) > size ? fabs(s[i]) : size;
    size = group.maximum(size);
    double rounding = noise(group, work.z, m + 1);
    return -slope > RAY * (size > rounding ? size : rounding);
}

struct Found {
    int status, m, iterations;
};

// Solves NNQP(A, q) from the feasible x >= 0 on the passive set passive[0 .. m), whose factor is given.
//
// `bounded` promises that the problem has a minimiser, so that a ray can only be rounding. On return
// x[0 .. m) is the solution, or on INFEASIBLE the ray.
template <class Group>
__device__ __noinline__ Found active_set(const Group& group, const Matrix& A, const double* q, int m,
                                         const Workspace& work, bool bounded, double rank_noise,
                                         int max_iterations) {
    int entered = -1, K = work.K;
    for (int iteration = 1; iteration <= max_iterations; iteration++) {
        m = minimise_on_passive(group, q, entered, m, work);
        slack(group, A, q, work.passive, work.x, m, K, work.s);
        double threshold = -noise(group, work.x, m);
        while (true) {
            Least lowest{0.0, -1};
            for (int i = group.rank; i < K; i += group.size)
                if (work.state[i] == OUT && work.s[i] < threshold) lowest.take(work.s[i], i);
            lowest = group.least(lowest);
            int j = lowest.index;
            if (j < 0) return Found{OPTIMAL, m, iteration};
            double pivot = append(group, A, work.passive, m, j, work.U, work.w);
            entered = j;
            if (!is_dependent(group, A(j, j), pivot, work.U, m, work.z, rank_noise)) {
                if (group.rank == 0) {
                    work.passive[m] = j;
                    work.state[j] = PASSIVE;
                    work.x[m] = 0.0;
                }
                m++;
                group.sync();
                break;
            }
            Exchange outcome = exchange(group, A, j, lowest.value, m, work, rank_noise);
            if (outcome == MOVED) break;
            if (outcome == FREE && !bounded && is_ray(group, A, m, j, lowest.value, work)) {
                for (int i = group.rank; i < m; i += group.size)
                    work.x[i] = work.z[i] > 0.0 ? work.z[i] : 0.0;
                if (group.rank == 0) work.x[m] = 1.0;
                group.sync();
                return Found{INFEASIBLE, m + 1, iteration};
            }
            if (group.rank == 0) work.state[j] = SET_ASIDE;
            group.sync();
        }
        for (int i = group.rank; i < K; i += group.size)
            if (work.state[i] == SET_ASIDE) work.state[i] = OUT;
        group.sync();
    }
    return Found{MAX_ITER, m, max_iterations};
}

}  // namespace mojd
