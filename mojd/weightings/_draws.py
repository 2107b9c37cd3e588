"""Random draws: by NumPy on the host, so that a seed means the same for arrays of every library."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd._arrays import Array, device_of
from mojd._checks import check_seed
from mojd.weightings._shared import View


def random_generator(seed: Any) -> np.random.Generator:
    """Return the generator that a seed stands for; a generator stands for itself, and moves on."""
    check_seed(seed)
    return np.random.default_rng(seed)


def visiting_orders(seed: Any, batch_shape: tuple[int, ...], gramian: View) -> Array:
    """Draw in which order each gradient meets the others: indices (..., K, K − 1) beside the Gramian.

    Row i is a permutation of all indices but i, uniform and independent of all other rows.
    """
    size = gramian.size
    places = np.broadcast_to(np.arange(size - 1), (*batch_shape, size, size - 1))
    orders = random_generator(seed).permuted(places, axis=-1)
    orders += orders >= np.arange(size)[:, None]
    if gramian.xp is np:
        return orders
    return gramian.xp.asarray(orders, device=device_of(gramian.original))
