"""NNQP as a function of JAX: what to compile on which platform, and how to batch and differentiate it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import zero_from_primal

from mojd._arrays import Array, Precision
from mojd.kernels.status import FIRST_REFUSAL, MAX_ITER, NONFINITE, OPTIMAL
from mojd.solvers._registry import RawSolution
from mojd.solvers._xla.derivative import derivative
from mojd.solvers._xla.foreign import solve_by_kernels
from mojd.solvers._xla.namespace import NAMESPACE
from mojd.solvers._xla.pivoting import solve_scaled
from mojd.solvers._xla.precision import double_precision
from mojd.solvers.array_api import CHUNK, solve_chunk

Triple = tuple[Array, ...]

# Up to how many numbers in their Gramians problems that share one get one each: see :func:`solve_now`.
SMALL = 2**20


def by_pivoting(gramian: Array, linear: Array, precision: Precision) -> Triple:
    """Solve by operations of XLA alone, some problems after the others if they are many and large."""
    B, R, K = linear.shape
    room = max(1, CHUNK // (8 * K * K))

    def chunk(matrices: Array, rows: Array) -> Triple:
        return tuple(solve_chunk(NAMESPACE, matrices, rows, precision, solve_scaled))

    if room >= B * R:
        return chunk(gramian, linear)
    if room < R:
        return _in_parts(lambda rows: chunk(*rows), (gramian, linear), room, axis=1)
    return _in_parts(lambda owners: chunk(*owners), (gramian, linear), room // R, axis=0)


def _in_parts(solve: Callable[[tuple[Array, Array]], Triple], arrays: Any, size: int, axis: int) -> Triple:
    """Solve for parts of `size` Gramians (axis 0) or right-hand sides (axis 1), padded with zeros."""
    gramian, linear = arrays
    count = linear.shape[axis]
    parts = -(-count // size)
    padding = [(0, 0)] * 3
    padding[axis] = (0, parts * size - count)
    rows = jnp.pad(linear, padding)
    B, _, K = rows.shape
    if axis == 0:
        matrices = jnp.pad(gramian, padding).reshape(parts, size, K, K)
        found = lax.map(solve, (matrices, rows.reshape(parts, size, -1, K)))
        return tuple(part.reshape(-1, *part.shape[2:])[:count] for part in found)
    split = jnp.moveaxis(rows.reshape(B, parts, size, K), 1, 0)
    found = lax.map(lambda own: solve((gramian, own)), split)
    whole = (jnp.moveaxis(part, 0, 1) for part in found)
    return tuple(part.reshape(B, -1, *part.shape[3:])[:, :count] for part in whole)


def by_kernels(gramian: Array, linear: Array, precision: Precision) -> Triple:
    """Solve by mojd's kernels on the CPU; statuses and x as :func:`by_pivoting` has them."""
    x, status, iterations = solve_by_kernels(gramian, linear, precision)
    refused = status >= FIRST_REFUSAL
    unusable = refused | (status == NONFINITE)
    return (
        jnp.where(unusable[..., None], math.nan, x),
        jnp.where(refused, jnp.int8(MAX_ITER), status),
        jnp.where(unusable, 0, iterations),
    )


def by_platform(gramian: Array, linear: Array, precision: Precision) -> Triple:
    """Solve by kernels on the CPU and by pivoting elsewhere; XLA compiles what its platform needs.

    Tracing what it does not need takes half a second, and is left out where there is nothing but a CPU.
    """
    if jax.default_backend() == "cpu":
        return by_kernels(gramian, linear, precision)
    found: Triple = lax.platform_dependent(
        gramian,
        linear,
        cpu=lambda G, q: by_kernels(G, q, precision),
        default=lambda G, q: by_pivoting(G, q, precision),
    )
    return found


