"""Random draws: by NumPy on the host, so that a seed means the same for arrays of every library, or by JAX.

A program of JAX is traced once and run many times, so that what it draws has to come from a key.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from mojd._arrays import Array, device_of, is_traced, namespace
from mojd._checks import check_seed
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.weightings._shared import Seen, View


def random_generator(seed: Any) -> np.random.Generator:
    """Return the generator that a seed stands for; a generator stands for itself, and moves on."""
    check_seed(seed)
    return np.random.default_rng(seed)


def uniform(seed: Any, shape: tuple[int, ...], like: Seen) -> Array:
    """Draw float64 numbers from [0, 1): of NumPy from a seed, of JAX from a key."""
    key = _key(seed, like)
    return random_generator(seed).random(shape) if key is None else _uniform(key, shape)


def normal(seed: Any, shape: tuple[int, ...], like: Seen) -> Array:
    """Draw standard normals in float64: of NumPy from a seed, of JAX from a key."""
    key = _key(seed, like)
    return random_generator(seed).standard_normal(shape) if key is None else _normal(key, shape)


def visiting_orders(seed: Any, batch_shape: tuple[int, ...], gramian: View) -> Array:
    """Draw in which order each gradient meets the others: indices (..., K, K − 1) beside the Gramian.

    Row i is a permutation of all indices but i, uniform and independent of all other rows.
    """
    size, key = gramian.size, _key(seed, gramian)
    shape = (*batch_shape, size, size - 1)
    if key is None:
        orders = random_generator(seed).permuted(np.broadcast_to(np.arange(size - 1), shape), axis=-1)
    else:
        drawn = _uniform(key, shape)
        orders = namespace(drawn).argsort(drawn, axis=-1)
    orders = orders + (orders >= np.arange(size)[:, None])
    if gramian.xp is np or is_traced(orders):
        return orders
    return gramian.xp.asarray(orders, device=device_of(gramian.original))


def _key(seed: Any, like: Seen) -> Any:
    """Return the key of JAX that a seed is, None if it is a number or a generator; raise if it can't be."""
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(seed, jax.Array):
        if is_traced(like.original):
            raise InvalidInputError(
                f"seed={seed!r} would be drawn from once, when the program is traced, and give the same "
                "numbers at every step: pass a key of JAX, and split it at every step, as in "
                "key, subkey = jax.random.split(key)"
            )
        return None
    if not jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key):
        if seed.dtype != np.uint32 or not seed.ndim:
            raise InvalidTypeError(
                f"seed must be a key of JAX, got an array of dtype {seed.dtype} and shape {seed.shape}: make "
                "one of a number by jax.random.key(number)"
            )
        seed = jax.random.wrap_key_data(seed)
    if seed.shape:
        raise InvalidInputError(
            f"seed must be one key, got keys of shape {seed.shape}: all problems of a batch can be drawn "
            "from one, or map over gramians and keys by jax.vmap"
        )
    return seed


def _uniform(key: Any, shape: tuple[int, ...]) -> Array:
    """Draw from (0, 1) by 52 bits and a half, whatever JAX is set to.

    They are put together here, as JAX looks at its setting once more when it compiles its own draws.
    """
    jax = sys.modules["jax"]
    bits = jax.random.bits(key, (2, *shape), "uint32")
    with _double_precision():
        high, low = (bits >> 6).astype("float64")
        return _on_host((high + (low + 0.5) * 2.0**-26) * 2.0**-26)


def _normal(key: Any, shape: tuple[int, ...]) -> Array:
    """Draw standard normals."""
    drawn = _uniform(key, shape)
    with _double_precision():
        return _on_host(math.sqrt(2.0) * sys.modules["jax"].lax.erf_inv(2.0 * drawn - 1.0))


def _on_host(drawn: Array) -> Array:
    """Return draws as an array of NumPy, as a seed would give, unless they are traced."""
    return drawn if is_traced(drawn) else np.asarray(drawn)


def _double_precision() -> Any:
    # JAX, which this imports, is there if there is a key.
    from mojd.solvers._xla.precision import double_precision

    return double_precision()
