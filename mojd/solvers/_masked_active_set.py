"""The finite active set of :mod:`mojd.kernels.active_set` for many problems at once, with masks.

One call of :func:`_step` lets at most one index leave or join the passive set of every problem that
is still running. Problems that are finished are carried along unchanged.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mojd._arrays import Array
from mojd.kernels.status import INFEASIBLE, MAX_ITER, OPTIMAL, UNSETTLED
from mojd.solvers._masked import (
    DRIFT,
    Batch,
    Inverse,
    Probe,
    append,
    count_true,
    delete,
    empty_inverse,
    keep,
    minimise,
    move_to,
    noise,
    one_hot,
    polish,
    positive_part,
    probe,
    product,
    refine,
)

# The constant of mojd.kernels.active_set: what separates a ray from rounding errors.
RAY = 1e3


class State(NamedTuple):
    """Where every problem stands.

    Attributes
    ----------
    inverse : Inverse
        The passive set and the inverse of its block.
    x : float64 array, shape (N, K)
        Feasible, and 0 outside of the passive set. The ray, once the status is INFEASIBLE.
    status : int8 array, shape (N,)
        UNSETTLED while running.
    iterations : int32 array, shape (N,)
        How many indices have been chosen to enter.
    aside : bool array, shape (N, K)
        The indices that stay out until another one has joined.
    last : int array, shape (N,)
        The index that joined last, -1 if none did.
    entering : bool array, shape (N, K)
        The dependent index that has begun to enter along its null direction, if any.
    mass : float64 array, shape (N,)
        The weight that it has gathered so far.
    slope : float64 array, shape (N,)
        The slack that it had when it was chosen.
    """

    inverse: Inverse
    x: Array
    status: Array
    iterations: Array
    aside: Array
    last: Array
    entering: Array
    mass: Array
    slope: Array


class Descent(NamedTuple):
    """A step towards the minimiser on the passive set.

    Attributes
    ----------
    x : float64 array, shape (N, K)
        Where it leads.
    blocking : bool array, shape (N, K)
        The index that stopped it, if any.
    stuck : bool array, shape (N,)
        Whether it did not move at all, for the index that had just joined.
    """

    x: Array
    blocking: Array
    stuck: Array


def _ratio_test(xp: Any, x: Array, falls: Array, speed: Array) -> tuple[Array, Array]:
    """Return how far x can go until an entry that `falls` with that `speed` is 0, and the entry."""
    ratio = x / xp.where(falls, speed, xp.ones_like(speed))
    ratio = xp.where(falls, ratio, xp.full_like(x, math.inf))
    return xp.min(ratio, axis=-1), xp.argmin(ratio, axis=-1)


def _descend(batch: Batch, state: State, going: Array) -> Descent:
    """Move x to the minimiser on the passive set, or to the first index that blocks the way.

    If the index that joined last leaves before x has moved, it came in on a rounding error.
    """
    xp, x = batch.xp, state.x
    y = refine(batch, state.inverse, minimise(batch, state.inverse))
    falls = state.inverse.passive & (y <= 0)
    step, index = _ratio_test(xp, x, falls, xp.where(x > 0, x - y, xp.ones_like(x)))
    blocked = going & xp.any(falls, axis=-1)
    step = keep(xp, blocked, step)
    reached = xp.where(blocked[:, None], x + step[:, None] * (y - x), y)
    return Descent(
        xp.where(going[:, None], reached, x),
        one_hot(xp, index, blocked, x.shape[-1]),
        blocked & (step == 0) & (index == state.last),
    )


def _choose(batch: Batch, state: State, x: Array, going: Array) -> tuple[Array, Array]:
    """Return the index with the most negative slack, none if all is noise, and that slack."""
    xp = batch.xp
    slack = product(batch, x) + batch.linear
    out = ~state.inverse.passive & ~state.aside
    slack = xp.where(out, slack, xp.full_like(slack, math.inf))
    slope = xp.min(slack, axis=-1)
    found = going & (slope < -noise(xp, x))
    return one_hot(xp, xp.argmin(slack, axis=-1), found, x.shape[-1]), slope


def _direction_noise(xp: Any, inverse: Inverse, found: Probe) -> Array:
    """Return the rounding errors to expect in the entries of the probed direction.

    What Gram-Schmidt leaves is orthogonal to the columns of the root up to rounding; the error is a
    combination of these columns. An entry that is 0 but for it must not stand in a ray's way.
    """
    lengths = xp.sqrt(xp.sum(inverse.root * inverse.root, axis=-1))
    return noise(xp, found.direction)[:, None] * lengths


def _is_ray(batch: Batch, found: Probe, slope: Array) -> Array:
    """Whether the probed direction is one of unbounded descent."""
    xp = batch.xp
    size = xp.maximum(noise(xp, found.direction), xp.max(xp.abs(found.image), axis=-1))
    return -slope > RAY * size


def _step(batch: Batch, state: State) -> State:
    """Let one index leave or join wherever the status is UNSETTLED."""
    xp, K = batch.xp, state.x.shape[-1]
    inverse, running = state.inverse, state.status == UNSETTLED
    midway = running & xp.any(state.entering, axis=-1)
    descent = _descend(batch, state, running & ~midway)
    arrived = running & ~midway & ~xp.any(descent.blocking, axis=-1)
    chosen, slope = _choose(batch, state, descent.x, arrived)
    optimal = arrived & ~xp.any(chosen, axis=-1)
    entering = xp.where(midway[:, None], state.entering, chosen)
    slope = xp.where(midway, state.slope, slope)

    found = probe(batch, inverse, entering)
    tried = xp.any(entering, axis=-1)
    joins = tried & ~found.dependent
    # A dependent index enters along its null direction, which drives a passive one out.
    falls = inverse.passive & (found.direction < -_direction_noise(xp, inverse, found))
    step, index = _ratio_test(xp, descent.x, falls, -found.direction)
    driven = tried & found.dependent & xp.any(falls, axis=-1)
    too_short = driven & ~midway & (-slope <= 0.5 * step * found.hidden)
    moves = driven & ~too_short
    ray = tried & found.dependent & ~driven & _is_ray(batch, found, slope)
    refused = tried & ~joins & ~moves & ~ray

    step = keep(xp, moves, step)
    null_step = step[:, None] * keep(xp, inverse.passive, found.direction)
    leaving = descent.blocking | one_hot(xp, index, moves, K)
    joining = entering & joins[:, None]
    x = xp.where(moves[:, None], positive_part(xp, descent.x + null_step), descent.x)
    x = keep(xp, ~leaving, xp.where(joining, xp.zeros_like(x) + state.mass[:, None], x))
    along = keep(xp, inverse.passive | entering, positive_part(xp, found.direction))
    set_aside = (entering & refused[:, None]) | (descent.blocking & descent.stuck[:, None])
    status = xp.where(optimal, xp.full_like(state.status, OPTIMAL), state.status)
    return State(
        inverse=delete(batch, append(batch, inverse, found, joining), leaving),
        x=xp.where(ray[:, None], along, x),
        status=xp.where(ray, xp.full_like(status, INFEASIBLE), status),
        iterations=state.iterations + xp.astype(xp.any(chosen, axis=-1), xp.int32),
        aside=(state.aside & ~joins[:, None]) | set_aside,
        last=xp.where(joins, xp.argmax(xp.astype(entering, xp.int32), axis=-1), state.last),
        entering=entering & moves[:, None],
        mass=keep(xp, moves, state.mass + step),
        slope=slope,
    )


def active_set(batch: Batch, passive: Array, x: Array, finished: Array) -> State:
    """Solve the problems that are not `finished` (N,), from x ≥ 0 (N, K) on `passive` (N, K)."""
    xp, zeros = batch.xp, batch.xp.zeros_like(x[:, 0])
    code = xp.zeros_like(zeros, dtype=xp.int8)
    nothing = xp.zeros_like(passive)
    start = passive & (x > 0)
    # What block pivoting left of the inverse may have been through much worse passive sets.
    inverse = move_to(batch, empty_inverse(batch), start, 0, int(xp.max(count_true(xp, start))))
    state = State(
        inverse=inverse,
        x=keep(xp, inverse.passive, x),
        status=xp.where(finished, code + OPTIMAL, code + UNSETTLED),
        iterations=xp.zeros_like(zeros, dtype=xp.int32),
        aside=nothing,
        last=xp.full_like(xp.argmin(x, axis=-1), -1),
        entering=nothing,
        mass=zeros,
        slope=zeros,
    )
    # The hard problems of the tests take fewer than 2·K steps.
    for _ in range(10 * x.shape[-1] + 100):
        running = state.status == UNSETTLED
        worn = running & (state.inverse.drift > DRIFT)
        to_do = int(xp.max(xp.astype(running, xp.int32) + xp.astype(worn, xp.int32)))
        if to_do == 0:
            return state
        if to_do == 2:
            state = state._replace(inverse=polish(batch, state.inverse))
        state = _step(batch, state)
    return state._replace(status=xp.where(state.status == UNSETTLED, code + MAX_ITER, state.status))
