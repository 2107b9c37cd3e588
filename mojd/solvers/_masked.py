"""Masked linear algebra in plain array-API operations: the passive blocks of many problems at once.

Every problem has a passive set P of its own, given by a mask. Instead of a triangular factor, which
takes one step after the other to solve with and to update, its block is represented by a square root
of the inverse:

    root · rootᵀ = (A_PP)⁻¹,    root = 0 outside of P × P.

A solve is two products. An index joins by Gram-Schmidt in the inner product of A, and leaves by a
Householder reflection that gathers its row of the root in one column. Both are a few products for the
whole batch, neither depends on an order of the indices, and nothing is written in place.

Only functions of the array-API standard are used, without boolean indexing or item assignment.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from array_api_compat import device

from mojd._arrays import Array
from mojd.certificates import accurate_product

# The constants of mojd.kernels.gradient and mojd.kernels.factor, which would import numba. A test
# compares them.
NOISE = 16 * 2.0**-53
SUSPECT_PIVOT = 1e-6
ROUNDINGS = 8.0
# How many indices join at a time, a power of two: they share passes over the root, which cost most.
WIDTH = 16
# How often Gram-Schmidt is repeated. Twice still loses digits where several rows nearly coincide.
PASSES = 3
# How large the drift may grow: the root is then off by some 1e-10.
DRIFT = 1e6


class Batch(NamedTuple):
    """N problems with the diagonal of A in [½, 2) ∪ {0} and max|q| in [½, 1) ∪ {0}.

    Attributes
    ----------
    xp : module
        The array-API namespace of the arrays.
    gramian : float64 array, shape (B, K, K)
        Every N/B consecutive problems share one.
    linear : float64 array, shape (N, K)
        The linear terms.
    rounding : float64 array, shape (N,)
        The curvature along a unit vector that errors in the Gramian may hide or feign.
    """

    xp: Any
    gramian: Array
    linear: Array
    rounding: Array


class Inverse(NamedTuple):
    """The inverse of the passive block of every problem.

    Attributes
    ----------
    passive : bool array, shape (N, K)
        The passive sets P.
    root : float64 array, shape (N, K, K)
        A square root of the inverse, in the rows and columns of P.
    drift : float64 array, shape (N,)
        Up to rounding errors in A, what the root has lost in accuracy since it was last polished:
        the largest inverse squared distance of an index that left from the span of the others.
    indefinite : float64 array, shape (N,)
        The largest negative curvature along a unit vector that has been seen in the Gramian.
    """

    passive: Array
    root: Array
    drift: Array
    indefinite: Array


class Probe(NamedTuple):
    """What an index j outside of the passive set would add to it.

    Attributes
    ----------
    direction : float64 array, shape (N, K)
        v with v_j = 1 and (A·v)_P = 0: the null direction, if j depends on P.
    image : float64 array, shape (N, K)
        A·v.
    pivot : float64 array, shape (N,)
        vᵀAv, the squared distance of gradient j from the span of the passive ones.
    hidden : float64 array, shape (N,)
        How much of a pivot rounding errors can hide or feign.
    dependent : bool array, shape (N,)
        Whether the pivot is no more than that.
    indefinite : float64 array, shape (N,)
        The negative curvature along v/‖v‖; 0 if it is positive.
    """

    direction: Array
    image: Array
    pivot: Array
    hidden: Array
    dependent: Array
    indefinite: Array


def keep(xp: Any, mask: Array, values: Array) -> Array:
    """Return `values` where `mask` holds and 0 elsewhere, whatever is there."""
    return xp.where(mask, values, xp.zeros_like(values[..., :1]))


def positive_part(xp: Any, values: Array) -> Array:
    """Return max(values, 0)."""
    return keep(xp, values > 0, values)


def one_hot(xp: Any, index: Array, wanted: Array, size: int) -> Array:
    """Return the mask (N, size) of the entry `index` (N,) in the rows that are `wanted` (N,)."""
    return (xp.arange(size, device=device(index)) == index[:, None]) & wanted[:, None]


def count_true(xp: Any, mask: Array) -> Array:
    """Return how many entries of each row of `mask` are true."""
    return xp.sum(xp.astype(mask, xp.int32), axis=-1)


def noise(xp: Any, y: Array) -> Array:
    """Return the size below which entries of y (N, K) and of its slack are rounding errors."""
    return NOISE * (1.0 + xp.sum(xp.abs(y), axis=-1))


def product(batch: Batch, v: Array) -> Array:
    """Return A·v for v of shape (N, K) or (N, width, K)."""
    owners, K = batch.gramian.shape[:2]
    shaped = batch.xp.reshape(v, (owners, math.prod(v.shape[:-1]) // owners, K))
    return batch.xp.reshape(shaped @ batch.gramian, v.shape)


def accurate_residual(batch: Batch, y: Array) -> Array:
    """Return A·y + q (N, K) with twice the working precision."""
    xp, (owners, K) = batch.xp, batch.gramian.shape[:2]
    shape = (owners, y.shape[0] // owners, K)
    linear, shaped = xp.reshape(batch.linear, shape), xp.reshape(y, shape)
    return xp.reshape(accurate_product(xp, batch.gramian, shaped, linear), y.shape)


def solve(batch: Batch, inverse: Inverse, v: Array) -> Array:
    """Solve A_PP·y = v_P for v (N, K); y is 0 outside of P."""
    onto = v[:, None, :] @ inverse.root
    return (onto @ batch.xp.matrix_transpose(inverse.root))[:, 0, :]


def minimise(batch: Batch, inverse: Inverse) -> Array:
    """Return the minimisers y (N, K) on the passive sets, refined once."""
    y = -solve(batch, inverse, batch.linear)
    return y - solve(batch, inverse, product(batch, y) + batch.linear)


def refine(batch: Batch, inverse: Inverse, y: Array) -> Array:
    """Refine minimisers on the passive sets until they are almost correctly rounded."""
    for _ in range(2):
        y = y - solve(batch, inverse, accurate_residual(batch, y))
    return y


def empty_inverse(batch: Batch) -> Inverse:
    """Return the inverses of empty passive blocks."""
    zeros = batch.xp.zeros_like(batch.linear)
    return Inverse(zeros > 0, zeros[:, :, None] * zeros[:, None, :], zeros[:, 0], zeros[:, 0])


def _conjugate(batch: Batch, bases: list[Array], v: Array) -> Array:
    """Take what is not conjugate to the columns of `bases` (N, K, any) off v (N, width, K)."""
    image = product(batch, v)
    for basis in bases:
        v = v - (image @ basis) @ batch.xp.matrix_transpose(basis)
    return v


def _judge(batch: Batch, v: Array, square: Array) -> Probe:
    """Tell from a conjugate v (N, 1, K), and A_jj (N,), whether j depends on the passive ones."""
    xp, image, direction = batch.xp, product(batch, v)[:, 0, :], v[:, 0, :]
    pivot, length = xp.sum(direction * image, axis=-1), xp.sum(direction * direction, axis=-1)
    hidden = batch.rounding * length
    suspect = SUSPECT_PIVOT + positive_part(xp, 1e3 * batch.rounding - SUSPECT_PIVOT)
    dependent = (pivot <= suspect * square) & (pivot <= hidden)
    indefinite = positive_part(xp, -pivot) / xp.where(length > 0, length, xp.ones_like(length))
    return Probe(direction, image, pivot, hidden, dependent, indefinite)


def diagonal(batch: Batch) -> Array:
    """Return the diagonal of every problem's A, shape (N, K)."""
    xp, shape = batch.xp, batch.linear.shape
    owned = xp.linalg.diagonal(batch.gramian)[:, None, :]
    return xp.reshape(xp.broadcast_to(owned, (owned.shape[0], shape[0] // owned.shape[0], shape[1])), shape)


def probe(batch: Batch, inverse: Inverse, chosen: Array) -> Probe:
    """Look at what the one index marked in every row of `chosen` (N, K) would add."""
    xp = batch.xp
    v = xp.astype(chosen, inverse.root.dtype)[:, None, :]
    for _ in range(PASSES):
        v = _conjugate(batch, [inverse.root], v)
    return _judge(batch, v, xp.sum(keep(xp, chosen, diagonal(batch)), axis=-1))


def _column(xp: Any, found: Probe, wanted: Array) -> Array:
    """Return the column (N, K) of the root that the probed index adds; 0 unless `wanted` (N,)."""
    length = xp.sqrt(xp.where(wanted, found.pivot, xp.ones_like(found.pivot)))
    return keep(xp, wanted[:, None], found.direction / length[:, None])


def append(batch: Batch, inverse: Inverse, found: Probe, chosen: Array) -> Inverse:
    """Let the probed index join in the rows of `chosen` (N, K) that mark it; it must not depend."""
    xp = batch.xp
    column = _column(xp, found, xp.any(chosen, axis=-1))
    root = xp.where(chosen[:, None, :], column[:, :, None], inverse.root)
    indefinite = xp.maximum(inverse.indefinite, found.indefinite)
    return Inverse(inverse.passive | chosen, root, inverse.drift, indefinite)


def append_block(batch: Batch, inverse: Inverse, chosen: Array) -> Inverse:
    """Let the index marked in each row of `chosen` (N, width, K) join, but for dependent ones."""
    xp, (passive, root, drift, indefinite) = batch.xp, inverse
    units = xp.astype(chosen, root.dtype)
    vectors = _conjugate(batch, [root], units)
    squares = xp.sum(keep(xp, chosen, diagonal(batch)[:, None, :]), axis=-1)
    places = xp.arange(chosen.shape[1], device=device(chosen))
    block = xp.zeros_like(xp.matrix_transpose(vectors))
    for i in range(chosen.shape[1]):
        v = _conjugate(batch, [block], vectors[:, i, :][:, None, :])
        for _ in range(PASSES - 1):
            v = _conjugate(batch, [root, block], v)
        found = _judge(batch, v, squares[:, i])
        joins = ~found.dependent
        indefinite = xp.maximum(indefinite, found.indefinite)
        passive = passive | (chosen[:, i, :] & joins[:, None])
        block = xp.where(places == i, _column(xp, found, joins)[:, :, None], block)
    # The columns of the root that these go to are still zero, so that the sum only writes.
    return Inverse(passive, root + block @ units, drift, indefinite)


def delete(batch: Batch, inverse: Inverse, chosen: Array) -> Inverse:
    """Let the one index marked in each row of `chosen` (N, K) leave; a row without one stays."""
    xp, (passive, root, drift, indefinite) = batch.xp, inverse
    row = (xp.astype(chosen, root.dtype)[:, None, :] @ root)[:, 0, :]
    square = xp.sum(row * row, axis=-1)
    length = xp.sqrt(square)
    own = xp.sum(keep(xp, chosen, row), axis=-1)
    # Reflect the row onto its own column, away from where it points, so that nothing cancels.
    normal = row + keep(xp, chosen, xp.where(own < 0, -length, length)[:, None])
    weight = square + length * xp.abs(own)
    image = (root @ normal[:, :, None]) / xp.where(weight > 0, weight, xp.ones_like(weight))[:, None, None]
    gone = chosen[:, :, None] | chosen[:, None, :]
    root = keep(xp, ~gone, root - image * normal[:, None, :])
    return Inverse(passive & ~chosen, root, xp.maximum(drift, square), indefinite)


def polish(batch: Batch, inverse: Inverse) -> Inverse:
    """Make the columns of the root conjugate again, with two Newton steps.

    Deleting an index that nearly depends on others takes large columns down to small ones, and
    leaves the rounding errors of the large ones behind.
    """
    xp, (passive, root, drift, indefinite) = batch.xp, inverse
    indices = xp.arange(passive.shape[-1], device=device(passive))
    identity = xp.astype(passive[:, :, None] & (indices[:, None] == indices), root.dtype)
    for _ in range(2):
        error = product(batch, xp.matrix_transpose(root)) @ root - identity
        close = xp.max(xp.sum(xp.abs(error), axis=-1), axis=-1) < 0.5
        root = xp.where(close[:, None, None], root - 0.5 * (root @ error), root)
    return Inverse(passive, root, xp.zeros_like(drift), indefinite)


def move_to(batch: Batch, inverse: Inverse, target: Array, leaving: int, joining: int) -> Inverse:
    """Change the passive sets to `target` (N, K), but for dependent indices.

    `leaving` and `joining` are the largest numbers of indices that have to leave and to join.
    """
    xp = batch.xp
    due = inverse.passive & ~target
    rank = xp.cumulative_sum(xp.astype(due, xp.int32), axis=-1)
    for i in range(1, leaving + 1):
        inverse = delete(batch, inverse, due & (rank == i))
    if leaving and bool(xp.any(inverse.drift > DRIFT)):
        inverse = polish(batch, inverse)
    due = target & ~inverse.passive
    rank = xp.cumulative_sum(xp.astype(due, xp.int32), axis=-1)
    done = 0
    while done < joining:
        # Powers of two, because some libraries compile anew for every shape.
        width = min(WIDTH, 1 << ((joining - done).bit_length() - 1))
        places = xp.arange(done + 1, done + width + 1, device=device(due))
        inverse = append_block(batch, inverse, due[:, None, :] & (rank[:, None, :] == places[:, None]))
        done += width
    return inverse
