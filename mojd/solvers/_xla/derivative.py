r"""The derivative of minimisers: linear systems on the passive sets.

Near a problem whose solution is strictly complementary (:math:`x_i + s_i > 0` for all i), the passive set
:math:`P = \{x > 0\}` stays what it is and :math:`G_{PP}\, x_P = -q_P`. Hence
:math:`G_{PP}\, \dot x_P = -(\dot G x + \dot q)_P`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve

from mojd._arrays import Array
from mojd.solvers._xla.precision import double_precision

# How many bytes the blocks of one round may take; a handful of such arrays are in use at a time.
ROUND = 2**26
# The lift of the diagonal that no rounding error of a factorisation exceeds, in units of K·ε, and how often
# its effect is refined away: what is left is (lift/λ)³ along an eigenvector with the eigenvalue λ.
LIFT = 8.0 * 2.0**-53
REFINEMENTS = 3


@jax.custom_jvp
def as_symmetric(gramian: Array) -> Array:
    """Return Gramians; the derivative is that of G ↦ f((G + Gᵀ)/2), and NaN where G is not finite."""
    return gramian


@as_symmetric.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (gramian,), (change,) = primals, tangents
    finite = jnp.all(jnp.isfinite(gramian), axis=(-2, -1), keepdims=True)
    half = jnp.where(finite, 0.5, jnp.nan).astype(change.dtype)
    return as_symmetric(gramian), half * (change + jnp.swapaxes(change, -1, -2))


def derivative(gramian: Array, x: Array, solved: Array, dG: Array, dq: Array) -> Array:
    """Return ẋ (B, R, K) for the solution x of G (B, K, K), and 0 where it is not `solved` (B, R)."""
    change = 0.5 * (dG + jnp.swapaxes(dG, -1, -2))
    passive = (x > 0) & solved[..., None]
    right = jnp.where(passive, -(x @ change + dq), 0.0)

    def product(y: Array) -> Array:
        return jnp.where(passive, jnp.where(passive, y, 0.0) @ gramian, y)

    # Told that the system is linear and symmetric, JAX derives the rest: reverse mode and higher orders.
    solve = functools.partial(_solve_on, passive, gramian)
    result: Array = lax.custom_linear_solve(product, right, lambda _, b: solve(b), symmetric=True)
    return result


def _solve_on(passive: Array, gramian: Array, right: Array) -> Array:
    """Solve G_PP·y = r_P for passive sets and right-hand sides (B, R, K); what is outside stays."""
    B, R, K = right.shape
    with double_precision():
        size = max(1, min(B * R, ROUND // (8 * K * K)))
        owners = jnp.arange(B * R) // R

        def one(item: tuple[Array, Array, Array]) -> Array:
            owner, own, b = item
            return _solve_one(gramian[owner], own, b)

        items = owners, passive.reshape(B * R, K), right.reshape(B * R, K)
        return lax.map(one, items, batch_size=size).reshape(B, R, K)


def _solve_one(gramian: Array, passive: Array, right: Array) -> Array:
    """Solve for one passive set (K,), in units of gradients of norm 1."""
    diagonal = jnp.diagonal(gramian)
    scale = jnp.where(passive & (diagonal > 0), 1.0 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0)), 0.0)
    identity = jnp.eye(right.size, dtype=gramian.dtype)
    symmetric = 0.5 * (gramian + gramian.T)
    inside = passive[:, None] & passive[None, :]
    matrix = jnp.where(inside & (identity == 0), scale[:, None] * symmetric * scale[None, :], identity)
    factor = jnp.linalg.cholesky(matrix + LIFT * right.size * identity, symmetrize_input=False)
    b = right * scale
    y = cho_solve((factor, True), b)
    for _ in range(REFINEMENTS):
        y = y + cho_solve((factor, True), b - matrix @ y)
    return jnp.where(passive, y * scale, right)
