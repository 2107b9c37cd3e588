"""Batches of Gramians for the kernels, and how far two answers to them are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mojd.weightings._optimality import lengths, relative_maximum, slopes
from tests.reference.families import symmetric_gramian

Gramians = NDArray[Any]
# What is left of sixteen digits on well-conditioned problems.
CLOSE = 1e-13


def gramians(count: int, k: int, dtype: type[np.floating[Any]] = np.float64, seed: int = 0) -> Gramians:
    """Well-conditioned Gramians in conflict: K objectives, 2K + 1 parameters."""
    rows = np.random.default_rng([seed, k]).standard_normal((count, k, 2 * k + 1)).astype(dtype)
    return np.array([symmetric_gramian(jacobian) for jacobian in rows], dtype).reshape(count, k, k)


def low_rank(count: int, k: int, seed: int = 0) -> Gramians:
    """Integer Gramians of rank K/2, whose dependencies are exact."""
    rows = np.random.default_rng([seed, k]).integers(-3, 4, (count, k, max(1, k // 2))).astype(np.float64)
    return np.stack([symmetric_gramian(jacobian) for jacobian in rows])


def assert_close(weights: Any, expected: Any) -> None:
    """The same to CLOSE times the largest of each problem, or in float32 to its rounding; the same NaN."""
    assert weights.dtype == expected.dtype
    assert weights.shape == expected.shape
    largest = np.abs(expected).max(axis=-1, initial=0.0, keepdims=True)
    digits = CLOSE if expected.dtype == np.float64 else float(np.finfo(expected.dtype).eps)
    assert np.array_equal(np.isnan(weights), np.isnan(expected))
    error = np.abs(weights.astype(float) - expected)
    assert (np.nan_to_num(error) <= digits * np.nan_to_num(largest)).all(), float(np.nanmax(error / largest))


def direction_gap(weights: Any, expected: Any, gramian: Gramians) -> Any:
    """How far apart two directions J'w are as the gradients see them, relative to what cancels in them."""
    matrix = gramian.astype(np.float64)
    first, second = weights.astype(np.float64), expected.astype(np.float64)
    size = np.maximum(np.abs(first), np.abs(second)) * lengths(matrix)
    return relative_maximum(slopes(matrix, first - second), size)
