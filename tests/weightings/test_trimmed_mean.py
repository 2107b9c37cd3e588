"""Trimmed mean: per parameter, the mean of what is left without the extremes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd


class TestWorkedValues:
    def test_by_hand(self) -> None:
        rows = [[1.0, 5.0, 0.0], [2.0, 4.0, 0.0], [9.0, 0.0, -1.0], [3.0, -7.0, 8.0], [3.0, 3.0, 0.5]]
        assert mojd.trimmed_mean(rows).tolist() == [8 / 3, 7 / 3, 0.5 / 3]
        assert mojd.trimmed_mean(rows, 2).tolist() == [3.0, 3.0, 0.0]
        np.testing.assert_allclose(mojd.trimmed_mean(rows, trim_number=0), np.mean(rows, axis=0), rtol=1e-15)

    def test_the_median_of_three(self) -> None:
        assert mojd.trimmed_mean([[1.0, 3.0], [2.0, 2.0], [-5.0, 9.0]]).tolist() == [1.0, 3.0]

    def test_nothing_to_trim(self) -> None:
        assert mojd.trimmed_mean([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], 0).tolist() == [1.0, 1.0, 1.0]
        assert mojd.trimmed_mean([[3.0]], 0).tolist() == [3.0]


class TestDefinition:
    @given(data=st.data())
    def test_exact_means(self, data: st.DataObject) -> None:
        k, n = data.draw(st.integers(1, 9), label="K"), data.draw(st.integers(1, 4), label="n")
        b = data.draw(st.integers(0, (k - 1) // 2), label="b")
        number = st.floats(-1e300, 1e300, allow_subnormal=False)
        rows = data.draw(
            st.lists(st.lists(number, min_size=n, max_size=n), min_size=k, max_size=k), label="J"
        )
        direction = mojd.trimmed_mean(rows, b)
        for column, mean in zip(zip(*rows, strict=True), direction.tolist(), strict=True):
            kept = sorted(map(Fraction, column))[b : k - b]
            expected = float(sum(kept, Fraction(0)) / len(kept))
            assert abs(mean - expected) <= 1e-14 * float(max(map(abs, kept)))

    def test_torchjd_agrees(self) -> None:
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        for seed in range(40):
            rng = np.random.default_rng(seed)
            k = seed % 7 + 3
            rows, b = rng.standard_normal((k, 6)), int(rng.integers(0, (k - 1) // 2 + 1))
            expected = aggregation.TrimmedMean(b)(torch.tensor(rows)).numpy()
            np.testing.assert_allclose(mojd.trimmed_mean(rows, b), expected, rtol=1e-12, atol=1e-14)

    @given(seed=st.integers(0, 2**32 - 1))
    def test_renaming_the_gradients_changes_nothing(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((6, 4))
        assert np.array_equal(mojd.trimmed_mean(rows[rng.permutation(6)], 2), mojd.trimmed_mean(rows, 2))

    @given(exponent=st.integers(-900, 900), seed=st.integers(0, 2**32 - 1))
    def test_a_common_power_of_two_comes_out(self, exponent: int, seed: int) -> None:
        rows = np.random.default_rng(seed).standard_normal((5, 4))
        expected = 2.0**exponent * mojd.trimmed_mean(rows)
        assert np.array_equal(mojd.trimmed_mean(2.0**exponent * rows), expected)

    def test_it_lies_between_what_the_honest_say(self) -> None:
        """What the method is for: as many arbitrary gradients as are trimmed move it no further."""
        rng = np.random.default_rng(0)
        for _ in range(50):
            honest = rng.standard_normal((5, 6))
            liars = 10.0 ** rng.uniform(0, 300) * rng.standard_normal((2, 6))
            direction = mojd.trimmed_mean(np.vstack([honest, liars]), 2)
            assert (honest.min(axis=0) <= direction).all()
            assert (direction <= honest.max(axis=0)).all()


class TestProperties:
    def test_it_may_conflict(self) -> None:
        """[1], [1], [−1]: the last one is climbed."""
        assert mojd.trimmed_mean([[1.0], [1.0], [-1.0]]).tolist() == [1.0]

    def test_it_is_not_linear_under_scaling(self) -> None:
        """[1], [2], [3] times (1, 1, 1), (5, 1, 1) and their sum: 2 + 3 ≠ 6."""
        rows = np.array([[1.0], [2.0], [3.0]])
        found = [
            mojd.trimmed_mean(np.array(scales)[:, None] * rows).item()
            for scales in ([1.0, 1.0, 1.0], [5.0, 1.0, 1.0], [6.0, 2.0, 2.0])
        ]
        assert found == [2.0, 3.0, 6.0]

    def test_it_is_no_combination_of_gradients(self) -> None:
        """In each of these, the last entry is the sum of the others."""
        rows = [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [2.0, 2.0, 4.0]]
        assert mojd.trimmed_mean(rows).tolist() == [1.0, 1.0, 1.0]


class TestArguments:
    def test_sums_do_not_overflow(self) -> None:
        assert mojd.trimmed_mean(np.full((5, 2), 1.5e308)).tolist() == [1.5e308] * 2
        assert mojd.trimmed_mean(np.full((5, 2), 5e-324)).tolist() == [5e-324] * 2

    @pytest.mark.parametrize(
        ("trim_number", "message"),
        [
            (-1, "trim_number must be .*at least 0; got -1"),
            (1.0, "trim_number must be .*got 1.0"),
            (True, "trim_number must be .*got True"),
            (2, r"trim_number=2 takes 5 gradients or more.*\(4, 3\)"),
        ],
    )
    def test_bad_numbers(self, trim_number: Any, message: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=message):
            mojd.trimmed_mean(np.ones((4, 3)), trim_number)
