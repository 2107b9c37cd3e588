"""Weights that look at no gradient: Mean, Sum, Constant and RGW."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference.families import Floats

JACOBIAN = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
GRAMIAN = np.array([[18.0, -22.0], [-22.0, 38.0]])


class TestMeanAndSum:
    def test_worked_values(self) -> None:
        assert mojd.mean(GRAMIAN).tolist() == [0.5, 0.5]
        assert mojd.sum(GRAMIAN).tolist() == [1.0, 1.0]
        assert mojd.aggregate(JACOBIAN, "mean").tolist() == [1.0, 1.0, 1.0]
        assert mojd.aggregate(JACOBIAN, "sum").tolist() == [2.0, 2.0, 2.0]
        assert mojd.mean(np.eye(3)).tolist() == [1 / 3] * 3
        assert mojd.mean([[0.0]]).tolist() == mojd.sum([[0.0]]).tolist() == [1.0]

    def test_counterexample_of_the_paper(self) -> None:
        """[−2], [4]: the mean climbs the first loss."""
        for method, direction in (("mean", 1.0), ("sum", 2.0)):
            assert mojd.aggregate([[-2.0], [4.0]], method).tolist() == [direction]

    def test_torchjd_agrees(self) -> None:
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        for seed in range(30):
            rows = np.random.default_rng(seed).standard_normal((seed % 7 + 1, 5))
            for ours, theirs in (("mean", aggregation.Mean()), ("sum", aggregation.Sum())):
                expected = theirs(torch.tensor(rows)).numpy()
                np.testing.assert_allclose(mojd.aggregate(rows, ours), expected, rtol=1e-13, atol=1e-14)

    def test_extreme_scales_and_kinds(self) -> None:
        for scale in (1e-150, 1e150):
            assert mojd.mean(scale * GRAMIAN).tolist() == [0.5, 0.5]
        assert mojd.sum(np.zeros((0, 3, 3))).shape == (0, 3)
        assert mojd.mean(np.eye(3, dtype=np.float32)).tolist() == [np.float32(1 / 3)] * 3


class TestConstant:
    def test_weights_come_back(self) -> None:
        assert mojd.constant(GRAMIAN, [0.25, -3.0]).tolist() == [0.25, -3.0]
        assert mojd.constant(GRAMIAN, weights=2).tolist() == [2.0, 2.0]
        assert mojd.aggregate(JACOBIAN, "constant", weights=[1.0, 2.0]).tolist() == [8.0, 3.0, 3.0]

    def test_dtype_and_kind_are_those_of_the_gramian(self) -> None:
        weights = mojd.constant(GRAMIAN.astype(np.float32), np.array([0.1, 0.2]))
        assert weights.dtype == np.float32
        assert weights.tolist() == [np.float32(0.1), np.float32(0.2)]
        torch = pytest.importorskip("torch")
        given_weights = torch.tensor([0.1, 0.2], dtype=torch.float64)
        assert mojd.constant(GRAMIAN, given_weights).tolist() == [0.1, 0.2]
        assert torch.equal(mojd.constant(torch.tensor(GRAMIAN), [0.1, 0.2]), given_weights)

    def test_leading_axes_broadcast(self) -> None:
        weights = np.arange(12.0).reshape(3, 2, 2)
        result = mojd.constant(np.broadcast_to(GRAMIAN, (2, 2, 2)), weights)
        assert np.array_equal(result, weights)
        result = mojd.constant(np.broadcast_to(GRAMIAN, (4, 1, 2, 2)), [[1.0, 2.0], [3.0, 4.0]])
        assert np.array_equal(result, np.broadcast_to([[1.0, 2.0], [3.0, 4.0]], (4, 2, 2)))
        assert mojd.constant(np.zeros((0, 2, 2)), [1.0, 2.0]).shape == (0, 2)

    def test_the_result_is_the_callers_own(self) -> None:
        weights = np.array([1.0, 2.0])
        mojd.constant(GRAMIAN, weights)[0] = 9.0
        assert weights.tolist() == [1.0, 2.0]

    def test_nan_in_one_gramian_spoils_its_weights_only(self) -> None:
        gramians = np.stack([GRAMIAN, GRAMIAN * np.nan])
        weights = mojd.constant(gramians, [[[1.0, 2.0]], [[3.0, 4.0]]], nonfinite="propagate")
        assert weights[:, 0].tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert np.isnan(weights[:, 1]).all()

    @pytest.mark.parametrize(
        ("weights", "error", "message"),
        [
            ([1.0, 2.0, 3.0], mojd.InvalidInputError, r"weights must have shape \(\.\.\., 2\).*\(3,\)"),
            (np.ones((3, 2)), mojd.InvalidInputError, r"gramian and weights.*\(2,\) against \(3,\)"),
            ([1.0, np.nan], mojd.NonFiniteError, r"weights of shape \(2,\) holds nan at index \(1,\)"),
            (np.inf, mojd.NonFiniteError, "every weight must be a finite number"),
            ("half", mojd.InvalidTypeError, "weights must hold real numbers"),
        ],
    )
    def test_bad_weights(self, weights: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            mojd.constant(np.stack([GRAMIAN, GRAMIAN]), weights, nonfinite="propagate")

    def test_torchjd_agrees(self) -> None:
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        rng = np.random.default_rng(0)
        for k in range(1, 8):
            rows, weights = rng.standard_normal((k, 5)), rng.standard_normal(k)
            expected = aggregation.Constant(torch.tensor(weights))(torch.tensor(rows)).numpy()
            direction = mojd.aggregate(rows, "constant", weights=weights)
            np.testing.assert_allclose(direction, expected, rtol=1e-12, atol=1e-13)


class TestRgw:
    def test_it_is_the_softmax_of_standard_normals(self) -> None:
        """By the definition, from the same draws."""
        drawn = np.random.default_rng(5).standard_normal((3, 4))
        weights = mojd.rgw(np.zeros((3, 4, 4)), seed=5)
        np.testing.assert_allclose(np.log(weights[:, :-1] / weights[:, 1:]), drawn[:, :-1] - drawn[:, 1:])
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-15)
        assert (weights > 0).all()

    def test_the_mean_and_spread_of_many_draws(self) -> None:
        """Each weight is 1/K on average; logarithms of ratios have a variance of 2."""
        weights = mojd.rgw(np.broadcast_to(np.eye(3), (100_000, 3, 3)), seed=0)
        # Four standard errors of a mean of 10⁵ draws with deviations of 0.21 and 1.41.
        np.testing.assert_allclose(weights.mean(axis=0), 1 / 3, atol=4 * 0.21 / 316)
        ratios = np.log(weights[:, 0] / weights[:, 1])
        assert abs(ratios.mean()) < 4 * 1.42 / 316
        assert ratios.var() == pytest.approx(2.0, rel=0.02)

    def test_one_objective(self) -> None:
        assert mojd.rgw([[4.0]], seed=0).tolist() == [1.0]

    def test_counterexample_of_the_paper(self) -> None:
        """[1], [−2]: whatever the weights, one of the two is climbed."""
        for seed in range(20):
            direction = mojd.aggregate([[1.0], [-2.0]], "rgw", seed=seed)
            assert (np.array([1.0, -2.0]) * direction < 0).any()

    def test_torchjd_draws_from_the_same_distribution(self) -> None:
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        torch.manual_seed(0)
        theirs = aggregation.Random()
        eye = torch.eye(3, dtype=torch.float64)
        directions = np.sort(np.array([theirs(eye).numpy()[0] for _ in range(4000)]))
        weights = np.sort(mojd.rgw(np.broadcast_to(np.eye(3), (4000, 3, 3)), seed=0)[:, 0])
        # Kolmogorov and Smirnov: 1.95·√(2/4000) is exceeded once in a thousand seeds.
        places = np.searchsorted(weights, directions) / 4000
        assert np.abs(places - np.arange(4000) / 4000).max() < 1.95 * (2 / 4000) ** 0.5


def direction(name: str, rows: Floats, seed: int) -> Any:
    options: dict[str, Any] = {}
    if name == "constant":
        options = {"weights": [0.5, -2.0, 3.0]}
    if name == "rgw":
        options = {"seed": seed}
    return mojd.aggregate(rows, name, **options)


@pytest.mark.parametrize("name", ["mean", "sum", "constant", "rgw"])
@given(seed=st.integers(0, 2**32 - 1))
def test_linear_under_scaling(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((3, 4))
    a, b = rng.uniform(0.0, 10.0, (2, 3, 1))
    expected = direction(name, a * rows, seed) + direction(name, b * rows, seed)
    np.testing.assert_allclose(direction(name, (a + b) * rows, seed), expected, rtol=1e-10, atol=1e-11)
