"""Feed problems to the lanes, and what the lanes leave to the scalar solver."""

from __future__ import annotations

import math

import numpy as np

from mojd.kernels.compiling import inner
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.lane_pivoting import GIVEN_UP, IDLE, RUNNING, SOLVED, iterate, lane_buffers, start_lane
from mojd.kernels.lanes import WIDTH
from mojd.kernels.scalar import normalise_linear, solve_equilibrated, write_solution
from mojd.kernels.status import INFEASIBLE, NONFINITE, OPTIMAL, UNSETTLED


@inner
def answer_at_once(A, q, magnitude, scale, x):
    """Answer a problem that needs no solving; return its status, or UNSETTLED."""
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
    return UNSETTLED


@inner
def lane_state(K):
    """Allocate the integers that describe the lanes."""
    per_lane = np.zeros((7, WIDTH), np.int64)
    per_lane[3, :] = IDLE
    return np.zeros(WIDTH * (K + 2), np.int64), np.zeros(WIDTH * K, np.int64), per_lane


@inner
def load_lane(lane, linear, q):
    """Copy a linear term (K,) into a lane of q."""
    for j in range(linear.size):
        q[j * WIDTH + lane] = linear[j]


@inner
def finish_lane(A, scale, magnitude, lane, q, passive, m, y, outcome, bounded, x, spare):
    """Write the solution of a lane, by the scalar solver if the lane gave up; return (status, n)."""
    if outcome == SOLVED:
        for j in range(x.size):
            x[j] = 0.0
        for i in range(m):
            j, value = passive[i * WIDTH + lane], y[i * WIDTH + lane]
            x[j] = (value if value > 0.0 else 0.0) * scale[j] * magnitude
        return OPTIMAL, 0
    linear = spare[0][7]
    for j in range(x.size):
        linear[j] = q[j * WIDTH + lane]
    status, count, iterations = solve_equilibrated(A, linear, spare[0], spare[1], bounded)
    write_solution(spare[0][0], spare[1][0], count, status, scale, magnitude, x)
    return status, iterations


@inner
def solve_shared(A, scale, linear, x, status, iterations, bounded, spare):
    """Solve NNQP(G, linear[r]) for all rows r; A and scale are those of :func:`equilibrate`."""
    R, K = linear.shape
    passive, state, lanes = lane_state(K)
    m, best, patience, outcome, task, count, base = lanes
    q, magnitude, row = np.zeros(K * WIDTH), np.zeros(WIDTH), spare[0][7]
    buffers, flat = lane_buffers(K), A.reshape(K * K)
    following, running = 0, 0
    while True:
        for lane in range(WIDTH):
            while outcome[lane] == IDLE and following < R:
                r = following
                following += 1
                magnitude[lane] = normalise_linear(linear[r], scale, row)
                status[r], iterations[r] = answer_at_once(A, row, magnitude[lane], scale, x[r]), 0
                if status[r] == UNSETTLED:
                    load_lane(lane, row, q)
                    start_lane(lane, q, passive, m, state, best, patience)
                    outcome[lane], task[lane], count[lane] = RUNNING, r, 0
                    running += 1
        if running == 0:
            return
        iterate(flat, base, q, passive, m, state, best, patience, outcome, buffers)
        for lane in range(WIDTH):
            count[lane] += 1
            if outcome[lane] == SOLVED or outcome[lane] == GIVEN_UP:
                r = task[lane]
                status[r], more = finish_lane(
                    A,
                    scale,
                    magnitude[lane],
                    lane,
                    q,
                    passive,
                    m[lane],
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
    passive, state, lanes = lane_state(K)
    m, best, patience, outcome, task, count, base = lanes
    q, magnitude, row = np.zeros(K * WIDTH), np.zeros(WIDTH), spare[0][7]
    matrices, scale = np.zeros((WIDTH, K, K)), np.ones((WIDTH, K))
    buffers, flat = lane_buffers(K), matrices.reshape(WIDTH * K * K)
    for lane in range(WIDTH):
        base[lane] = lane * K * K
    following, running = 0, 0
    while True:
        for lane in range(WIDTH):
            while outcome[lane] == IDLE and following < B:
                b = following
                following += 1
                code = equilibrate(G[b], matrices[lane], scale[lane], tolerance, tiny)
                if code == OPTIMAL:
                    magnitude[lane] = normalise_linear(linear[b, 0], scale[lane], row)
                    code = answer_at_once(matrices[lane], row, magnitude[lane], scale[lane], x[b, 0])
                else:
                    x[b, 0, :] = math.nan
                status[b, 0], iterations[b, 0] = code, 0
                if code == UNSETTLED:
                    load_lane(lane, row, q)
                    start_lane(lane, q, passive, m, state, best, patience)
                    outcome[lane], task[lane], count[lane] = RUNNING, b, 0
                    running += 1
        if running == 0:
            return
        iterate(flat, base, q, passive, m, state, best, patience, outcome, buffers)
        for lane in range(WIDTH):
            count[lane] += 1
            if outcome[lane] == SOLVED or outcome[lane] == GIVEN_UP:
                b = task[lane]
                status[b, 0], more = finish_lane(
                    matrices[lane],
                    scale[lane],
                    magnitude[lane],
                    lane,
                    q,
                    passive,
                    m[lane],
                    buffers[1],
                    outcome[lane],
                    bounded,
                    x[b, 0],
                    spare,
                )
                iterations[b, 0] = count[lane] + more
                outcome[lane], m[lane] = IDLE, 0
                running -= 1
