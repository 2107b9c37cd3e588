"""Feed problems to the lanes, and what the lanes leave to the scalar solver."""

from __future__ import annotations

import math

import numpy as np

from mojd.kernels.compiling import inner
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.lane_pivoting import IDLE, RUNNING, SOLVED, iterate, lane_buffers, start_lane
from mojd.kernels.lanes import WIDTH
from mojd.kernels.scalar import normalise_linear, solve_equilibrated, write_solution
from mojd.kernels.status import INFEASIBLE, NONFINITE, OPTIMAL

# Fewer problems than this leave too many lanes empty.
FEWEST = 3


@inner
def answer_at_once(A, q, magnitude, scale, x):
    """Answer a problem that needs no solving; return its status, or −1 if it does need solving."""
    if not magnitude >= 0.0:
        x[:] = math.nan
        return NONFINITE
    if magnitude == 0.0:
        x[:] = 0.0
        return OPTIMAL
    for j in range(q.size):
        if A[j, j] == 0.0 and q[j] < 0.0:
            x[:] = 0.0
            x[j] = scale[j]
            return INFEASIBLE
    return -1


@inner
def lane_state(K):
    """Allocate the integers that describe the lanes."""
    return (
        np.empty((WIDTH, K), np.int64),
        np.zeros(WIDTH, np.int64),
        np.zeros((WIDTH, K), np.uint8),
        np.zeros(WIDTH, np.int64),
        np.zeros(WIDTH, np.int64),
        np.full(WIDTH, IDLE),
        np.full(WIDTH, -1),
        np.zeros(WIDTH, np.int64),
    )


@inner
def finish_lane(A, scale, magnitude, lane, q, passive, m, y, outcome, bounded, x, spare):
    """Write the solution of a lane, by the scalar solver if the lane gave up; return (status, n)."""
    if outcome == SOLVED:
        x[:] = 0.0
        for i in range(m[lane]):
            j = passive[lane, i]
            x[j] = max(y[i * WIDTH + lane], 0.0) * scale[j] * magnitude
        return OPTIMAL, 0
    status, count, iterations = solve_equilibrated(A, q[lane], spare[0], spare[1], bounded)
    write_solution(spare[0][0], spare[1][0], count, status, scale, magnitude, x)
    return status, iterations


@inner
def solve_shared(A, scale, linear, x, status, iterations, bounded, spare):
    """Solve NNQP(G, linear[r]) for all rows r; A and scale are those of :func:`equilibrate`."""
    R, K = linear.shape
    passive, m, state, best, patience, outcome, task, count = lane_state(K)
    q, magnitude = np.zeros((WIDTH, K)), np.zeros(WIDTH)
    buffers = lane_buffers(K)
    matrices, following, running = A.reshape(1, K, K), 0, 0
    while True:
        for lane in range(WIDTH):
            while outcome[lane] == IDLE and following < R:
                r = following
                following += 1
                magnitude[lane] = normalise_linear(linear[r], scale, q[lane])
                iterations[r] = 0
                code = answer_at_once(A, q[lane], magnitude[lane], scale, x[r])
                if code >= 0:
                    status[r] = code
                    continue
                start_lane(lane, q, passive, m, state, best, patience)
                outcome[lane], task[lane], count[lane] = RUNNING, r, 0
                running += 1
        if running == 0:
            return
        iterate(matrices, q, passive, m, state, best, patience, outcome, buffers)
        for lane in range(WIDTH):
            if outcome[lane] == IDLE:
                continue
            count[lane] += 1
            if outcome[lane] == RUNNING:
                continue
            r = task[lane]
            status[r], more = finish_lane(
                A,
                scale,
                magnitude[lane],
                lane,
                q,
                passive,
                m,
                buffers[1],
                outcome[lane],
                bounded,
                x[r],
                spare,
            )
            iterations[r] = count[lane] + more
            outcome[lane], m[lane] = IDLE, 0
            running -= 1


@inner
def solve_own(G, linear, x, status, iterations, bounded, tolerance, tiny, spare):
    """Solve NNQP(G[b], linear[b, 0]) for all b, one right-hand side each."""
    B, _, K = linear.shape
    passive, m, state, best, patience, outcome, task, count = lane_state(K)
    q, magnitude = np.zeros((WIDTH, K)), np.zeros(WIDTH)
    matrices, scale = np.zeros((WIDTH, K, K)), np.ones((WIDTH, K))
    buffers = lane_buffers(K)
    following, running = 0, 0
    while True:
        for lane in range(WIDTH):
            while outcome[lane] == IDLE and following < B:
                b = following
                following += 1
                iterations[b, 0] = 0
                code = equilibrate(G[b], matrices[lane], scale[lane], tolerance, tiny)
                if code != OPTIMAL:
                    x[b, 0, :] = math.nan
                if code == OPTIMAL:
                    magnitude[lane] = normalise_linear(linear[b, 0], scale[lane], q[lane])
                    code = answer_at_once(matrices[lane], q[lane], magnitude[lane], scale[lane], x[b, 0])
                if code >= 0:
                    status[b, 0] = code
                    continue
                start_lane(lane, q, passive, m, state, best, patience)
                outcome[lane], task[lane], count[lane] = RUNNING, b, 0
                running += 1
        if running == 0:
            return
        iterate(matrices, q, passive, m, state, best, patience, outcome, buffers)
        for lane in range(WIDTH):
            if outcome[lane] == IDLE:
                continue
            count[lane] += 1
            if outcome[lane] == RUNNING:
                continue
            b = task[lane]
            status[b, 0], more = finish_lane(
                matrices[lane],
                scale[lane],
                magnitude[lane],
                lane,
                q,
                passive,
                m,
                buffers[1],
                outcome[lane],
                bounded,
                x[b, 0],
                spare,
            )
            iterations[b, 0] = count[lane] + more
            outcome[lane], m[lane] = IDLE, 0
            running -= 1
