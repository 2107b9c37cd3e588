"""Pivoting in plain array-API operations, for devices that have no kernel of ours.

The mathematics is that of the compiled kernels: scaling by powers of two, block principal pivoting
while it makes progress, a finite active set with rank tests for what it leaves, and refinement with
accurate residuals. All problems of a batch take each step together, with masks for those that are
done. Only functions of the array-API standard are used, so that this runs wherever arrays are: CUDA
tensors of PyTorch, CuPy, JAX, and whatever follows the standard next.

A loop has to know when to stop: every iteration reads two numbers from the device, which waits for
it. That is accepted until mojd has kernels for such devices. The active set, which few problems need,
runs on those alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from mojd.solvers._masked_active_set import active_set
from mojd.solvers._registry import RawSolution, Solver, register

# The constant of mojd.kernels.block_pivoting: how many iterations may fail to make progress.
PATIENCE = 3
# How many bytes one array of K x K matrices may take. A handful of them are in use at a time.
CHUNK = 2**28
_HALVINGS = tuple(2**i for i in range(8, -1, -1))


class Scaled(NamedTuple):
    """Problems in units of their own.

    Attributes
    ----------
    batch : Batch
        The scaled problems.
    scale : float64 array, shape (B, K)
        The powers of two that bring the diagonals of the Gramians into [½, 2).
    shrinkage : float64 array, shape (B, R)
        The powers of two that bring the linear terms into [½, 1).
    finite : bool array, shape (B, R)
        Where there is neither NaN nor infinity. Elsewhere, the scaled problem is zero.
    sound : bool array, shape (B, 1)
        Where the Gramian can be one. Elsewhere, the scaled problem is zero.
    """

    batch: Batch
    scale: Array
    shrinkage: Array
    finite: Array
    sound: Array


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


def power_of_two(xp: Any, values: Array, base: int) -> Array:
    """Return 2ᵏ with values · baseᵏ in [½, base/2), for base 2 or 4, and 1 where a value is not positive.

    By comparisons and exact products alone: the log2 and exp2 of accelerators round.

    Examples
    --------
    >>> power_of_two(np, np.array([0.5, 0.9, 24.0, 0.0]), 4).tolist()
    [1.0, 1.0, 0.25, 1.0]
    """
    left = xp.where(values > 0, values, xp.full_like(values, 0.5))
    power, one = xp.ones_like(left), xp.ones_like(left)
    exponents = (256, *_HALVINGS) if base == 4 else (512, *_HALVINGS)
    for exponent in exponents:
        large, small = left >= 0.5 * float(base) ** exponent, left < 0.5 * float(base) ** (1 - exponent)
        up, down = float(base) ** exponent * one, float(base) ** -exponent * one
        left = left * xp.where(large, down, xp.where(small, up, one))
        power = power * xp.where(large, 2.0**-exponent * one, xp.where(small, 2.0**exponent * one, one))
    return power


def equilibrate(xp: Any, gramian: Array, precision: Precision) -> tuple[Array, Array, Array]:
    """Return D·G·D, the diagonal of D and whether each finite G (B, K, K) can be a Gramian.

    The rules are those of :func:`mojd.kernels.equilibrate.equilibrate`.
    """
    diagonal = xp.linalg.diagonal(gramian)
    scale = power_of_two(xp, diagonal, 4)
    scaled = gramian * scale[:, :, None] * scale[:, None, :]
    present = (diagonal > 0)[:, :, None] & (diagonal > 0)[:, None, :]
    transposed = xp.matrix_transpose(scaled)
    mean = keep(xp, present, 0.5 * (scaled + transposed))
    size = xp.linalg.diagonal(mean)
    bound = size[:, :, None] * size[:, None, :]
    difference = keep(xp, present, scaled - transposed)
    asymmetric = difference * difference > precision.tolerance**2 * bound
    excessive = mean * mean > (1 + precision.tolerance) ** 2 * bound
    # Beside a zero on the diagonal, only what has underflowed may be other than zero.
    norms = xp.sqrt(keep(xp, diagonal > 0, diagonal))
    beside = math.sqrt(precision.tiny) * (norms[:, :, None] + norms[:, None, :])
    excessive = excessive | (~present & (xp.abs(gramian) > beside))
    sound = ~xp.any(asymmetric | excessive | (diagonal < 0)[:, :, None], axis=(1, 2))
    return keep(xp, sound[:, None, None], mean), scale, sound


def scale_problems(xp: Any, gramian: Array, linear: Array, precision: Precision) -> Scaled:
    """Scale G (B, K, K) and q (B, R, K), and put zeros for what can't be solved."""
    usable = xp.all(xp.isfinite(gramian), axis=(1, 2))
    matrix, scale, sound = equilibrate(xp, keep(xp, usable[:, None, None], gramian), precision)
    scaled = linear * scale[:, None, :]
    finite = usable[:, None] & xp.all(xp.isfinite(scaled), axis=-1)
    scaled = keep(xp, (finite & sound[:, None])[..., None], scaled)
    shrinkage = power_of_two(xp, xp.max(xp.abs(scaled), axis=-1), 2)
    flat = xp.reshape(scaled * shrinkage[..., None], (-1, scaled.shape[-1]))
    return Scaled(Batch(xp, matrix, flat), scale, shrinkage, finite, sound[:, None])


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
    iterations = xp.zeros_like(best)
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
        iterations = iterations + xp.astype(running, iterations.dtype)
        solved = solved | (running & (count == 0))
        patience = xp.where(count < best, xp.full_like(best, PATIENCE), patience - 1)
        best = xp.where(count < best, count, best)
        running = running & (count > 0) & (patience >= 0)
        target = xp.where(running[:, None], inverse.passive ^ infeasible, inverse.passive)