@functools.cache
def _solver(method: Callable[..., Triple], precision: Precision) -> Callable[[Array, Array], Triple]:
    """Return a function from G (B, K, K) and q (B, R, K) that JAX can transform."""

    @custom_vmap
    def batched(gramian: Array, linear: Array) -> Triple:
        if linear.size == 0:
            status = jnp.zeros(linear.shape[:-1], jnp.int8)
            return jnp.zeros_like(linear), status, status.astype(jnp.int32)
        return method(gramian, linear, precision)

    @batched.def_vmap
    def _rule(size: int, mapped: list[bool], gramian: Array, linear: Array) -> tuple[Triple, Any]:
        return _merge(batched, size, mapped, gramian, linear), (True, True, True)

    @jax.custom_jvp
    def solve(gramian: Array, linear: Array) -> Triple:
        found: Triple = batched(gramian, linear)
        return found

    @solve.defjvp
    def _tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Triple, Triple]:
        x, status, iterations = solve(*primals)
        change = derivative(primals[0], x, status == OPTIMAL, *tangents)
        none = [zero_from_primal(code) for code in (status, iterations)]  # type: ignore[no-untyped-call]
        return (x, status, iterations), (change, *none)

    return solve


def _merge(
    solve: Callable[[Array, Array], Triple], size: int, mapped: list[bool], gramian: Array, linear: Array
) -> Triple:
    """Solve with a new axis in front, of that size: as more right-hand sides if the Gramians lack it."""
    with double_precision():
        if not mapped[0]:
            B, R, K = linear.shape[1:]
            rows = jnp.moveaxis(linear, 0, 1).reshape(B, size * R, K)
            found = solve(gramian, rows)
            return tuple(jnp.moveaxis(part.reshape(B, size, R, *part.shape[2:]), 1, 0) for part in found)
        if not mapped[1]:
            linear = jnp.broadcast_to(linear, (size, *linear.shape))
        B, R, K = linear.shape[1:]
        found = solve(gramian.reshape(size * B, K, K), linear.reshape(size * B, R, K))
        return tuple(part.reshape(size, B, *part.shape[1:]) for part in found)


def solve_traced(
    method: Callable[..., Triple], gramian: Array, linear: Array, precision: Precision
) -> RawSolution:
    """Solve within a program; see :func:`mojd.solvers.xla`."""
    return RawSolution(*_solver(method, precision)(gramian, linear))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _compiled(method: Callable[..., Triple], gramian: Array, linear: Array, precision: Precision) -> Triple:
    return tuple(solve_traced(method, gramian, linear, precision))


def solve_now(method: Callable[..., Triple], gramian: Any, linear: Any, precision: Precision) -> RawSolution:
    """Solve for NumPy arrays.

    XLA compiles a program for every shape, in seconds. Problems are filled up with zeros, which change
    nothing, to shapes of which there are few; small ones get a Gramian each, as B · R has fewer shapes than B
    and R.
    """
    B, R, K = linear.shape
    if linear.size == 0:
        return RawSolution(np.zeros(linear.shape), np.zeros((B, R), np.int8), np.zeros((B, R), np.int32))
    if R > 1 and B * R * K * K <= SMALL:
        own = solve_now(method, np.repeat(gramian, R, axis=0), linear.reshape(B * R, 1, K), precision)
        return RawSolution(own.x.reshape(B, R, K), own.status.reshape(B, R), own.iterations.reshape(B, R))
    owners, rows, size = _room(B, 16), _room(R, 16), _room(K, 2)
    matrices, vectors = np.zeros((owners, size, size)), np.zeros((owners, rows, size))
    matrices[:B, :K, :K], vectors[:B, :R, :K] = gramian, linear
    device = jax.devices("cpu")[0] if method is by_kernels else None
    with double_precision(), jax.default_device(device):
        x, status, iterations = map(np.asarray, _compiled(method, matrices, vectors, precision))
    return RawSolution(x[:B, :R, :K].copy(), status[:B, :R].copy(), iterations[:B, :R].copy())


def _room(count: int, base: int) -> int:
    """Return the smallest power of `base` that is not below `count`."""
    room = 1
    while room < count:
        room *= base
    return room
