"""PCGrad: each gradient is projected off those that it conflicts with."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd.weightings._draws import visiting_orders
from mojd.weightings._shared import view
from tests.reference.families import FAMILIES, Floats, symmetric_gramian

EXAMPLE = [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]
COUNTEREXAMPLE = [[1.0, 0.0], [0.0, 1.0], [-0.5, -1.0]]


def orders_of(gramian: Any, seed: Any) -> Any:
    """The orders that pcgrad draws for a seed."""
    matrix = view(gramian)
    return visiting_orders(seed, matrix.batch_shape, matrix)


def surgery(jacobian: Any, orders: Sequence[Sequence[int]]) -> list[Fraction]:
    """Algorithm 1 in exact fractions, on the gradients themselves: the direction."""
    rows = [[Fraction(float(entry)) for entry in row] for row in jacobian]
    total = [Fraction(0)] * len(rows[0])
    for row, order in zip(rows, orders, strict=True):
        current = list(row)
        for j in order:
            product = sum((x * y for x, y in zip(current, rows[j], strict=True)), Fraction(0))
            if product < 0:
                square = sum((x * x for x in rows[j]), Fraction(0))
                current = [x - product / square * y for x, y in zip(current, rows[j], strict=True)]
        total = [x + y for x, y in zip(total, current, strict=True)]
    return total


def assert_direction(weights: Floats, jacobian: Floats, exact: list[Fraction]) -> None:
    """Within rounding of the terms of Jᵀw."""
    error = np.abs(weights @ jacobian - np.array([float(entry) for entry in exact]))
    size = float(np.abs(weights) @ np.linalg.norm(jacobian, axis=1))
    assert error.max(initial=0.0) <= 1e-13 * size


class TestOrders:
    def test_each_is_a_permutation_of_the_others(self) -> None:
        orders = orders_of(np.zeros((7, 5, 5)), 0)
        assert orders.shape == (7, 5, 4)
        for problem in orders:
            for i, order in enumerate(problem):
                assert sorted([i, *order]) == [0, 1, 2, 3, 4]

    def test_all_are_equally_likely(self) -> None:
        """Six orders for each of four gradients, 6000 draws: 1000 each, with a deviation of 29."""
        orders = orders_of(np.zeros((6000, 4, 4)), 1)
        for i in range(4):
            found, counts = np.unique(orders[:, i], axis=0, return_counts=True)
            assert len(found) == 6
            assert np.abs(counts - 1000).max() < 4 * 29

    def test_rows_are_independent(self) -> None:
        orders = orders_of(np.zeros((8000, 3, 3)), 2)
        first = orders[:, :, 0] > orders[:, :, 1]
        _, counts = np.unique(first, axis=0, return_counts=True)
        assert len(counts) == 8
        assert np.abs(counts - 1000).max() < 4 * 30


class TestWorkedValues:
    def test_two_objectives(self) -> None:
        """Both are projected off each other: 1 + 22/18 and 1 + 22/38."""
        weights = mojd.pcgrad([[18.0, -22.0], [-22.0, 38.0]], seed=0)
        np.testing.assert_allclose(weights, [20 / 9, 30 / 19], rtol=1e-15)
        direction = mojd.aggregate(EXAMPLE, "pcgrad", seed=0)
        np.testing.assert_allclose(direction, [100 / 171, 650 / 171, 650 / 171], rtol=1e-14)

    def test_three_objectives_of_which_the_order_matters(self) -> None:
        """By hand: four directions, of the two orders for the first and for the second gradient."""
        expected = {
            (first[0] + second[0], first[1] + second[1])
            for first in ((0.8, -0.4), (0.8, 0.0))
            for second in ((-0.4, 0.2), (0.0, 0.2))
        }
        found = {
            tuple(mojd.aggregate(COUNTEREXAMPLE, "pcgrad", seed=seed).round(12).tolist())
            for seed in range(40)
        }
        assert found == {(round(x, 12), round(y, 12)) for x, y in expected}

    def test_that_counterexample_of_the_paper(self) -> None:
        """Whatever the orders, one of the three objectives gets worse."""
        for seed in range(20):
            direction = mojd.aggregate(COUNTEREXAMPLE, "pcgrad", seed=seed)
            assert (np.array(COUNTEREXAMPLE) @ direction < -0.05).any()

    def test_three_objectives_in_four_dimensions(self) -> None:
        """By hand: ‖g‖² = 7, 1, 9, and g₁ conflicts with both others, which are orthogonal.

        g₁' = g₁ + 2·g₂ + ⅓·g₃ in either order. g₂' = g₂ + 2/7·g₁, and + 2/21·g₃ if g₃ comes last;
        g₃' = g₃ + 3/7·g₁, and + 6/7·g₂ if g₂ comes last.
        """
        rows = [[1.0, 2.0, -1.0, 1.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]]
        for seed in range(20):
            weights = mojd.pcgrad(mojd.gramian(rows), seed=seed)
            _, second, third = orders_of(mojd.gramian(rows), seed).tolist()
            expected = [12 / 7, 3 + 6 / 7 * (third == [0, 1]), 4 / 3 + 2 / 21 * (second == [0, 2])]
            np.testing.assert_allclose(weights, expected, rtol=1e-14)

    def test_no_conflict_is_the_sum(self) -> None:
        assert mojd.pcgrad([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 1.0]], seed=0).tolist() == [1.0] * 3

    def test_one_objective(self) -> None:
        assert mojd.pcgrad([[5.0]], seed=0).tolist() == [1.0]
        assert mojd.pcgrad([[0.0]], seed=0).tolist() == [1.0]


class TestAlgorithm:
    @given(data=st.data())
    def test_exact_surgery_on_integers(self, data: st.DataObject) -> None:
        """Any number of objectives and parameters, any rank, any powers of two, any batch."""
        k, n = data.draw(st.integers(1, 5), label="K"), data.draw(st.integers(1, 4), label="n")
        count = data.draw(st.integers(1, 3), label="batch")
        entries = st.lists(st.integers(-4, 4), min_size=count * k * n, max_size=count * k * n)
        jacobians = np.array(data.draw(entries, label="J"), float).reshape(count, k, n)
        exponents = data.draw(st.lists(st.integers(-40, 40), min_size=k, max_size=k), label="log D")
        jacobians = jacobians * (2.0 ** np.array(exponents))[:, None]
        gramians = jacobians @ jacobians.swapaxes(1, 2)
        seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
        weights = mojd.pcgrad(gramians, seed=seed)
        for jacobian, answer, orders in zip(jacobians, weights, orders_of(gramians, seed), strict=True):
            assert_direction(answer, jacobian, surgery(jacobian, orders.tolist()))

    def test_torchjd_agrees(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """TorchJD neither regularises nor normalises here: it differs by rounding only, given the orders."""
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        for seed in range(60):
            k = seed % 6 + 1
            rows = np.random.default_rng(seed).standard_normal((k, seed % 4 + 2))
            rows *= 10.0 ** np.random.default_rng(seed).uniform(-2, 2, (k, 1))
            gramian = symmetric_gramian(rows)
            orders = iter(orders_of(gramian, seed).tolist())
            monkeypatch.setattr(torch, "randperm", lambda _size, left=orders: torch.tensor(next(left)).long())
            expected = aggregation.PCGrad()(torch.tensor(rows)).numpy()
            assert next(orders, None) is None
            size = np.linalg.norm(rows, axis=1) @ mojd.pcgrad(gramian, seed=seed)
            direction = mojd.aggregate(rows, "pcgrad", seed=seed)
            np.testing.assert_allclose(direction, expected, rtol=0, atol=1e-13 * size)


class TestTheory:
    @given(k=st.integers(1, 2), n=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
    def test_up_to_two_objectives_it_is_a_multiple_of_upgrad(self, k: int, n: int, seed: int) -> None:
        """Jacobian descent, arXiv 2406.16232: PCGrad = K·UPGrad for K ≤ 2."""
        gramian = symmetric_gramian(np.random.default_rng(seed).standard_normal((k, n)))
        np.testing.assert_allclose(mojd.pcgrad(gramian, seed=seed), k * mojd.upgrad(gramian), rtol=1e-12)

    @given(k=st.integers(1, 6), n=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
    def test_linear_under_scaling(self, k: int, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((k, n))
        a, b = rng.uniform(0.1, 10.0, (2, k, 1))
        parts = [mojd.aggregate(scale * rows, "pcgrad", seed=seed) for scale in (a, b, a + b)]
        np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=1e-9, atol=1e-10)

    def test_a_common_power_of_two_changes_nothing(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((5, 3)))
        expected = mojd.pcgrad(gramian, seed=0)
        for exponent in (-500, -3, 1, 400):
            assert np.array_equal(mojd.pcgrad(2.0 ** (2 * (exponent // 2)) * gramian, seed=0), expected)

    @given(k=st.integers(1, 6), n=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
    def test_weights_are_at_least_one(self, k: int, n: int, seed: int) -> None:
        """Nothing is ever taken away from a weight: conflicting gradients are added."""
        gramian = symmetric_gramian(np.random.default_rng(seed).integers(-3, 4, (k, n)).astype(float))
        assert (mojd.pcgrad(gramian, seed=seed) >= 1.0).all()

    def test_renaming_the_objectives_renames_the_weights(self) -> None:
        """For two objectives at a time, for which orders do not matter."""
        rng = np.random.default_rng(0)
        for _ in range(20):
            gramian = symmetric_gramian(rng.standard_normal((2, 3)))
            swapped = mojd.pcgrad(gramian[::-1, ::-1], seed=0)
            np.testing.assert_allclose(swapped, mojd.pcgrad(gramian, seed=0)[::-1], rtol=1e-14)


class TestSpecialCases:
    def test_a_zero_gradient_corrects_none(self) -> None:
        gramian = np.array([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 2.0]])
        np.testing.assert_allclose(mojd.pcgrad(gramian, seed=0), [2.0, 1.0, 1.5], rtol=1e-15)
        assert mojd.pcgrad(np.zeros((4, 4)), seed=0).tolist() == [1.0] * 4

    def test_a_gradient_whose_square_has_underflowed(self) -> None:
        """In float32 that of 1e-25 is 0, but its product with one of 1 is not."""
        gramian = np.array([[1.0, -1e-25], [-1e-25, 0.0]], np.float32)
        weights = mojd.pcgrad(gramian, seed=0)
        np.testing.assert_allclose(weights, [1.0 + 1e-25, 1.0], rtol=1e-7)

    def test_opposite_gradients_cancel_exactly(self) -> None:
        for rows in ([[3.0, 1.0], [-3.0, -1.0]], [[0.1, 0.7], [-0.2, -1.4]]):
            direction = mojd.aggregate(rows, "pcgrad", seed=0)
            np.testing.assert_allclose(direction, [0.0, 0.0], atol=1e-15)
        assert mojd.pcgrad([[1.0, -1.0], [-1.0, 1.0]], seed=0).tolist() == [2.0, 2.0]

    def test_duplicates_are_corrected_once(self) -> None:
        """After the first of two copies the conflict is over, whatever rounding leaves of the product."""
        for seed in range(10):
            g = np.random.default_rng(seed).standard_normal((2, 3))
            g[1] -= g[0] * (g[0] @ g[1] + 1.0) / (g[0] @ g[0])
            direction = mojd.aggregate(np.stack([g[0], g[1], g[1]]), "pcgrad", seed=seed)
            first = g[0] + g[1] / (g[1] @ g[1])
            others = 2 * (g[1] + g[0] / (g[0] @ g[0]))
            np.testing.assert_allclose(direction, first + others, rtol=1e-12, atol=1e-13)

    def test_a_product_of_zero_up_to_rounding(self) -> None:
        """0.1·3 − 0.3·1 rounds to 5.6e-17 instead of about 0: what is corrected is as small."""
        rows = np.array([[0.1, -0.3], [3.0, 1.0]])
        for sign in (1.0, -1.0):
            gramian = mojd.gramian(rows * [[sign], [1.0]])
            np.testing.assert_allclose(mojd.pcgrad(gramian, seed=0), [1.0, 1.0], atol=1e-15)

    @pytest.mark.parametrize("scale", [1e-150, 1e150])
    def test_extreme_scales(self, scale: float) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((4, 3)))
        np.testing.assert_allclose(
            mojd.pcgrad(scale * gramian, seed=0), mojd.pcgrad(gramian, seed=0), rtol=1e-12
        )

    def test_norms_far_apart(self) -> None:
        """1e-100 beside 1e100: each is corrected in its own units."""
        gramian = np.array([[1e-200, -1.0], [-1.0, 1e200]]) * [[1.0, 0.5], [0.5, 1.0]]
        weights = mojd.pcgrad(gramian, seed=0)
        np.testing.assert_allclose(weights, [1 + 0.5e200, 1 + 0.5e-200], rtol=1e-14)

    def test_float32(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((4, 3))).astype(np.float32)
        weights = mojd.pcgrad(gramian, seed=0)
        assert weights.dtype == np.float32
        assert np.array_equal(weights, mojd.pcgrad(gramian.astype(float), seed=0).astype(np.float32))

    def test_empty_batches(self) -> None:
        assert mojd.pcgrad(np.zeros((0, 3, 3)), seed=0).shape == (0, 3)
        assert mojd.pcgrad(np.zeros((2, 0, 1, 1)), seed=0).shape == (2, 0, 1)

    def test_a_batch_is_each_of_its_problems(self) -> None:
        gramians = np.stack(
            [FAMILIES["rank_half"].sample(6, np.random.default_rng(seed)).gramian for seed in range(8)]
        )
        together = mojd.pcgrad(gramians, seed=np.random.default_rng(4))
        generator = np.random.default_rng(4)
        alone = [mojd.pcgrad(gramian, seed=generator) for gramian in gramians]
        np.testing.assert_allclose(together, alone, rtol=1e-10, atol=1e-11)
