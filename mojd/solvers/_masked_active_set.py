"""The finite active set of :mod:`mojd.kernels.active_set` for many problems at once, with masks.

One call of :func:`step` lets at most one index leave or join the passive set of every problem that
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
    origin : Inverse
        `inverse` at that time.
    origin_x : float64 array, shape (N, K)
        `x` at that time.
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
    origin: Inverse
    origin_x: Array


class Entry(NamedTuple):
    """What becomes of the index that tries to enter, if there is one. One of four things happens.

    Attributes
    ----------
    joins : bool array, shape (N,)
        It joins the passive set.
    moves : bool array, shape (N,)
        It depends on the passive set, and gathers mass until it drives out the index `leaving`.
    ray : bool array, shape (N,)
        Nothing stops it: the null direction is a ray.
    refused : bool array, shape (N,)
        There is no way down that could be told from rounding errors.
    leaving : bool array, shape (N, K)
        The index that it drives out.
    step : float64 array, shape (N,)
        The mass that it gathers; 0 unless it `moves`.
    """

    joins: Array
    moves: Array
    ray: Array
    refused: Array
    leaving: Array
    step: Array


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


def _choose_inverse(xp: Any, mask: Array, one: Inverse, other: Inverse) -> Inverse:
    """Return `one` where `mask` (N,) holds, and `other` elsewhere."""
    return Inverse(
        xp.where(mask[:, None], one.passive, other.passive),
        xp.where(mask[:, None, None], one.root, other.root),
        xp.where(mask, one.drift, other.drift),
        xp.maximum(one.indefinite, other.indefinite),
    )


def _enter(batch: Batch, state: State, x: Array, slope: Array, found: Probe, tried: Array) -> Entry:
    """Decide what becomes of the probed index where it has `tried` (N,) to enter."""
    xp, inverse = batch.xp, state.inverse
    falls = inverse.passive & (found.direction < -_direction_noise(xp, inverse, found))
    step, index = _ratio_test(xp, x, falls, -found.direction)
    dependent, stops = tried & found.dependent, xp.any(falls, axis=-1)
    # Curvature that can't be seen may use up what the slope gains on the way.
    certain = -slope > 0.5 * (state.mass + keep(xp, stops, step)) * found.hidden
    moves = dependent & stops & certain
    ray = dependent & ~stops & _is_ray(batch, found, slope)
    return Entry(
        joins=tried & ~found.dependent,
        moves=moves,
        ray=ray,
        refused=dependent & ~moves & ~ray,
        leaving=one_hot(xp, index, moves, x.shape[-1]),
        step=keep(xp, moves, step),
    )


def step(batch: Batch, state: State) -> State:
    """Let one index leave or join wherever the status is UNSETTLED."""
    xp, inverse, running = batch.xp, state.inverse, state.status == UNSETTLED
    midway = running & xp.any(state.entering, axis=-1)
    descent = _descend(batch, state, running & ~midway)
    arrived = running & ~midway & ~xp.any(descent.blocking, axis=-1)
    chosen, slope = _choose(batch, state, descent.x, arrived)
    entering = xp.where(midway[:, None], state.entering, chosen)
    slope = xp.where(midway, state.slope, slope)
    origin = _choose_inverse(xp, midway, state.origin, inverse)
    origin_x = xp.where(midway[:, None], state.origin_x, descent.x)

    found = probe(batch, inverse, entering)
    entry = _enter(batch, state, descent.x, slope, found, xp.any(entering, axis=-1))
    joining, leaving = entering & entry.joins[:, None], descent.blocking | entry.leaving
    null_step = entry.step[:, None] * keep(xp, inverse.passive, found.direction)
    x = xp.where(entry.moves[:, None], positive_part(xp, descent.x + null_step), descent.x)
    x = keep(xp, ~leaving, xp.where(joining, xp.zeros_like(x) + state.mass[:, None], x))
    along = keep(xp, inverse.passive | entering, positive_part(xp, found.direction))
    x = xp.where(entry.ray[:, None], along, x)
    # What is refused midway has led nowhere: back to where it began.
    back = midway & entry.refused
    inverse = delete(batch, append(batch, inverse, found, joining), leaving)
    set_aside = (entering & entry.refused[:, None]) | (descent.blocking & descent.stuck[:, None])
    optimal = arrived & ~xp.any(chosen, axis=-1)
    status = xp.where(optimal, xp.full_like(state.status, OPTIMAL), state.status)
    return State(
        inverse=_choose_inverse(xp, back, origin, inverse),
        x=xp.where(back[:, None], origin_x, x),
        status=xp.where(entry.ray, xp.full_like(status, INFEASIBLE), status),
        iterations=state.iterations + xp.astype(xp.any(chosen, axis=-1), xp.int32),
        aside=(state.aside & ~entry.joins[:, None]) | set_aside,
        last=xp.where(entry.joins, xp.argmax(xp.astype(entering, xp.int32), axis=-1), state.last),
        entering=entering & entry.moves[:, None],
        mass=keep(xp, entry.moves, state.mass + entry.step),
        slope=slope,
        origin=origin,
        origin_x=origin_x,
    )


def begin(batch: Batch, inverse: Inverse, x: Array, finished: Array) -> State:
    """Return where problems stand that begin at x ≥ 0 (N, K), 0 outside of the passive sets."""
    xp, zeros = batch.xp, batch.xp.zeros_like(x[:, 0])
    code, nothing = xp.zeros_like(zeros, dtype=xp.int8), xp.zeros_like(inverse.passive)
    return State(
        inverse=inverse,
        x=x,
        status=xp.where(finished, code + OPTIMAL, code + UNSETTLED),
        iterations=xp.zeros_like(zeros, dtype=xp.int32),
        aside=nothing,
        last=xp.full_like(xp.argmin(x, axis=-1), -1),
        entering=nothing,
        mass=zeros,
        slope=zeros,
        origin=inverse,
        origin_x=x,
    )


def most_steps(size: int) -> int:
    """Return after how many steps a problem is given up; the hard ones of the tests take fewer than 2·K."""
    return 10 * size + 100


def is_worn(state: State) -> Array:
    """Whether the inverse of a problem that is still running needs polishing, shape (N,)."""
    return (state.status == UNSETTLED) & (state.inverse.drift > DRIFT)


def give_up(xp: Any, status: Array) -> Array:
    """Return the statuses after the last step: MAX_ITER for what is still running."""
    return xp.where(status == UNSETTLED, xp.full_like(status, MAX_ITER), status)


def active_set(batch: Batch, passive: Array, x: Array, finished: Array) -> State:
    """Solve the problems that are not `finished` (N,), from x ≥ 0 (N, K) on `passive` (N, K)."""
    xp = batch.xp
    start = passive & (x > 0)
    # What block pivoting left of the inverse may have been through much worse passive sets.
    inverse = move_to(batch, empty_inverse(batch), start, 0, int(xp.max(count_true(xp, start))))
    state = begin(batch, inverse, keep(xp, inverse.passive, x), finished)
    for _ in range(most_steps(x.shape[-1])):
        running = xp.astype(state.status == UNSETTLED, xp.int32)
        to_do = int(xp.max(running + xp.astype(is_worn(state), xp.int32)))
        if to_do == 0:
            return state
        if to_do == 2:
            state = state._replace(inverse=polish(batch, state.inverse))
        state = step(batch, state)
    return state._replace(status=give_up(xp, state.status))
