// The equilibrated Gramian as the general solver sees it, with what may be added to it.
#pragma once

namespace mojd {

struct Matrix {
    const double* entries;
    int stride;
    // By how much the diagonal is raised where rounding has made the matrix indefinite.
    double diagonal_factor;
    // A vector q for A + q q', or null.
    const double* rank_one;

    __device__ double operator()(int i, int j) const {
        double entry = entries[static_cast<long long>(i) * stride + j];
        if (rank_one) entry += rank_one[i] * rank_one[j];
        return i == j ? entry * diagonal_factor : entry;
    }
};

}  // namespace mojd
