"""Pivoting as XLA compiles it: bounded loops without Python, for all problems of a batch together.

What a loop carries is made from its input (``full_like``): inside of ``shard_map`` its type then says that it
may differ from device to device.

Block principal pivoting factorises the passive block of every problem with a masked Cholesky: its rows and
columns outside of the passive set are those of the identity. What that does not settle goes to the finite
active set of :mod:`mojd.solvers._masked_active_set`, some problems at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve

from mojd._arrays import Array
from mojd.kernels.status import INFEASIBLE, MAX_ITER, OPTIMAL, UNSETTLED
from mojd.solvers._masked import (
    SUSPECT_PIVOT,
    Batch,
    accurate_residual,
    append,
    count_true,
    diagonal,
    empty_inverse,
    keep,
    noise,
    one_hot,
    polish,
    positive_part,
    probe,
    product,
)
from mojd.solvers._masked_active_set import State, begin, give_up, is_worn, most_steps, step
from mojd.solvers._xla.namespace import NAMESPACE
from mojd.solvers.array_api import CAUTION, PATIENCE, violation

# How many problems the active set takes at a time. Most batches have none or a few for it.
STRAGGLERS = 256
# How often a problem may be tried by the active set: once more if its Gramian proves indefinite.
ATTEMPTS = 2


class _Blocks(NamedTuple):
    """Where block pivoting stands; all arrays have the axis N first, y and target K as second.

    `target` is the passive set to try next, `y` the minimiser on the one before it.
    """

    target: Array
    y: Array
    solved: Array
    running: Array
    best: Array
    patience: Array
    iterations: Array


class _Rest(NamedTuple):
    """The problems that the active set works on: what it has found, and what is still to do."""

    x: Array
    status: Array
    iterations: Array
    to_do: Array


class _Attempt(NamedTuple):
    """The tries of the active set at some problems, and the best that they have come to."""

    count: Array
    rounding: Array
    to_do: Array
    x: Array
    status: Array
    iterations: Array
    error: Array


def _factor(batch: Batch, passive: Array) -> tuple[Array, Array]:
    """Return the Cholesky factors (N, K, K) of the passive blocks, and whether none is nearly singular."""
    N, K = passive.shape
    owners = batch.gramian.shape[0]
    matrices = jnp.broadcast_to(batch.gramian[:, None], (owners, N // owners, K, K)).reshape(N, K, K)
    inside = passive[:, :, None] & passive[:, None, :]
    factor = jnp.linalg.cholesky(jnp.where(inside, matrices, jnp.eye(K)), symmetrize_input=False)
    pivots = jnp.square(jnp.diagonal(factor, axis1=-2, axis2=-1))
    # NaN, where there is no factor, is not above anything.
    sound = jnp.all(pivots > SUSPECT_PIVOT, axis=-1)
    return jnp.where(sound[:, None, None], factor, jnp.eye(K)), sound


def _minimise(batch: Batch, passive: Array, factor: Array, y: Array, residual: Array) -> Array:
    """Refine the minimisers y (N, K) on the passive sets by what they leave of G·y + q."""
    right = keep(jnp, passive, residual)
    return y - keep(jnp, passive, cho_solve((factor, True), right[..., None])[..., 0])


def _exchange(batch: Batch, state: _Blocks) -> _Blocks:
    """Try a passive set, and exchange all indices that are infeasible on it."""
    passive = state.target
    factor, sound = _factor(batch, passive)
    y = _minimise(batch, passive, factor, jnp.zeros_like(state.y), batch.linear)
    y = _minimise(batch, passive, factor, y, product(batch, y) + batch.linear)
    slack = product(batch, y) + batch.linear
    infeasible = jnp.where(passive, y, slack) < -noise(jnp, y)[:, None]
    count = count_true(jnp, infeasible).astype(jnp.int32)
    running = state.running & sound
    solved = running & (count == 0)
    patience = jnp.where(count < state.best, PATIENCE, state.patience - 1)
    goes_on = running & ~solved & (patience >= 0)
    moved = state.running
    return _Blocks(
        target=jnp.where(goes_on[:, None], passive ^ infeasible, passive),
        y=jnp.where(moved[:, None], y, state.y),
        solved=state.solved | solved,
        running=goes_on,
        best=jnp.where(moved, jnp.minimum(count, state.best), state.best),
        patience=jnp.where(moved, patience, state.patience),
        iterations=state.iterations + moved.astype(jnp.int32),
    )


def _pivot_blocks(batch: Batch, skipped: Array) -> _Blocks:
    """Pivot in blocks, while that lowers the number of infeasible indices; leave alone what is `skipped`."""
    K = batch.linear.shape[1]
    running = ~skipped
    state = _Blocks(
        target=(batch.linear < 0) & running[:, None],
        y=jnp.zeros_like(batch.linear),
        solved=jnp.zeros_like(running),
        running=running,
        best=jnp.full_like(running, K + 1, jnp.int32),
        patience=jnp.full_like(running, PATIENCE, jnp.int32),
        iterations=jnp.zeros_like(running, jnp.int32),
    )
    # Patience lets the loop run no more than PATIENCE + 1 times for each value that `best` can take.
    return lax.while_loop(lambda s: jnp.any(s.running), lambda s: _exchange(batch, s), state)


def _start(batch: Batch, passive: Array, x: Array, finished: Array) -> State:
    """Begin the active set on what is independent of a passive set (N, K), one index after the other."""

    def join(carry: tuple[Any, Array]) -> tuple[Any, Array]:
        inverse, due = carry
        first = one_hot(jnp, NAMESPACE.argmax(due, axis=-1), jnp.any(due, axis=-1), due.shape[-1])
        found = probe(batch, inverse, first)
        joins = first & ~found.dependent[:, None]
        return append(batch, inverse, found, joins), due & ~first

    due = passive & (x > 0) & ~finished[:, None]
    inverse, _ = lax.while_loop(lambda carry: jnp.any(carry[1]), join, (empty_inverse(batch), due))
    return begin(batch, inverse, keep(jnp, inverse.passive, x), finished)


def _run(batch: Batch, passive: Array, x: Array, finished: Array) -> State:
    """Run the active set to its end."""

    def goes_on(carry: tuple[Array, State]) -> Array:
        count, state = carry
        return (count < most_steps(x.shape[-1])) & jnp.any(state.status == UNSETTLED)

    def advance(carry: tuple[Array, State]) -> tuple[Array, State]:
        count, state = carry
        worn = jnp.any(is_worn(state))
        inverse = lax.cond(
            worn, lambda inverse: polish(batch, inverse), lambda inverse: inverse, state.inverse
        )
        return count + 1, step(batch, state._replace(inverse=inverse))

    _, state = lax.while_loop(goes_on, advance, (jnp.int32(0), _start(batch, passive, x, finished)))
    return state._replace(status=give_up(jnp, state.status))


def _attempt(batch: Batch, passive: Array, x: Array, finished: Array) -> tuple[Array, Array, Array]:
    """Run the active set where not `finished`, and again where the Gramian proves indefinite.

    See :func:`mojd.solvers.array_api.run_active_set`, which says why, and whose loop this is.
    """

    def run(last: _Attempt) -> _Attempt:
        own = batch._replace(rounding=last.rounding)
        begun = last.count == 0
        state = _run(own, passive & begun, jnp.where(begun, x, 0.0), ~last.to_do)
        error = violation(batch, state.x)
        gave_up = (last.status == MAX_ITER) & (state.status != MAX_ITER)
        better = last.to_do & (begun | gave_up | (error < last.error))
        found = last._replace(
            count=last.count + 1,
            rounding=jnp.maximum(batch.rounding, CAUTION * state.inverse.indefinite),
            x=jnp.where(better[:, None], state.x, last.x),
            status=jnp.where(better, state.status, last.status),
            iterations=last.iterations + jnp.where(last.to_do, state.iterations, 0),
            error=jnp.where(better, error, last.error),
        )
        failed = last.to_do & (found.status != INFEASIBLE) & (found.error > noise(jnp, found.x))
        return found._replace(to_do=failed & (found.rounding > batch.rounding))

    state = _Attempt(
        count=jnp.int32(0),
        rounding=batch.rounding,
        to_do=~finished,
        x=x,
        status=jnp.full_like(finished, OPTIMAL, jnp.int8),
        iterations=jnp.zeros_like(finished, jnp.int32),
        error=jnp.zeros_like(batch.rounding),
    )
    state = lax.while_loop(lambda s: (s.count < ATTEMPTS) & jnp.any(s.to_do), run, state)
    return state.x, state.status, state.iterations


def _settle(batch: Batch, passive: Array, rest: _Rest) -> _Rest:
    """Run the active set on up to STRAGGLERS of the problems that are still to do."""
    N = passive.shape[0]
    order = lax.sort((~rest.to_do, jnp.arange(N, dtype=jnp.int32)), num_keys=1, is_stable=True)[1]
    rows = order[: min(N, STRAGGLERS)]
    own = Batch(
        NAMESPACE,
        batch.gramian[rows // (N // batch.gramian.shape[0])],
        batch.linear[rows],
        batch.rounding[rows],
    )
    waiting = rest.to_do[rows]
    x, status, iterations = _attempt(own, passive[rows], positive_part(jnp, rest.x[rows]), ~waiting)
    return _Rest(
        x=rest.x.at[rows].set(jnp.where(waiting[:, None], x, rest.x[rows])),
        status=rest.status.at[rows].set(jnp.where(waiting, status, rest.status[rows])),
        iterations=rest.iterations.at[rows].add(jnp.where(waiting, iterations, 0)),
        to_do=rest.to_do.at[rows].set(False),
    )


def solve_scaled(batch: Batch) -> tuple[Array, Array, Array]:
    """Return x (N, K), or rays, with statuses and iterations (N,); see the function in array_api."""
    K = batch.linear.shape[1]
    downhill = (batch.linear < 0) & (diagonal(batch) == 0)
    unbounded = jnp.any(downhill, axis=-1)
    pivoted = _pivot_blocks(batch, unbounded)
    # The set that solved a problem, or that was tried last.
    passive = pivoted.target
    factor, sound = _factor(batch, passive)
    y = pivoted.y
    for _ in range(2):
        y = _minimise(batch, passive, factor, y, accurate_residual(batch, y))
    done = unbounded | (pivoted.solved & sound & (violation(batch, y) <= noise(jnp, y)))
    rest = _Rest(y, jnp.full_like(done, OPTIMAL, jnp.int8), pivoted.iterations, ~done)
    rest = lax.while_loop(lambda s: jnp.any(s.to_do), lambda s: _settle(batch, passive, s), rest)
    ray = one_hot(jnp, NAMESPACE.argmax(downhill, axis=-1), unbounded, K)
    x = jnp.where(unbounded[:, None], ray.astype(y.dtype), positive_part(jnp, rest.x))
    return x, jnp.where(unbounded, jnp.int8(INFEASIBLE), rest.status), rest.iterations
