"""Generators of the Gramians on which solvers go wrong.

Families marked ``exact`` draw Jacobians with few bits, so that G = JJ' holds without rounding: G is
exactly positive semidefinite, dependencies between rows are exact, and exact enumeration applies.
The others round as real Gramians do, and may be indefinite by about 1e-16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Sample:
    """One problem of a family.

    Attributes
    ----------
    gramian : float64 array, shape (K, K)
        Exactly symmetric.
    jacobian : float64 array, shape (K, n), or None
        Rows whose Gramian it is (up to rounding), where the family has any.
    linear : float64 array, shape (K,), or None
        The linear term that makes the problem hard, where the family has one.
    """

    gramian: Floats
    jacobian: Floats | None = None
    linear: Floats | None = None


@dataclass(frozen=True)
class Family:
    """A named generator.

    Attributes
    ----------
    sample : callable
        ``sample(K, rng) -> Sample``.
    well_posed : bool
        Whether a residual of 1e-12 is due, rather than 1e-9.
    exact : bool
        Whether the Gramian is exactly positive semidefinite for K <= 8.
    min_size : int
        The smallest K for which the family exists.
    """

    sample: Callable[[int, Rng], Sample]
    well_posed: bool = False
    exact: bool = False
    min_size: int = 1


def symmetric_gramian(jacobian: Floats) -> Floats:
    """Compute JJ' with both triangles equal to the last bit."""
    lower = np.tril(jacobian @ jacobian.T)
    return lower + np.tril(lower, -1).T


def _of(jacobian: Floats) -> Sample:
    return Sample(symmetric_gramian(jacobian), jacobian)


def normal(rows: int, n: int, rng: Rng) -> Floats:
    """Draw normal entries."""
    return rng.standard_normal((rows, n))


def grid(rows: int, n: int, rng: Rng, largest: int = 127) -> Floats:
    """Draw integers: sums of products of such entries are exact in float64."""
    return rng.integers(-largest, largest + 1, (rows, n)).astype(np.float64)


Draw = Callable[[int, int, Rng], Floats]


def _full(k: int, rng: Rng, draw: Draw = normal, scale: float = 1.0) -> Sample:
    return _of(scale * draw(k, 2 * k, rng))


