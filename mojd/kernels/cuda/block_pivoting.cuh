// Block principal pivoting: exchange every infeasible index at once.
//
// The method of Judice and Pires (Computers & OR 21, 1994) takes a handful of iterations whatever K is, but
// may cycle, so it only runs while the number of infeasible indices keeps falling. It never answers wrongly:
// it either ends in a point that satisfies the KKT conditions or gives up.
#pragma once

#include "extend.cuh"
#include "factor.cuh"
#include "gradient.cuh"
#include "group.cuh"

namespace mojd {

// How many iterations in a row may fail to lower the number of infeasible indices.
constexpr int PATIENCE = 3;
// Values of `state` here: out of the passive set, about to join it, and in it.
constexpr int OUT = 0, JOINING = 1, PASSIVE = 2;

struct Kept {
    int kept, count;
};

// Reorders `passive` to the indices with a positive state. The longest prefix that stays keeps its place, and
// with it its rows of the factor; the other survivors follow, and the new indices come last.
template <class Group>
__device__ Kept keep_prefix(const Group& group, int* passive, int m, int* state, int K) {
    Least leaver{0.0, -1};
    for (int i = group.rank; i < m; i += group.size)
        if (state[passive[i]] != PASSIVE) leaver.take(0.0, i);
    leaver = group.least(leaver);
    int kept = leaver.index < 0 ? m : leaver.index, count = kept, found;
    for (int first = kept; first < m; first += group.size) {
        int i = first + group.rank, index = i < m ? passive[i] : 0;
        bool stays = i < m && state[index] == PASSIVE;
        // Also a barrier: places are written after all have been read.
        int place = count + group.count_before(stays, found);
        group.sync();
        if (stays) passive[place] = index;
        count += found;
        group.sync();
    }
    for (int first = 0; first < K; first += group.size) {
        int j = first + group.rank;
        bool joins = j < K && state[j] == JOINING;
        int place = count + group.count_before(joins, found);
        if (joins) {
            passive[place] = j;
            state[j] = PASSIVE;
        }
        count += found;
    }
    group.sync();
    return Kept{kept, count};
}

struct Pivoted {
    bool solved;
    int m, iterations;
};

// Looks for the passive set by block exchanges, from the indices of state JOINING on (OUT elsewhere).
//
// All arrays but A and q are work space. On return passive[0 .. m) is the passive set with its factor, y the
// minimiser on it (which may have negative entries if the method gave up), s the slack, and state[j] =
// PASSIVE exactly for passive j.
template <class Group>
__device__ __noinline__ Pivoted block_pivoting(const Group& group, const Matrix& A, const double* q, int K,
                                               double* s, double* y, double* forwarded, double* z,
                                               int* passive, int* state, const Factor& U, double rank_noise) {
    int m = 0, patience = PATIENCE, iterations = 0;
    double best = K + 1;
    while (true) {
        iterations++;
        Kept list = keep_prefix(group, passive, m, state, K);
        m = extend(group, A, passive, list.kept, list.count, state, U, z, rank_noise);
        for (int i = list.kept + group.rank; i < m; i += group.size) forwarded[i] = -q[passive[i]];
        group.sync();
        forward(group, U, m, forwarded, list.kept);
        for (int i = group.rank; i < m; i += group.size) y[i] = forwarded[i];
        group.sync();
        backward(group, U, m, y);
        slack(group, A, q, passive, y, m, K, s);
        double threshold = -noise(group, y, m), infeasible = 0.0;
        for (int i = group.rank; i < m; i += group.size) {
            s[passive[i]] = 0.0;
            infeasible += y[i] < threshold;
        }
        group.sync();
        for (int j = group.rank; j < K; j += group.size) infeasible += s[j] < threshold;
        infeasible = group.sum(infeasible);
        if (infeasible == 0.0) return Pivoted{true, m, iterations};
        if (infeasible < best) {
            best = infeasible;
            patience = PATIENCE;
        } else if (--patience < 0) {
            return Pivoted{false, m, iterations};
        }
        for (int i = group.rank; i < m; i += group.size)
            if (y[i] < threshold) state[passive[i]] = OUT;
        for (int j = group.rank; j < K; j += group.size)
            if (s[j] < threshold) state[j] = JOINING;
        group.sync();
    }
}

}  // namespace mojd
