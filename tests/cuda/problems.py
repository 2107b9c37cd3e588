"""Batches of Gramians for the kernels, and how far two answers to them are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mojd.weightings._optimality import lengths, relative_maximum, slopes
from tests.reference.families import FAMILIES, linear_terms, symmetric_gramian

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


# What together takes the general solver through all of its branches, found by counting them.
HARD = (
    "near_antiparallel",
    "nearly_weakly_stationary_1e-8",
    "nearly_weakly_stationary_1e-6",
    "cycling_singular",
    "zero_rows",
    "all_zero",
    "clustered",
    "near_duplicates_grid",
    "integers_rank_deficient",
    "equicorrelated_negative",
    "fathi",
    "ties",
)


def cancelling(k: int, seed: int) -> tuple[Gramians, Gramians]:
    """One Gramian of rows that cancel with weights of very different size, which hides the ray."""
    rng = np.random.default_rng([k, seed, 1])
    rows = rng.integers(-9, 10, (k, 2 * k)).astype(np.float64)
    count = rng.integers(2, k + 1)
    members, alpha = rng.permutation(k)[:count], np.zeros(k)
    alpha[members] = 10.0 ** rng.uniform(0, rng.choice([3, 5, 7, 9]), count)
    rows[members[-1]] = -(alpha[members[:-1]] @ rows[members[:-1]]) / alpha[members[-1]]
    gramian = symmetric_gramian(rows)
    return gramian, np.stack([-np.ones(k), gramian @ rng.normal(size=k) - (alpha > 0)])


# Seeds for K of float32_low_rank and of `cancelling`, with which an index is set aside, shrink exchanges
# indices, refactoring drops one, a ray is found behind a solution, or rounding made a matrix indefinite.
SEEDS = {5: ((0,), (23, 52, 100)), 20: ((2, 13), (0, 11, 12, 77, 188)), 40: ((2,), (0, 7, 8))}


def hard_problems(k: int, terms: int = 3) -> tuple[Gramians, Gramians]:
    """G (B, K, K) and q (B, R, K): the families above, hidden rays, and what is no Gramian; K = 5, 20, 40."""
    matrices, linear = [], []
    for name, seed in [*((name, 0) for name in HARD), *(("float32_low_rank", seed) for seed in SEEDS[k][0])]:
        rng = np.random.default_rng([k, seed])
        sample = FAMILIES[name].sample(k, rng)
        given = [q for _, q in linear_terms(sample, rng, upgrad=terms)][: terms - 1]
        matrices.append(sample.gramian)
        linear.append(np.stack([*given, -np.ones(k)]))
    for seed in SEEDS[k][1]:
        gramian, q = cancelling(k, seed)
        matrices.append(gramian)
        linear.append(np.concatenate([q, gramian[: terms - 2]]))
    indefinite = np.where(np.eye(k, dtype=bool), 1.0, -0.9)
    asymmetric, spoilt = np.eye(k), np.eye(k)
    asymmetric[0, 1], spoilt[1, 1] = 0.5, np.nan
    for gramian in (indefinite, asymmetric, spoilt):
        matrices.append(gramian)
        linear.append(np.where(np.arange(terms * k) == 1, np.nan, -1.0).reshape(terms, k))
    return np.stack(matrices), np.stack(linear)