def _low_rank(k: int, rng: Rng, draw: Draw = normal, rank: str = "any") -> Sample:
    ranks = {"one": 1, "quarter": k // 4, "half": k // 2, "less one": k - 1}
    r = max(1, ranks[rank] if rank in ranks else int(rng.integers(1, max(2, k))))
    return _of(draw(k, r, rng))


def _duplicates(k: int, rng: Rng, draw: Draw = normal, factors: tuple[float, ...] = (1.0,)) -> Sample:
    unique = draw((k + 1) // 2, 2 * k, rng)
    rows = unique[rng.integers(0, len(unique), k)]
    return _of(rows * rng.choice(factors, (k, 1)))


def _antiparallel(k: int, rng: Rng, draw: Draw = normal) -> Sample:
    rows = draw((k + 1) // 2, 2 * k, rng)
    return _of(np.concatenate([rows, -rows])[:k][rng.permutation(k)])


def _zero_rows(k: int, rng: Rng, draw: Draw = normal) -> Sample:
    rows = draw(k, 2 * k, rng)
    rows[rng.permutation(k)[: (k + 1) // 2]] = 0.0
    return _of(rows)


def _all_zero(k: int, rng: Rng) -> Sample:
    return _of(np.zeros((k, 2 * k)))


def _near_pairs(k: int, rng: Rng, sign: float = 1.0, distance: float = 1e-8) -> Sample:
    rows = normal((k + 1) // 2, 2 * k, rng)
    near = sign * rows + distance * normal(len(rows), 2 * k, rng)
    return _of(np.concatenate([rows, near])[:k])


def _near_pairs_grid(k: int, rng: Rng) -> Sample:
    """Rows 2**-22 (2.4e-7) apart: the closest that leaves all bits of the Gramian room."""
    rows = grid((k + 1) // 2, 2 * k, rng, largest=1)
    near = rows + 2.0**-22 * grid(len(rows), 2 * k, rng, largest=1)
    return _of(np.concatenate([rows, near])[:k])


def _hilbert(k: int, rng: Rng, scaled: bool = True) -> Sample:
    """Hilbert's matrix, times the least common multiple that makes its entries integers (K <= 20)."""
    index = np.arange(k)
    factor = math.lcm(*range(1, 2 * k)) if scaled and k <= 20 else 1
    return Sample(factor / (index[:, None] + index + 1.0))


def _row_scales(k: int, rng: Rng, rank: float = 2.0, power_of_two: bool = False) -> Sample:
    """Norms from 1e-12 to 1e12; with n = rank K parameters."""
    n = max(1, int(rank * k))
    if power_of_two:
        exponents = np.rint(np.linspace(-40, 40, k))
        return _of(grid(k, n, rng) * 2.0 ** rng.permutation(exponents)[:, None])
    return _of(normal(k, n, rng) * 10.0 ** rng.permutation(np.linspace(-12, 12, k))[:, None])


def _float32(k: int, rng: Rng, rank: float = 2.0, copies: int = 1) -> Sample:
    """Compute a Gramian in float32: indefinite by about 1e-7 of its trace when rank-deficient."""
    n = max(1, int(rank * k))
    rows = normal(-(-k // copies), n, rng).astype(np.float32)
    single = np.concatenate([rows * np.float32(1 + c) for c in range(copies)])[:k]
    lower = np.tril(single @ single.T).astype(np.float64)
    return Sample(lower + np.tril(lower, -1).T, single.astype(np.float64))


def _fathi(k: int, rng: Rng) -> Sample:
    """Fathi's LL' with q = -1: principal pivoting by a single index takes 2**K steps."""
    factor = np.tril(np.full((k, k), 2.0), -1) + np.eye(k)
    return Sample(symmetric_gramian(factor), factor, np.full(k, -1.0))


def _murty(k: int, rng: Rng) -> Sample:
    """Murty's example made symmetric: L'L, with his right-hand side of powers of two (capped)."""
    factor = (np.tril(np.full((k, k), 2.0), -1) + np.eye(k)).T
    powers = np.minimum(np.arange(k, 0, -1), 30)
    return Sample(symmetric_gramian(factor), np.ascontiguousarray(factor), 1.0 - 2.0**powers)


def _ties(k: int, rng: Rng) -> Sample:
    """Entries in {-1, 0, 1}, K/2 parameters: dependencies, and x_i = s_i = 0 everywhere."""
    return _of(grid(k, (k + 1) // 2, rng, largest=1))


def _orthogonal(k: int, rng: Rng) -> Sample:
    """Rows +-e_i: every slack off the diagonal is exactly zero."""
    return _of(np.eye(k)[rng.permutation(k)] * rng.choice([-1.0, 1.0], (k, 1)))


def _equicorrelated(k: int, rng: Rng, rho: Callable[[int], float]) -> Sample:
    value = rho(k)
    return Sample((1.0 - value) * np.eye(k) + value)


def _simplex(k: int, rng: Rng) -> Sample:
    """Correlation exactly -1/(K-1), times K-1: rank K-1, and the rows sum to zero."""
    return Sample(k * np.eye(k) - 1.0)


def _stationary(
    k: int, rng: Rng, *, draw: Draw = normal, members: float = 1.0, largest: int = 1, noise: float = 0.0
) -> Sample:
    """J'alpha = 0 for integers alpha > 0 on a part of the rows; plus noise."""
    rows = draw(k, 2 * k, rng)
    count = max(2, int(members * k)) if k > 1 else 1
    chosen = rng.permutation(k)[:count]
    alpha = rng.integers(1, largest + 1, count - 1).astype(np.float64)
    rows[chosen[-1]] = -(alpha @ rows[chosen[:-1]])
    if noise:
        rows = rows + noise * normal(k, 2 * k, rng)
    return _of(rows)


def _integers(k: int, rng: Rng, n: float = 2.0) -> Sample:
    return _of(grid(k, max(1, int(n * k)), rng, largest=3))


def _clustered(k: int, rng: Rng) -> Sample:
    """Ten classes of nearly equal rows, as one objective per example gives late in training."""
    means = normal(10, 2 * k, rng)
    return _of(means[rng.integers(0, 10, k)] + 1e-2 * normal(k, 2 * k, rng))


def _powers_of_two(k: int, rng: Rng) -> Sample:
    return _of(grid(k, 2 * k, rng) * power_of_two_scales(k, rng)[:, None])


def power_of_two_scales(k: int, rng: Rng, span: int = 20) -> Floats:
    """Draw a diagonal D of powers of two, from 2**-span to 2**span."""
    return np.asarray(2.0 ** rng.integers(-span, span + 1, k), dtype=np.float64)


CYCLING_JACOBIAN = np.array([[1, -1, 0, -1], [-2, 0, 1, -1], [2, -2, -1, 0], [-2, 1, 1, 0]], dtype=np.float64)
"""Rank 4. On q = G e_0, full block exchange from the empty set repeats {}, {1, 3}, {2, 3}, {}."""

CYCLING_SINGULAR_JACOBIAN = np.array([[0, -2, -1], [1, -2, 0], [1, -1, 1], [-1, 2, 1]], dtype=np.float64)
"""Rank 3. On q = G e_0, full block exchange from the empty set repeats {3}, {1, 2, 3}, {2}, {3}."""


def _cycling(k: int, rng: Rng, jacobian: Floats = CYCLING_JACOBIAN) -> Sample:
    """Independent copies of a cycling example, and orthogonal rows to fill up K."""
    copies, n = k // 4, jacobian.shape[1]
    rows = np.zeros((k, copies * n + k % 4))
    linear = np.ones(k)
    for c in range(copies):
        rows[4 * c : 4 * c + 4, c * n : (c + 1) * n] = jacobian
        linear[4 * c : 4 * c + 4] = jacobian @ jacobian[0]
    rows[4 * copies :, copies * n :] = np.eye(k % 4)
    return Sample(symmetric_gramian(rows), rows, linear)


FAMILIES: dict[str, Family] = {
    "random": Family(_full, well_posed=True),
    "random_grid": Family(partial(_full, draw=grid), well_posed=True, exact=True),
    "random_tiny": Family(partial(_full, scale=1e-120), well_posed=True),
    "random_huge": Family(partial(_full, scale=1e120), well_posed=True),
    "powers_of_two_scaled": Family(_powers_of_two, well_posed=True, exact=True),
    "equicorrelated_near_zero": Family(partial(_equicorrelated, rho=lambda k: 1e-3), well_posed=True),
    "orthogonal": Family(_orthogonal, well_posed=True, exact=True),
    "integers": Family(_integers, exact=True),
    "integers_square": Family(partial(_integers, n=1.0), exact=True),
    "integers_rank_deficient": Family(partial(_integers, n=0.5), exact=True, min_size=2),
    "rank_one": Family(partial(_low_rank, rank="one")),
    "rank_one_grid": Family(partial(_low_rank, draw=grid, rank="one"), exact=True),
    "rank_any": Family(_low_rank),
    "rank_any_grid": Family(partial(_low_rank, draw=grid), exact=True),
    "rank_quarter": Family(partial(_low_rank, rank="quarter")),
    "rank_quarter_grid": Family(partial(_low_rank, draw=grid, rank="quarter"), exact=True),
    "rank_half": Family(partial(_low_rank, rank="half")),
    "rank_half_grid": Family(partial(_low_rank, draw=grid, rank="half"), exact=True),
    "rank_less_one": Family(partial(_low_rank, rank="less one")),
    "rank_less_one_grid": Family(partial(_low_rank, draw=grid, rank="less one"), exact=True),
    "duplicates": Family(_duplicates),
    "duplicates_grid": Family(partial(_duplicates, draw=grid), exact=True),
    "parallel": Family(partial(_duplicates, factors=(1.0, 0.1, 3.0, 1e3))),
    "parallel_grid": Family(partial(_duplicates, draw=grid, factors=(1.0, 0.125, 3.0, 7.0)), exact=True),
    "antiparallel": Family(_antiparallel),
    "antiparallel_grid": Family(partial(_antiparallel, draw=grid), exact=True),
    "zero_rows": Family(_zero_rows),
    "zero_rows_grid": Family(partial(_zero_rows, draw=grid), exact=True),
    "all_zero": Family(_all_zero, exact=True),
    "near_duplicates": Family(_near_pairs),
    "near_duplicates_grid": Family(_near_pairs_grid, exact=True),
    "near_antiparallel": Family(partial(_near_pairs, sign=-1.0)),
    "hilbert": Family(_hilbert, exact=True),
    "hilbert_rounded": Family(partial(_hilbert, scaled=False)),
    "row_scales": Family(_row_scales),
    "row_scales_grid": Family(partial(_row_scales, power_of_two=True), exact=True),
    "row_scales_low_rank": Family(partial(_row_scales, rank=0.5)),
    "row_scales_low_rank_grid": Family(partial(_row_scales, rank=0.5, power_of_two=True), exact=True),
    "float32": Family(_float32),
    "float32_low_rank": Family(partial(_float32, rank=0.5)),
    "float32_parallel": Family(partial(_float32, copies=2)),
    "fathi": Family(_fathi, exact=True),
    "murty": Family(_murty, exact=True),
    "ties": Family(_ties, exact=True),
    "equicorrelated_near_one": Family(partial(_equicorrelated, rho=lambda k: 1.0 - 1e-8)),
    "equicorrelated_negative": Family(
        partial(_equicorrelated, rho=lambda k: -(1.0 - 1e-8) / (k - 1)), min_size=2
    ),
    "equicorrelated_rounded": Family(partial(_equicorrelated, rho=lambda k: -1.0 / (k - 1)), min_size=2),
    "equicorrelated_singular": Family(_simplex, exact=True, min_size=2),
    "strongly_stationary": Family(_stationary),
    "strongly_stationary_grid": Family(partial(_stationary, draw=grid), exact=True),
    "strongly_stationary_alpha": Family(partial(_stationary, draw=grid, largest=8), exact=True),
    "nearly_strongly_stationary_1e-8": Family(partial(_stationary, noise=1e-8)),
    "weakly_stationary": Family(partial(_stationary, members=0.5, largest=8), min_size=3),
    "weakly_stationary_grid": Family(
        partial(_stationary, draw=grid, members=0.5, largest=8), exact=True, min_size=3
    ),
    "nearly_weakly_stationary_1e-6": Family(partial(_stationary, members=0.5, noise=1e-6), min_size=3),
    "nearly_weakly_stationary_1e-8": Family(partial(_stationary, members=0.5, noise=1e-8), min_size=3),
    "clustered": Family(_clustered),
    "cycling": Family(_cycling, exact=True, min_size=4),
    "cycling_singular": Family(partial(_cycling, jacobian=CYCLING_SINGULAR_JACOBIAN), exact=True, min_size=4),
}


def linear_terms(sample: Sample, rng: Rng, upgrad: int = 8, extra: int = 2) -> Iterator[tuple[str, Floats]]:
    """Iterate over labelled linear terms: the family's own, UPGrad's columns, and others in range(G).

    Parameters
    ----------
    sample : Sample
        The problem.
    rng : numpy.random.Generator
        Draws the columns (all of them if K <= ``upgrad``) and the others.
    upgrad, extra : int
        How many columns of G, and how many products G z. The entries of z are small integers over
        the row norms, to a power of two: where the family is exact, so is G z.
    """
    g = sample.gramian
    size = len(g)
    inverse_norms = 2.0 ** -np.frexp(np.sqrt(np.diagonal(g)))[1]
    if sample.linear is not None:
        yield "own", sample.linear
    columns = range(size) if size <= upgrad else sorted(rng.permutation(size)[:upgrad].tolist())
    for i in columns:
        yield f"column {i}", np.ascontiguousarray(g[:, i])
    for e in range(extra):
        yield f"range {e}", g @ (inverse_norms * rng.integers(-7, 8, size))
