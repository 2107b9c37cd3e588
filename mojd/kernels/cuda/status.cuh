// The integers that kernels return: those of mojd/kernels/status.py.
#pragma once

namespace mojd {

constexpr int OPTIMAL = 0, INFEASIBLE = 1, NONFINITE = 2, MAX_ITER = 3;
// Why a Gramian is refused.
constexpr int FIRST_REFUSAL = 16, ASYMMETRIC = 16, NEGATIVE_DIAGONAL = 17, NOT_PSD = 18;
// No answer: a closed form or a tableau leaves the problem to the general solver.
constexpr int UNSETTLED = 64;

// What callers on a device see of a refusal, as they can't be told by an exception.
__device__ inline int visible(int code, bool keep_refusals) {
    return code >= FIRST_REFUSAL && !keep_refusals ? MAX_ITER : code;
}

}  // namespace mojd
