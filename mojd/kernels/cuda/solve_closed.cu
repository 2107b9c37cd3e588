#pragma once
// Solve NNQP(G, q) for K <= 3 by closed forms: a thread for every right-hand side.
#include "closed_form.cuh"
#include "staging.cuh"
#include "status.cuh"

namespace mojd {

// Writes x, status (OPTIMAL or UNSETTLED) and iterations (B, R) for G (B, K, K) and q (B, R, K).
template <class T, int K>
__global__ void __launch_bounds__(BATCH)
    solve_closed(const T* G, const T* q, double* x, signed char* status, int* iterations, long long count,
                 long long rows, double tolerance) {
    MOJD_SHARED(double, shared);
    const int thread = threadIdx.x;
    double *matrices = shared, *terms = shared + BATCH * odd(K * K), *solutions = terms + BATCH * odd(K);
    const long long total = count * rows;
    for (long long first = blockIdx.x * static_cast<long long>(BATCH); first < total;
         first += gridDim.x * static_cast<long long>(BATCH)) {
        int here = total - first < BATCH ? total - first : BATCH;
        long long t = first + thread;
        double* matrix = matrices + thread * odd(K * K);
        if (rows == 1) {
            stage_in<K * K>(matrices, G, first, here);
        } else if (thread < here) {
            for (int i = 0; i < K * K; i++) matrix[i] = widen(G[t / rows * K * K + i]);
        }
        stage_in<K>(terms, q, first, here);
        __syncthreads();
        if (thread < here) {
            double solution[3] = {0.0, 0.0, 0.0};
            const double* term = terms + thread * odd(K);
            detach_zero_rows<K>(matrix, term);
            bool settled = solve_small(matrix, K, term, K, tolerance, solution);
            for (int i = 0; i < K; i++) solutions[thread * odd(K) + i] = settled ? solution[i] : 0.0;
            status[t] = settled ? OPTIMAL : UNSETTLED;
            iterations[t] = 0;
        }
        __syncthreads();
        stage_out<K>(solutions, x, first, here);
    }
}

}  // namespace mojd
