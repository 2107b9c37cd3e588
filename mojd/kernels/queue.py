"""Feed problems to the lanes: a lane that is done takes the next problem of the queue at once."""

from __future__ import annotations

import math

from mojd.kernels.compiling import inner
from mojd.kernels.complement import (
    expect_dense,
    invert,
    is_dense,
    is_minimiser,
    linear_term_of_slack,
    read_slack,
)
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
from mojd.kernels.workspace import lane_arrays, lane_integers, matrix, padded, tableau_arrays


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
def prepare(A, H, complement, guessed, linear, scale, row, pair, x):
    """Write a linear term, normalised and as it is seen from the side of A or H, to `row`.

    x gets positive numbers where the passive set of A is guessed to be, unless they are there already.
    Returns the status and the magnitude.
    """
    magnitude = normalise_linear(linear, scale, row)
    status = answer_at_once(A, row, magnitude, scale, x)
    if status == UNSETTLED and complement:
        linear_term_of_slack(H, row, pair[0])
        for j in range(row.size):
            row[j] = pair[0, j]
    if status == UNSETTLED and not guessed:
        side = H if complement else A
        guess(side.reshape(side.size), row, pair[0], pair[1], x.size)
        for j in range(x.size):
            x[j] = 1.0 if (pair[0, j] > 0.0) != complement else 0.0
    return status, magnitude


@inner
def finish_complement(lane, A, linear, scale, magnitude, state, buffers, row, pair, x):
    """Write the solution that a lane found with H; return UNSETTLED if it is none, but a start."""
    s, p = buffers[3], buffers[11]
    read_slack(lane, state, s, p, x)
    normalise_linear(linear, scale, row)
    if not is_minimiser(A, row, x, pair[0]):
        return UNSETTLED
    for j in range(x.size):
        x[j] *= scale[j] * magnitude
    return OPTIMAL


@inner
def run_lanes(
    A,
    H,
    complement,
    guessed,
    linear,
    scale,
    row,
    pair,
    x,
    status,
    iterations,
    buffers,
    passive,
    state,
    lanes,
    suspect,
):
    """Solve what is UNSETTLED in lanes: with A itself, or with H what is better seen from there."""
    R, K = linear.shape
    clear_lanes(passive, state, lanes)
    m, best, patience, outcome, task = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    flips, rows = lanes[5], lanes[6]
    y, q, magnitude = buffers[1], buffers[11], buffers[12]
    side = H if complement else A
    flat = side.reshape(side.size)
    q[:] = 0.0
    following, running = 0, 0
    while True:
        for lane in range(WIDTH):
            while outcome[lane] == IDLE and following < R:
                r = following
                following += 1
                if status[r] != UNSETTLED:
                    continue
                status[r], magnitude[lane] = prepare(
                    A, H, complement, guessed, linear[r], scale, row, pair, x[r]
                )
                if status[r] != UNSETTLED or (complement and not is_dense(x[r])):
                    continue
                load_lane(lane, row[:K], q)
                start_lane(lane, x[r], complement, passive, m, state, best, patience)
                outcome[lane], task[lane] = RUNNING, r
                running += 1
        if running == 0:
            break
        iterate(flat, passive, m, state, best, patience, outcome, flips, rows, buffers, suspect)
        for lane in range(WIDTH):
            r = task[lane]
            if outcome[lane] != IDLE:
                iterations[r] += 1
            if outcome[lane] == SOLVED and complement:
                status[r] = finish_complement(
                    lane, A, linear[r], scale, magnitude[lane], state, buffers, row, pair, x[r]
                )
            elif outcome[lane] == SOLVED:
                write_lane(scale, magnitude[lane], lane, passive, m[lane], y, x[r])
                status[r] = OPTIMAL
            if outcome[lane] == SOLVED or outcome[lane] == GIVEN_UP:
                outcome[lane], m[lane] = IDLE, 0
                running -= 1


@inner
def solve_shared(G, linear, x, status, iterations, tolerance, tiny, floats, integers):
    """Solve NNQP(G, linear[r]) for all rows r.

    What the lanes give up on is left to tableaus if K is small, and is UNSETTLED if those give up too.
    """
    R, K = linear.shape
    A, row, pair, S, solution, work, scale, at = tableau_arrays(floats, K)
    code = equilibrate(G, A, scale, tolerance, tiny)
    status[:] = code if code != OPTIMAL else UNSETTLED
    iterations[:] = 0
    if code != OPTIMAL:
        for r in range(R):
            x[r, :] = math.nan
        return
    H, at = matrix(floats, at, K, padded(K))
    buffers = lane_arrays(floats, at, K)
    passive, state, lanes = lane_integers(integers, K)
    suspect = suspect_pivot(rank_noise(tolerance))
    dense = expect_dense(A, pair[0], pair[1]) and invert(A, H, pair[0], pair[1])
    for side in range(0 if dense else 1, 2):
        run_lanes(
            A,
            H,
            side == 0,
            dense and side == 1,
            linear,
            scale,
            row,
            pair,
            x,
            status,
            iterations,
            buffers,
            passive,
            state,
            lanes,
            suspect,
        )
    if K <= LARGEST_TABLEAU:
        for r in range(R):
            if status[r] == UNSETTLED:
                status[r], pivots = solve_row(A, scale, linear[r], x[r], row, S, solution, work, suspect)
                iterations[r] += pivots
