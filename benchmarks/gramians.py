"""Gramians to measure on: random ones, and those recorded from training, by their size."""

from __future__ import annotations

import functools
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mojd.compare import recorded_gramians
from mojd.compare.recording import PCD_PREFIX

FloatArray: TypeAlias = NDArray[np.float64]


def random(size: int, count: int, seed: int = 0) -> FloatArray:
    """Return Gramians (count, K, K) of Gaussian Jacobians with n = 2K parameters."""
    jacobians = np.random.default_rng([seed, size]).standard_normal((count, size, 2 * size))
    return jacobians @ jacobians.mT


@functools.cache
def _recorded() -> dict[str, FloatArray]:
    return {name: stack.astype(np.float64) for name, stack in recorded_gramians().items()}


def recorded(size: int, *, with_primary: bool = False) -> FloatArray:
    """Return the recorded Gramians (N, K, K) of one size; N may be 0.

    Parameters
    ----------
    size : int
        K.
    with_primary : bool
        Whether to take those of hierarchies, with the primary objective in row 0, or the others.
    """
    chosen = [
        stack
        for name, stack in _recorded().items()
        if stack.shape[-1] == size and name.startswith(PCD_PREFIX) == with_primary
    ]
    return np.concatenate(chosen) if chosen else np.empty((0, size, size))


def recorded_names() -> dict[str, FloatArray]:
    """Return the recorded Gramians of equal objectives by their names."""
    return {name: stack for name, stack in _recorded().items() if not name.startswith(PCD_PREFIX)}


def tiled(stack: FloatArray, count: int) -> FloatArray:
    """Return `count` Gramians, those of `stack` over and over."""
    return stack[np.arange(count) % len(stack)]


def random_count(size: int) -> int:
    """Say how many random Gramians of a size to take: fewer of those that take long."""
    return 8 if size <= 32 else 3 if size <= 128 else 1
