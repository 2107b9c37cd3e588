"""How CAGrad's weights change with the Gramian, in programs of JAX: imported when it is first needed."""

from __future__ import annotations

import jax.numpy as jnp

from mojd._arrays import Array
from mojd.solvers._xla.derivative import derivative


def ball_derivative(y: Array, on_sphere: Array, gramian: Array, gramian_change: Array, c: float) -> Array:
    r"""Return the change of y (..., K) while its passive set P = {y > 0} stays what it is.

    With u = 1/K and w = u + y, the conditions are G_PP·y_P = λ − (Gu)_P, and yᵀGy = c²·uᵀGu on the sphere.
    Hence G_PP·ẏ_P = λ̇ − (Ġw)_P; multiplied by y from the left, that gives
    λ̇·Σy = yᵀĠw + (c²·uᵀĠu − yᵀĠy)/2. Within the ball λ is 0, and stays so.
    """
    change = 0.5 * (gramian_change + jnp.matrix_transpose(gramian_change))
    size = y.shape[-1]
    of_mean, of_y = jnp.sum(change, axis=-1) / size, (change @ y[..., None])[..., 0]
    rate = jnp.sum(y * (of_y + of_mean), axis=-1)
    rate = rate + 0.5 * (c**2 * jnp.sum(of_mean, axis=-1) / size - jnp.sum(y * of_y, axis=-1))
    total = jnp.sum(y, axis=-1)
    moves = (on_sphere > 0) & (total > 0)
    level = jnp.where(moves, rate / jnp.where(moves, total, 1.0), 0.0)
    flat = (-1, size, size)
    rows = (-1, 1, size)
    found = derivative(
        gramian.reshape(flat),
        y.reshape(rows),
        jnp.ones_like(y[..., 0], dtype=bool).reshape(-1, 1),
        change.reshape(flat),
        (of_mean - level[..., None]).reshape(rows),
    )
    return found.reshape(y.shape)
