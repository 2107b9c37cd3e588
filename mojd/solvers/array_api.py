"""Pivoting in plain array-API operations, for devices that have no kernel of ours.

The mathematics is that of the compiled kernels: scaling by powers of two, block principal pivoting
while it makes progress, a finite active set with rank tests for what it leaves, and refinement with
accurate residuals. All problems of a batch take each step together, with masks for those that are
done. Only functions of the array-API standard are used, so that this runs wherever arrays are: CUDA
tensors of PyTorch, CuPy, JAX, and whatever follows the standard next.

A loop has to know when to stop: an iteration of block pivoting reads up to three numbers from the
device and a step of the active set one, and each of them waits for it. That is accepted where mojd has
no kernels, as it has in solver 'cuda'. The active set runs on the few problems that need it alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import Array, Precision, dtype_name, namespace
from mojd.errors import InvalidTypeError
from mojd.kernels.status import INFEASIBLE, MAX_ITER, NONFINITE, OPTIMAL
from mojd.solvers._masked import (
    Batch,
    Inverse,
    accurate_residual,
    count_true,
    diagonal,
    empty_inverse,
    keep,
    minimise,
    move_to,
    noise,
    one_hot,
    positive_part,
    product,
    refine,
)
from mojd.solvers._masked_active_set import State, active_set
from mojd.solvers._masked_scaling import scale_problems
from mojd.solvers._registry import RawSolution, Solver, register

# The constant of mojd.kernels.block_pivoting: how many iterations may fail to make progress.
PATIENCE = 3
# By how much curvature must exceed the negative curvature seen in the same Gramian to count.
CAUTION = 8.0
# How many bytes one array of K x K matrices may take. A handful of them are in use at a time.
CHUNK = 2**28


class Pivoted(NamedTuple):
    """Where block pivoting left every problem.

    Attributes
    ----------
    solved : bool array, shape (N,)
        Whether the KKT conditions hold.
    inverse : Inverse
        The last passive set.
    y : float64 array, shape (N, K)
        The minimiser on it.
    iterations : int32 array, shape (N,)
        How many passive sets were tried.
    """

    solved: Array
    inverse: Inverse
    y: Array
    iterations: Array


def block_pivoting(batch: Batch, skipped: Array) -> Pivoted:
    """Exchange all infeasible indices at once, while that lowers their number.

    `skipped` (N,) marks problems to leave alone.
    """
    xp, linear = batch.xp, batch.linear
    running = ~skipped
    inverse = empty_inverse(batch)
    target = (linear < 0) & running[:, None]
    best = xp.full_like(count_true(xp, target), linear.shape[-1] + 1)
    patience = xp.full_like(best, PATIENCE)
    iterations = xp.zeros_like(best, dtype=xp.int32)
    solved = xp.zeros_like(running)
    y = xp.zeros_like(linear)
    begun = False
    while True:
        leaving = int(xp.max(count_true(xp, inverse.passive & ~target)))
        joining = int(xp.max(count_true(xp, target & ~inverse.passive)))
        if begun and not (leaving or joining):
            return Pivoted(solved, inverse, y, iterations)
        begun = True
        inverse = move_to(batch, inverse, target, leaving, joining)
        y = minimise(batch, inverse)
        slack = product(batch, y) + linear
        infeasible = xp.where(inverse.passive, y, slack) < -noise(xp, y)[:, None]
        count = count_true(xp, infeasible)
        iterations = iterations + xp.astype(running, xp.int32)
        solved = solved | (running & (count == 0))
        patience = xp.where(count < best, xp.full_like(best, PATIENCE), patience - 1)
        best = xp.where(count < best, count, best)
        running = running & (count > 0) & (patience >= 0)
        target = xp.where(running[:, None], inverse.passive ^ infeasible, inverse.passive)


def violation(batch: Batch, x: Array) -> Array:
    """Return how far each x (N, K) is from satisfying the KKT conditions, by an accurate slack."""
    xp = batch.xp
    slack = accurate_residual(batch, positive_part(xp, x))
    return xp.max(xp.abs(xp.minimum(x, slack)), axis=-1)


def run_active_set(batch: Batch, passive: Array, x: Array, finished: Array) -> State:
    """Run the active set where not `finished` (N,), and again where the Gramian proves indefinite.

    One computed in float32 and then converted has eigenvalues of either sign about 1e-7. The negative
    curvature that was met tells how much positive curvature means nothing. Where the first run has
    come to no good end, the second takes rows that are no further apart than that for dependent.
    The better of the two counts.
    """
    xp = batch.xp
    first = active_set(batch, passive, x, finished)
    indefinite, error = first.inverse.indefinite, violation(batch, first.x)
    failed = ~finished & (first.status != INFEASIBLE) & (error > noise(xp, first.x))
    failed = failed & (CAUTION * indefinite > batch.rounding)
    if not bool(xp.any(failed)):
        return first
    coarse = batch._replace(rounding=xp.maximum(batch.rounding, CAUTION * indefinite))
    second = active_set(coarse, xp.zeros_like(passive), xp.zeros_like(x), ~failed)
    gave_up = (first.status == MAX_ITER) & (second.status != MAX_ITER)
    better = failed & (gave_up | (violation(batch, second.x) < error))
    return first._replace(
        x=xp.where(better[:, None], second.x, first.x),
        status=xp.where(better, second.status, first.status),
        iterations=first.iterations + second.iterations,
    )


def solve_stragglers(batch: Batch, pivoted: Pivoted, x: Array, finished: Array) -> tuple[Array, Array, Array]:
    """Run the active set where not `finished` (N,); return x, statuses and iterations of all.

    The problems to solve are gathered first. Their number is rounded up to a power of two, because
    some libraries compile anew for every shape.
    """
    xp = batch.xp
    total, owners = batch.linear.shape[0], batch.gramian.shape[0]
    status = xp.full_like(pivoted.iterations, OPTIMAL, dtype=xp.int8)
    waiting = int(xp.sum(xp.astype(~finished, xp.int32)))
    if waiting == 0:
        return x, status, pivoted.iterations
    size = min(total, 1 << (waiting - 1).bit_length())
    order = xp.argsort(xp.astype(finished, xp.int32))
    rows, place = order[:size], xp.clip(xp.argsort(order), 0, size - 1)

    def gathered(array: Array) -> Array:
        return xp.take(array, rows, axis=0)

    def scattered(new: Array, old: Array, mask: Array) -> Array:
        return xp.where(mask, old, xp.take(new, place, axis=0))

    gramian = batch.gramian
    if owners > 1:
        gramian = xp.take(gramian, rows // (total // owners), axis=0)
    found = run_active_set(
        Batch(xp, gramian, gathered(batch.linear), gathered(batch.rounding)),
        gathered(pivoted.inverse.passive),
        positive_part(xp, gathered(x)),
        gathered(finished),
    )
    more = scattered(found.iterations, xp.zeros_like(pivoted.iterations), finished)
    return (
        scattered(found.x, x, finished[:, None]),
        scattered(found.status, status, finished),
        pivoted.iterations + more,
    )


def solve_scaled(batch: Batch) -> tuple[Array, Array, Array]:
    """Return x (N, K), or rays, with statuses and iterations (N,)."""
    xp, K = batch.xp, batch.linear.shape[-1]
    downhill = (batch.linear < 0) & (diagonal(batch) == 0)
    unbounded = xp.any(downhill, axis=-1)
    pivoted = block_pivoting(batch, unbounded)
    x = refine(batch, pivoted.inverse, pivoted.y)
    finished = unbounded | (pivoted.solved & (violation(batch, x) <= noise(xp, x)))
    x, status, iterations = solve_stragglers(batch, pivoted, x, finished)
    ray = one_hot(xp, xp.argmax(xp.astype(downhill, xp.int32), axis=-1), unbounded, K)
    x = xp.where(unbounded[:, None], xp.astype(ray, x.dtype), positive_part(xp, x))
    return x, xp.where(unbounded, xp.full_like(status, INFEASIBLE), status), iterations


def solve_chunk(
    xp: Any,
    gramian: Array,
    linear: Array,
    precision: Precision,
    pivot: Callable[[Batch], tuple[Array, Array, Array]],
) -> RawSolution:
    """Solve G (B, K, K) with q (B, R, K), all at once, by a function such as :func:`solve_scaled`."""
    scaled = scale_problems(xp, gramian, linear, precision)
    flat_x, flat_status, flat_iterations = pivot(scaled.batch)
    status = xp.reshape(flat_status, linear.shape[:2])
    x = xp.reshape(flat_x, linear.shape) * scaled.scale[:, None, :]
    x = xp.where((status == INFEASIBLE)[..., None], x, x / scaled.shrinkage[..., None])
    answered = scaled.sound & xp.all(xp.isfinite(x), axis=-1)
    status = xp.where(answered, status, xp.full_like(status, MAX_ITER))
    status = xp.where(scaled.finite, status, xp.full_like(status, NONFINITE))
    solvable = scaled.finite & scaled.sound
    x = xp.where(solvable[..., None], x, xp.full_like(x, math.nan))
    return RawSolution(x, status, keep(xp, solvable, xp.reshape(flat_iterations, linear.shape[:2])))


def _cuts(length: int, size: int) -> list[slice]:
    """Cut range(length) into slices of at most `size`."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def solve(gramian: Array, linear: Array, threads: int, precision: Precision) -> RawSolution:
    """Solve G (B, K, K) with q (B, R, K) in the namespace and on the device of the arrays.

    `threads` is left to the array library. There is no error for what is no Gramian, because looking
    would wait for the device: where the kernels would refuse one, the status is MAX_ITER and x NaN.

    Raises
    ------
    InvalidTypeError
        If the arrays are not float64, as in JAX until it is told to use it.
    """
    xp = namespace(gramian)
    if gramian.dtype != xp.float64:
        raise InvalidTypeError(
            f"solver 'array_api' computes in float64, but the gramian of shape {tuple(gramian.shape)} is "
            f"{dtype_name(gramian)}; with JAX, call jax.config.update('jax_enable_x64', True) first"
        )
    count, rows, size = linear.shape
    if count * rows == 0:
        status = xp.zeros_like(linear[..., 0], dtype=xp.int8)
        return RawSolution(xp.zeros_like(linear), status, xp.zeros_like(status, dtype=xp.int32))
    room = max(1, CHUNK // (8 * size * size))
    parts = []
    with np.errstate(all="ignore"):
        for owners in _cuts(count, max(1, room // rows)):
            matrices, vectors = gramian[owners, :, :], linear[owners, :, :]
            pieces = [
                solve_chunk(xp, matrices, vectors[:, cut, :], precision, solve_scaled)
                for cut in _cuts(rows, room)
            ]
            parts.append([xp.concat(arrays, axis=1) for arrays in zip(*pieces, strict=True)])
    return RawSolution(*(xp.concat(arrays, axis=0) for arrays in zip(*parts, strict=True)))


register(
    Solver(
        name="array_api",
        solve=solve,
        summary="pivoting with masks in plain array-API operations; exact, on any device",
        kkt_tolerance=1e-12,
        any_device=True,
        exact=True,
    )
)
