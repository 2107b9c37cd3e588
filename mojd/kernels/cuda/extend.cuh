// Factor many new passive indices at once, a strip of rows of U after the other.
//
// Each thread computes the strip's part of its own columns in registers: an entry of the rows above, read once,
// serves all rows of the strip. The small triangle on the diagonal is factored in shared memory.
#pragma once

#include "factor.cuh"
#include "group.cuh"
#include "matrix.cuh"

namespace mojd {

// A strip: rows k .. k + rows of U, of which `triangle` holds what lies on the diagonal.
template <int STRIP>
struct Strip {
    int k, rows;
    double *triangle, *factors;

    __device__ Strip(const Factor& U, int first, int left)
        : k(first), rows(left < STRIP ? left : STRIP), triangle(U.strip), factors(U.strip + STRIP * STRIP) {}
};

// Computes column j of a strip (if j < count) less what the rows above leave in it.
template <class Group, int STRIP>
__device__ void take_off_above(const Group& group, const Matrix& A, const int* passive, const Factor& U,
                               const Strip<STRIP>& strip, int j, int count, double (&sums)[STRIP]) {
    for (int r = 0; r < STRIP; r++)
        sums[r] = r < strip.rows && j < count ? A(passive[strip.k + r], passive[j]) : 0.0;
    for (int first = 0; first < strip.k; first += Group::stage) {
        int rows = strip.k - first < Group::stage ? strip.k - first : Group::stage;
        for (int t = group.rank; t < rows * STRIP; t += group.size) {
            int i = first + t / STRIP, r = t % STRIP;
            strip.factors[t] = r < strip.rows ? U(i, strip.k + r) * U.inverse[i] : 0.0;
        }
        group.sync();
        if (j < count) {
#pragma unroll 4
            for (int i = 0; i < rows; i++) {
                double entry = U(first + i, j);
#pragma unroll
                for (int r = 0; r < STRIP; r++) sums[r] -= strip.factors[i * STRIP + r] * entry;
            }
        }
        group.sync();
    }
}

// Takes the strip's own rows off each other in column j, and writes it.
template <int STRIP>
__device__ void finish_column(const Factor& U, const Strip<STRIP>& strip, int j, int count,
                                     double (&sums)[STRIP]) {
    if (j >= count) return;
#pragma unroll
    for (int r = 0; r < STRIP; r++) {
        if (r >= strip.rows) break;
        double scaled = sums[r] * U.inverse[strip.k + r];
#pragma unroll
        for (int below = r + 1; below < STRIP; below++)
            if (below < strip.rows) sums[below] -= strip.triangle[r * STRIP + below] * scaled;
        // What would lie below the diagonal has no place of its own: it is the end of the row above.
        if (strip.k + r <= j) U(strip.k + r, j) = sums[r];
    }
}

// Computes columns first .. count of a strip whose triangle is factored.
template <class Group, int STRIP>
__device__ void finish_strip(const Group& group, const Matrix& A, const int* passive, const Factor& U,
                             const Strip<STRIP>& strip, int first, int count) {
    for (int start = first; start < count; start += group.size) {
        double sums[STRIP];
        int j = start + group.rank;
        take_off_above(group, A, passive, U, strip, j, count, sums);
        finish_column(U, strip, j, count, sums);
    }
    group.sync();
}

// Factors the triangle of a strip up to the first suspect pivot; returns how many rows that are.
template <class Group, int STRIP>
__device__ int factor_triangle(const Group& group, const Matrix& A, const int* passive, const Factor& U,
                               const Strip<STRIP>& strip, double suspect) {
    double* D = strip.triangle;
    for (int r = 0; r < strip.rows; r++) {
        int index = passive[strip.k + r];
        double pivot = D[r * STRIP + r];
        if (!(pivot > suspect * A(index, index))) return r;
        if (group.rank == 0) U.inverse[strip.k + r] = 1.0 / pivot;
        int c = r + 1 + group.rank;
        if (c < strip.rows)
            for (int below = r + 1; below <= c; below++)
                D[below * STRIP + c] -= D[r * STRIP + below] * (D[r * STRIP + c] / pivot);
        group.sync();
    }
    return strip.rows;
}

// Factors passive[0 .. count), whose first `kept` rows and columns are done; returns the new size. Indices that
// depend on those before them are taken out of the list, with state 0.
template <class Group>
__device__ __noinline__ int extend(const Group& group, const Matrix& A, int* passive, int kept, int count, int* state,
                      const Factor& U, double* z, double noise) {
    constexpr int STRIP = Group::strip;
    for (int k = 0; k < kept && kept < count; k += STRIP) {
        Strip<STRIP> strip(U, k, kept - k);
        for (int t = group.rank; t < STRIP * STRIP; t += group.size) {
            int r = t / STRIP, c = t % STRIP;
            if (r < c && c < strip.rows) strip.triangle[t] = U(k + r, k + c);
        }
        group.sync();
        finish_strip(group, A, passive, U, strip, kept, count);
    }
    for (int k = kept; k < count;) {
        Strip<STRIP> strip(U, k, count - k);
        double sums[STRIP];
        int j = k + group.rank;
        take_off_above(group, A, passive, U, strip, j, count, sums);
        if (group.rank < strip.rows)
            for (int r = 0; r < STRIP; r++)
                if (r <= group.rank) strip.triangle[r * STRIP + group.rank] = sums[r];
        group.sync();
        strip.rows = factor_triangle(group, A, passive, U, strip, suspect_pivot(noise));
        if (strip.rows == 0) {
            int row = passive[k];
            double pivot = strip.triangle[0];
            // All threads have read them.
            group.sync();
            if (is_dependent(group, A(row, row), pivot, U, k, z, noise)) {
                count--;
                if (group.rank == 0) {
                    state[row] = 0;
                    passive[k] = passive[count];
                }
                for (int i = group.rank; i < k; i += group.size) U(i, k) = U(i, count);
                group.sync();
                continue;
            }
            if (group.rank == 0) U.inverse[k] = 1.0 / pivot;
            strip.rows = 1;
            group.sync();
        }
        finish_column(U, strip, j, count, sums);
        finish_strip(group, A, passive, U, strip, k + group.size, count);
        k += strip.rows;
    }
    return count;
}

}  // namespace mojd
