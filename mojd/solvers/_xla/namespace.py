"""``jax.numpy`` for masked pivoting, less what can't be compiled in float64 while JAX is in float32."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mojd._arrays import Array


class _Namespace:
    """All of ``jax.numpy``, with other ways to find an index.

    JAX expands its own, and searches of other kinds, when a program is compiled. That is outside of the
    context in which float64 and indices of 64 bits can be traced.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def argmin(values: Array, axis: int) -> Array:
        """Return the index of the first smallest entry along the last axis; there is no NaN."""
        assert axis == -1
        count = values.shape[-1]
        places = jnp.arange(count, dtype=jnp.int32)
        smallest = jnp.min(values, axis=-1, keepdims=True)
        return jnp.min(jnp.where(values == smallest, places, count - 1), axis=-1)

    @staticmethod
    def argmax(values: Array, axis: int) -> Array:
        """Return the index of the first largest entry along the last axis."""
        return _Namespace.argmin(-values.astype(jnp.float64), axis)


NAMESPACE = _Namespace()
