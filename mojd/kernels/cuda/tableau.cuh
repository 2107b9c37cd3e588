// Principal pivoting on a tableau, by a tile with a lane for every index: every pivot is one sweep of a
// matrix in shared memory.
//
// Sweeping A on the passive set F (Goodnight, The American Statistician 33, 1979) leaves -inverse(A_FF) in
// its place, A_NF*inverse(A_FF) beside it and the Schur complement in the rest; the linear term, swept along,
// becomes -x_F and s_N. So the signs of one vector say which index should change sides next. The rule (always
// the most infeasible one) might cycle, and pivots may be small: both are noticed and left to the general
// solver. What is accepted has been checked against A itself, and refined.
#pragma once

#include "factor.cuh"
#include "gradient.cuh"
#include "group.cuh"
#include "status.cuh"

namespace mojd {

struct Swept {
    int status, pivots;
};

// Takes a step of iterative refinement, x_F -= inverse(A_FF)*s_F, where -inverse(A_FF) is in S; `x` is the
// lane's own and `s` its slack. `row` is shared memory for a number per lane.
template <int W>
__device__ double corrected(const Tile<W>& tile, const double* S, int stride, int K, double x, double s,
                            bool passive, double* row) {
    tile.sync();
    row[tile.rank] = passive ? s : 0.0;
    tile.sync();
    double total = 0.0;
    if (passive)
        for (int i = 0; i < K; i++) total += row[i] * S[i * stride + tile.rank];
    return x + total;
}

// The lane's own entry of q + A*x, accumulated with twice the working precision.
template <int W>
__device__ double own_slack(const Tile<W>& tile, const double* A, int stride, int K, double q, double x,
                            double* row) {
    tile.sync();
    row[tile.rank] = x;
    tile.sync();
    Pair sum{q, 0.0};
    if (tile.rank < K)
        for (int i = 0; i < K; i++)
            if (row[i] != 0.0) sum.add_product(A[i * stride + tile.rank], row[i]);
    return sum.value();
}

// Takes factors[i]*entry off the i-th number of a column. Numbers are read some at a time before any of them
// is written: for all the compiler knows, what is written might be a factor that is still to be read.
template <int ahead>
__device__ void subtract_multiples(double* column, int stride, int K, const double* factors, double entry) {
    for (int first = 0; first < K; first += ahead) {
        double values[ahead];
#pragma unroll
        for (int r = 0; r < ahead; r++)
            values[r] = first + r < K ? column[(first + r) * stride] - factors[first + r] * entry : 0.0;
#pragma unroll
        for (int r = 0; r < ahead; r++)
            if (first + r < K) column[(first + r) * stride] = values[r];
    }
}

// Solves NNQP(A, q) for A with its diagonal in [1/2, 2) or 0, max|q| about 1 and K <= W; writes x. S is a
// matrix like A, and `row` has room for W numbers: both are work space. A relative pivot below `suspect` is
// left to the general solver. The status is OPTIMAL or UNSETTLED.
template <int W>
__device__ Swept solve_tableau(const Tile<W>& tile, const double* A, int stride, const double* q, int K,
                               double* x, double* S, double* row, double suspect) {
    const int own = tile.rank;
    const bool used = own < K;
    for (int i = 0; i < K; i++)
        if (used) S[i * stride + own] = A[i * stride + own];
    double t = used ? q[own] : 0.0, square = used ? A[own * stride + own] : 1.0, least = 1.0;
    bool passive = false;
    int pivots = 0;
    tile.sync();
    while (true) {
        double value = passive ? -t : t, total = tile.sum(passive ? fabs(t) : 0.0);
        Least worst{0.0, -1};
        if (value < -NOISE * (1.0 + total)) worst.take(value, own);
        worst = tile.least(worst);
        int p = worst.index;
        if (p < 0) break;
        double pivot = S[p * stride + p], entry = used ? S[p * stride + own] : 0.0;
        bool leaves = __shfl_sync(tile.mask, static_cast<int>(passive), p, W) != 0;
        if (!leaves) {
            double relative = pivot / tile.broadcast(square, p);
            if (!(relative > suspect)) return Swept{UNSETTLED, pivots};
            least = relative < least ? relative : least;
        }
        if (pivots == 3 * K) return Swept{UNSETTLED, pivots};
        double side = leaves ? -1.0 : 1.0, reciprocal = 1.0 / pivot;
        double scaled = tile.broadcast(t, p) * reciprocal;
        row[own] = reciprocal * entry;
        // Row p is its column p as well; with this entry, the sweep leaves there what it should.
        if (own == p) entry = pivot - side;
        tile.sync();
        t -= scaled * entry;
        if (used) {
            subtract_multiples<(W < 8 ? W : 8)>(S + own, stride, K, row, entry);
            S[p * stride + own] = own == p ? -reciprocal : side * row[own];
        }
        if (own == p) passive = !passive;
        pivots++;
        tile.sync();
    }
    double solution = passive ? -t : 0.0;
    double s = own_slack(tile, A, stride, K, used ? q[own] : 0.0, solution, row);
    solution = corrected(tile, S, stride, K, solution, s, passive, row);
    if (least < REFINE_PIVOT) {
        s = own_slack(tile, A, stride, K, used ? q[own] : 0.0, solution, row);
        solution = corrected(tile, S, stride, K, solution, s, passive, row);
        s = own_slack(tile, A, stride, K, used ? q[own] : 0.0, solution, row);
    }
    double size = NOISE * (1.0 + tile.sum(fabs(solution)));
    // Where x was corrected after s was computed, s is a little out of date.
    double violation = least < REFINE_PIVOT ? VIOLATION : 2.0 * size;
    bool sound = passive ? solution >= -size : !used || s >= -violation;
    if (used) x[own] = passive && solution > 0.0 ? solution : 0.0;
    bool unsound = tile.any(!sound);
    tile.sync();
    return Swept{unsound ? UNSETTLED : OPTIMAL, pivots};
}

}  // namespace mojd
