"""Nash-MTL: the direction with the largest product of gains."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference.families import Floats, symmetric_gramian

WORKED = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])


def direction(jacobian: Floats, **options: Any) -> Floats:
    found: Floats = jacobian.T @ mojd.nash_mtl(symmetric_gramian(jacobian), **options)
    return found


class TestWorkedValues:
    def test_two_objectives(self) -> None:
        """For unit gradients at an angle, w = 1/√(1 + cos): G = [[18, −22], [−22, 38]] here."""
        cosine = -22 / np.sqrt(18 * 38)
        expected = 1 / np.sqrt((1 + cosine) * np.array([18.0, 38.0]))
        np.testing.assert_allclose(mojd.nash_mtl(WORKED @ WORKED.T), expected, rtol=1e-13)
        np.testing.assert_allclose(
            mojd.nash_mtl(WORKED @ WORKED.T), [0.5914611522293678, 0.4070714828838854], rtol=1e-13
        )

    def test_one_objective(self) -> None:
        assert mojd.nash_mtl([[16.0]]).tolist() == [0.25]

    def test_equicorrelated(self) -> None:
        """All weights are equal: w²·(1 + (K−1)·ρ) = 1."""
        for k, rho in ((3, -0.25), (4, 0.5), (9, -0.1)):
            gramian = (1 - rho) * np.eye(k) + rho
            np.testing.assert_allclose(mojd.nash_mtl(gramian), (1 + (k - 1) * rho) ** -0.5, rtol=1e-13)

    def test_three_gradients_against_a_conic_solver(self) -> None:
        cvxpy = pytest.importorskip("cvxpy")
        for seed in range(8):
            k = 2 + seed % 4
            jacobian = np.random.default_rng(seed).standard_normal((k, k + 1))
            x = cvxpy.Variable(k)
            objective = 0.5 * cvxpy.sum_squares(jacobian.T @ x) - cvxpy.sum(cvxpy.log(x))
            cvxpy.Problem(cvxpy.Minimize(objective)).solve(solver="CLARABEL")
            # The root of the conic solver's gap of 1e-8 is 1e-4 of a weight of 1, more of a smaller one.
            np.testing.assert_allclose(mojd.nash_mtl(symmetric_gramian(jacobian)), x.value, rtol=1e-3)


class TestTheory:
    @given(k=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
    def test_lengths_of_gradients_do_not_count(self, k: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        jacobian = rng.standard_normal((k, 2 * k))
        scaled = direction(2.0 ** rng.integers(-20, 20, (k, 1)) * jacobian)
        np.testing.assert_allclose(scaled, direction(jacobian), rtol=1e-6, atol=1e-9)

    @given(k=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
    def test_the_square_of_the_length_is_the_number_of_objectives(self, k: int, seed: int) -> None:
        jacobian = np.random.default_rng(seed).standard_normal((k, 3 * k))
        assert np.linalg.norm(direction(jacobian)) == pytest.approx(np.sqrt(k), rel=1e-9)

    def test_no_other_direction_of_that_length_has_a_larger_product(self) -> None:
        rng = np.random.default_rng(0)
        jacobian = rng.standard_normal((3, 6))
        best = direction(jacobian)
        product = np.log(jacobian @ best).sum()
        for _ in range(500):
            other = best + 0.3 * rng.standard_normal(6)
            gains = jacobian @ (other * np.linalg.norm(best) / np.linalg.norm(other))
            assert (gains <= 0).any() or np.log(gains).sum() <= product + 1e-12

    def test_it_is_not_linear_under_scaling(self) -> None:
        """The first gradient's length does not change d, where a linear map would double it."""
        assert direction(np.array([[1.0]])).tolist() == direction(np.array([[2.0]])).tolist() == [1.0]


class TestMaxNorm:
    def test_longer_directions_are_shortened(self) -> None:
        jacobian = np.random.default_rng(0).standard_normal((4, 8))
        assert np.linalg.norm(direction(jacobian, max_norm=1.0)) == pytest.approx(1.0, rel=1e-12)
        expected = direction(jacobian) / 2
        np.testing.assert_allclose(direction(jacobian, max_norm=1.0), expected, rtol=1e-12)

    def test_shorter_ones_are_left(self) -> None:
        gramian = np.eye(4)
        assert np.array_equal(mojd.nash_mtl(gramian, max_norm=2.5), mojd.nash_mtl(gramian))

    @pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
    def test_other_values_are_refused(self, bad: float) -> None:
        with pytest.raises(mojd.InvalidInputError, match="max_norm must be a positive number"):
            mojd.nash_mtl(np.eye(2), max_norm=bad)

    def test_a_bound_that_is_no_number(self) -> None:
        wrong: Any = "a"
        with pytest.raises(mojd.InvalidTypeError, match="max_norm must be a number, got str"):
            mojd.nash_mtl(np.eye(2), max_norm=wrong)


def test_torchjd_at_its_own_tolerance() -> None:
    """TorchJD stops its convex-concave steps at |Gw − 1/w| < 1e-3, for G over its Frobenius norm."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("ecos")
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(30):
        jacobian = np.random.default_rng(seed).standard_normal((3, 8))
        with warnings.catch_warnings():
            # CVXPY warns about how TorchJD states its problem.
            warnings.simplefilter("ignore")
            theirs = aggregation.NashMTL(n_tasks=3, optim_niter=200)(torch.tensor(jacobian))
        np.testing.assert_allclose(theirs, direction(jacobian, max_norm=1.0), atol=2e-2)


def test_no_counterexample() -> None:
    names = ["non_conflicting", "permutation_equivariant", "optimal", "stops_if_weakly_stationary"]
    mojd.check("nash_mtl", names, examples=300)
