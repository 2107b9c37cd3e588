"""Feed problems to the lanes: a lane that is done takes the next problem of the queue at once."""

from __future__ import annotations

import math

from mojd.kernels.compiling import inner
from mojd.kernels.equilibrate import equilibrate
from mojd.kernels.factor import rank_noise, suspect_pivot
from mojd.kernels.guess import guess
from mojd.kernels.lane_pivoting import (
    GIVEN_UP,
    IDLE,
    RUNNING,
    SOLVED,
    iterate,
    start_lane,
)
from mojd.kernels.lanes import WIDTH
from mojd.kernels.linear_term import answer_at_once, normalise_linear
from mojd.kernels.sizes import LARGEST_TABLEAU
from mojd.kernels.small import solve_row
from mojd.kernels.status import OPTIMAL, UNSETTLED
from mojd.kernels.workspace import lane_arrays, lane_integers, tableau_arrays


@inner
def clear_lanes(passive, state, lanes):
    """Make all lanes idle."""
    passive[:] = 0
    state[:] = 0
    for lane in range(WIDTH):
        for i in range(lanes.shape[0]):
            lanes[i, lane] = IDLE if i == 3 else 0


@inner
def load_lane(lane, linear, q):
    """Copy a linear term (K,) into a lane of q."""
    for j in range(linear.size):
        q[j * WIDTH + lane] = linear[j]


@inner
def write_lane(scale, magnitude, lane, passive, m, y, x):
    """Write the solution of a lane in the caller's units."""
    for j in range(x.size):
        x[j] = 0.0
    for i in range(m):
        j, value = passive[i * WIDTH + lane], y[i * WIDTH + lane]
        x[j] = (value if value > 0.0 else 0.0) * scale[j] * magnitude


@inner
def solve_shared(G, linear, x, status, iterations, tolerance, tiny, floats, integers):
    """Solve NNQP(G, linear[r]) for all rows r.

    What the lanes give up on is left to tableaus if K is small, and is UNSETTLED if those give up too.
    """
    R, K = linear.shape
    A, row, pair, S, solution, work, scale, at = tableau_arrays(floats, K)
    code = equilibrate(G, A, scale, tolerance, tiny)
    if code != OPTIMAL:
        for r in range(R):
            x[r, :] = math.nan
        status[:] = code
        iterations[:] = 0
        return
    buffers = lane_arrays(floats, at, K)
    passive, state, lanes = lane_integers(integers, K)
    clear_lanes(passive, state, lanes)
    m, best, patience, outcome, task = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    flips, rows = lanes[5], lanes[6]
    y, q, magnitude, flat = buffers[1], buffers[11], buffers[12], A.reshape(A.size)
    q[:] = 0.0
    following, running, suspect = 0, 0, suspect_pivot(rank_noise(tolerance))
    while True:
        for lane in range(WIDTH):
            while outcome[lane] == IDLE and following < R:
                r = following
                following += 1
                magnitude[lane] = normalise_linear(linear[r], scale, row)
                status[r], iterations[r] = answer_at_once(A, row, magnitude[lane], scale, x[r]), 0
                if status[r] == UNSETTLED:
                    load_lane(lane, row[:K], q)
                    guess(flat, row, pair[0], pair[1], K)
                    start_lane(lane, pair[0, :K], passive, m, state, best, patience)
                    outcome[lane], task[lane] = RUNNING, r
                    running += 1
        if running == 0:
            break
        iterate(flat, passive, m, state, best, patience, outcome, flips, rows, buffers, suspect)
        for lane in range(WIDTH):
            r = task[lane]
            if outcome[lane] != IDLE:
                iterations[r] += 1
            if outcome[lane] == SOLVED:
                write_lane(scale, magnitude[lane], lane, passive, m[lane], y, x[r])
                status[r] = OPTIMAL
            if outcome[lane] == SOLVED or outcome[lane] == GIVEN_UP:
                outcome[lane], m[lane] = IDLE, 0
                running -= 1
    if K <= LARGEST_TABLEAU:
        for r in range(R):
            if status[r] == UNSETTLED:
                status[r], pivots = solve_row(A, scale, linear[r], x[r], row, S, solution, work, suspect)
                iterations[r] += pivots