def is_optimal(batch: Batch, inverse: Inverse, x: Array) -> Array:
    """Whether x (N, K) satisfies the KKT conditions to rounding, by an accurate slack."""
    xp = batch.xp
    slack = accurate_residual(batch, positive_part(xp, x))
    violation = xp.where(inverse.passive, xp.maximum(xp.abs(slack), -x), -slack)
    return xp.all(violation <= noise(xp, x)[:, None], axis=-1)


def solve_stragglers(batch: Batch, pivoted: Pivoted, x: Array, finished: Array) -> tuple[Array, Array, Array]:
    """Run the active set where not `finished` (N,); return x, statuses and iterations of all.

    The problems to solve are gathered first. Their number is rounded up to a power of two, because
    some libraries compile anew for every shape.
    """
    xp, linear = batch.xp, batch.linear
    total, owners = linear.shape[0], batch.gramian.shape[0]
    status = xp.full_like(pivoted.iterations, OPTIMAL, dtype=xp.int8)
    waiting = int(xp.sum(xp.astype(~finished, xp.int32)))
    if waiting == 0:
        return x, status, pivoted.iterations
    size = min(total, 1 << (waiting - 1).bit_length())
    order = xp.argsort(xp.astype(finished, xp.int32))
    rows = order[:size]

    def gathered(array: Array) -> Array:
        return xp.take(array, rows, axis=0)

    gramian = batch.gramian
    if owners > 1:
        gramian = xp.take(gramian, rows // (total // owners), axis=0)
    found = active_set(
        Batch(xp, gramian, gathered(linear)),
        gathered(pivoted.inverse.passive),
        positive_part(xp, gathered(x)),
        gathered(finished),
    )
    place = xp.clip(xp.argsort(order), 0, size - 1)

    def scattered(new: Array, old: Array, mask: Array) -> Array:
        return xp.where(mask, old, xp.take(new, place, axis=0))

    return (
        scattered(found.x, x, finished[:, None]),
        scattered(found.status, status, finished),
        pivoted.iterations + scattered(found.iterations, xp.zeros_like(pivoted.iterations), finished),
    )


def solve_scaled(batch: Batch) -> tuple[Array, Array, Array]:
    """Return x (N, K), or rays, with statuses and iterations (N,)."""
    xp, K = batch.xp, batch.linear.shape[-1]
    downhill = (batch.linear < 0) & (diagonal(batch) == 0)
    unbounded = xp.any(downhill, axis=-1)
    pivoted = block_pivoting(batch, unbounded)
    x = refine(batch, pivoted.inverse, pivoted.y)
    finished = unbounded | (pivoted.solved & is_optimal(batch, pivoted.inverse, x))
    x, status, iterations = solve_stragglers(batch, pivoted, x, finished)
    ray = one_hot(xp, xp.argmax(xp.astype(downhill, xp.int32), axis=-1), unbounded, K)
    x = xp.where(unbounded[:, None], xp.astype(ray, x.dtype), positive_part(xp, x))
    return x, xp.where(unbounded, xp.full_like(status, INFEASIBLE), status), iterations


def solve_chunk(xp: Any, gramian: Array, linear: Array, precision: Precision) -> RawSolution:
    """Solve G (B, K, K) with q (B, R, K), all at once."""
    scaled = scale_problems(xp, gramian, linear, precision)
    flat_x, flat_status, flat_iterations = solve_scaled(scaled.batch)
    status = xp.reshape(flat_status, linear.shape[:2])
    x = xp.reshape(flat_x, linear.shape) * scaled.scale[:, None, :]
    x = xp.where((status == INFEASIBLE)[..., None], x, x / scaled.shrinkage[..., None])
    status = xp.where(scaled.sound, status, xp.full_like(status, MAX_ITER))
    status = xp.where(scaled.finite, status, xp.full_like(status, NONFINITE))
    solvable = (scaled.finite & scaled.sound)[..., None]
    x = xp.where(solvable, x, xp.full_like(x, math.nan))
    return RawSolution(x, status, xp.reshape(flat_iterations, linear.shape[:2]))


def _chunks(count: int, rows: int, size: int) -> Iterator[tuple[slice, list[slice]]]:
    """Cut (count, rows) problems of size K into pieces of Gramians, each with pieces of its rows."""
    room = max(1, CHUNK // (8 * size * size))
    gramians = max(1, room // rows)
    cuts = [slice(start, start + room) for start in range(0, rows, room)]
    for start in range(0, count, gramians):
        yield slice(start, start + gramians), cuts


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
            f"solver 'array_api' computes in float64, but {type(gramian).__name__} made the gramian of shape "
            f"{tuple(gramian.shape)} {dtype_name(gramian)}; with JAX, call jax.config.update('jax_enable_x64', True)"
        )
    count, rows, size = linear.shape
    if count * rows == 0:
        status = xp.zeros_like(linear[..., 0], dtype=xp.int8)
        return RawSolution(xp.zeros_like(linear), status, xp.zeros_like(status, dtype=xp.int32))
    parts = []
    with np.errstate(all="ignore"):
        for owners, cuts in _chunks(count, rows, size):
            pieces = [solve_chunk(xp, gramian[owners, :, :], linear[owners, cut, :], precision) for cut in cuts]
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
