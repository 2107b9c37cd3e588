"""UPGrad: worked values, its theory, and what happens at the edges."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference import exact
from tests.reference.families import FAMILIES, symmetric_gramian


def direction(jacobian: Any, **options: Any) -> Any:
    return mojd.aggregate(np.asarray(jacobian, float), mojd.upgrad, **options)


class TestWorkedValues:
    def test_two_objectives_in_conflict(self) -> None:
        """w₁ = (1 − g₁·g₂ / |g₁|²) / 2, and so for w₂."""
        np.testing.assert_allclose(mojd.upgrad([[18.0, -22.0], [-22.0, 38.0]]), [10 / 9, 15 / 19], rtol=1e-15)

    def test_no_conflict_no_change(self) -> None:
        assert mojd.upgrad([[1.0, 0.5], [0.5, 2.0]]).tolist() == [0.5, 0.5]
        assert mojd.upgrad(np.eye(4)).tolist() == [0.25] * 4

    def test_one_objective(self) -> None:
        assert mojd.upgrad([[7.0]]).tolist() == [1.0]
        assert mojd.upgrad([[0.0]]).tolist() == [1.0]

    def test_opposite_objectives_cancel(self) -> None:
        weights = mojd.upgrad([[1.0, -2.0], [-2.0, 4.0]])
        assert weights.tolist() == [1.5, 0.75]
        assert direction([[1.0], [-2.0]]).tolist() == [0.0]

    @pytest.mark.parametrize("a", [0.5, 1.0, 3.0])
    def test_directions_of_the_papers_counterexamples(self, a: float) -> None:
        """Of Table 1's methods UPGrad alone passes all; values by hand, from the projections."""
        np.testing.assert_allclose(direction([[-2.0], [4.0]]), [0.0], atol=1e-15)
        third = exact.upgrad(np.array([[2.0, 0.0], [0.0, 2.0], [a, a]]) @ [[2.0, 0.0, a], [0.0, 2.0, a]])
        assert third == [Fraction(1, 3)] * 3
        np.testing.assert_allclose(direction([[2.0, 0.0], [0.0, 2.0], [a, a]]), [(2 + a) / 3] * 2, rtol=1e-14)
        # (2, 0) projects to (1, 1), (−2a, 2a) to (0, 2a).
        np.testing.assert_allclose(direction([[2.0, 0.0], [-2.0 * a, 2.0 * a]]), [0.5, 0.5 + a], rtol=1e-14)

    def test_preferences(self) -> None:
        gramian = [[18.0, -22.0], [-22.0, 38.0]]
        one, other = mojd.upgrad(gramian, [1.0, 0.0]), mojd.upgrad(gramian, [0.0, 1.0])
        np.testing.assert_allclose(mojd.upgrad(gramian, [2.0, 5.0]), 2 * one + 5 * other, rtol=1e-15)
        np.testing.assert_allclose(mojd.upgrad(gramian, [0.5, 0.5]), mojd.upgrad(gramian), rtol=1e-15)


class TestTheory:
    @given(
        k=st.integers(1, 7), n=st.integers(1, 9), spread=st.integers(0, 12), seed=st.integers(0, 2**32 - 1)
    )
    def test_no_objective_is_opposed(self, k: int, n: int, spread: int, seed: int) -> None:
        """Jd >= 0 up to rounding of what cancels, w >= u, and no method-made NaN, for any rank and scale."""
        rng = np.random.default_rng(seed)
        norms = 10.0 ** (spread * rng.uniform(-0.5, 0.5, k))
        gramian = symmetric_gramian(rng.standard_normal((k, n)) * norms[:, None])
        weights = mojd.upgrad(gramian)
        assert (weights >= 1 / k).all()
        lengths = np.sqrt(np.diagonal(gramian))
        assert (gramian @ weights >= -1e-8 * lengths * float(weights @ lengths)).all()

    def test_linear_under_scaling(self) -> None:
        """The direction is additive in positive scales of the rows of J (JD, Table 1)."""
        rng = np.random.default_rng(0)
        jacobian = rng.standard_normal((5, 9))
        one, other = rng.uniform(0.1, 3.0, (2, 5))
        total = direction((one + other)[:, None] * jacobian)
        parts = direction(one[:, None] * jacobian) + direction(other[:, None] * jacobian)
        np.testing.assert_allclose(total, parts, rtol=1e-10, atol=1e-12)

    def test_it_is_the_mean_of_the_projections(self) -> None:
        for family in ("random", "rank_half", "integers_rank_deficient"):
            for k in (2, 3, 6, 15):
                jacobian = FAMILIES[family].sample(k, np.random.default_rng(k)).jacobian
                assert jacobian is not None
                rows = mojd.project(np.eye(k), symmetric_gramian(jacobian)) @ jacobian
                scale = float(np.abs(jacobian).max())
                np.testing.assert_allclose(direction(jacobian), rows.mean(axis=0), atol=1e-8 * scale)

    def test_for_two_it_is_half_of_pcgrad(self) -> None:
        jacobian = np.random.default_rng(0).standard_normal((2, 5))
        for _ in range(20):
            jacobian = np.random.default_rng(int(1e6 * abs(jacobian[0, 0]))).standard_normal((2, 5))
            first, second = jacobian
            product = min(first @ second, 0.0)
            pcgrad = first - product / (second @ second) * second + second - product / (first @ first) * first
            np.testing.assert_allclose(direction(jacobian), pcgrad / 2, rtol=1e-12, atol=1e-14)

    def test_a_zero_gradient_changes_nothing_but_the_mean(self) -> None:
        jacobian = np.random.default_rng(0).standard_normal((4, 6))
        padded = np.insert(jacobian, 2, 0.0, axis=0)
        np.testing.assert_allclose(direction(padded), direction(jacobian) * 4 / 5, rtol=1e-13)

    @pytest.mark.parametrize("exponent", [-160, -80, 40, 150])
    def test_no_threshold_for_small_gradients(self, exponent: int) -> None:
        """A regularised solver returns the mean for ‖J‖ < 1e-2; this one is scale-free."""
        jacobian = 2.0**exponent * np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0], [0.0, -3.0, 1.0]])
        assert np.array_equal(mojd.upgrad(jacobian @ jacobian.T), mojd.upgrad(jacobian @ jacobian.T * 4.0))
        assert (jacobian @ direction(jacobian) >= -1e-12 * float(np.abs(jacobian).max()) ** 2).all()


class TestProblem:
    def test_one_problem_per_objective(self) -> None:
        gramian = np.array([[2.0, -1.0], [-1.0, 3.0]])
        problem = mojd.upgrad_problem(gramian, [1.0, 4.0])
        assert problem.batch_shape == (2,)
        assert problem.linear.tolist() == [[2.0, -1.0], [-4.0, 12.0]]
        batch = mojd.upgrad_problem(np.stack([gramian] * 5))
        assert batch.batch_shape == (5, 2)
        # The kernels factor G once for its K right-hand sides.
        assert batch.flatten().gramian.shape == (5, 2, 2)
        assert batch.flatten().linear.shape == (5, 2, 2)

    def test_preferences_of_a_batch(self) -> None:
        gramians = np.stack(
            [symmetric_gramian(np.random.default_rng(i).standard_normal((3, 4))) for i in range(4)]
        )
        preferences = np.random.default_rng(0).uniform(0, 1, (4, 3))
        weights = mojd.upgrad(gramians, preferences)
        for i in range(4):
            np.testing.assert_allclose(weights[i], mojd.upgrad(gramians[i], preferences[i]), rtol=1e-13)
        many = mojd.upgrad(gramians[0], preferences)
        assert many.shape == (4, 3)
        for i in range(4):
            np.testing.assert_allclose(many[i], mojd.upgrad(gramians[0], preferences[i]), rtol=1e-13)

    @pytest.mark.parametrize("threads", [1, 2, 5])
    @pytest.mark.parametrize("k", [2, 3, 5, 16, 17])
    def test_every_gramian_keeps_its_own_preferences(self, k: int, threads: int) -> None:
        """In pieces for threads, and where some come back: other units, zero rows, near duplicates."""
        rng = np.random.default_rng(k)
        jacobians = rng.integers(-9, 10, (7, k, 2 * k)).astype(float)
        jacobians[1, 0] = 0.0
        jacobians[2, -1] = -jacobians[2, 0]
        gramians = np.stack([symmetric_gramian(jacobian) for jacobian in jacobians])
        gramians[3:5] *= np.array([2.0**600, 2.0**-600])[:, None, None]
        for i, seed in ((5, 2), (6, 5)):
            gramians[i] = FAMILIES["near_duplicates_grid"].sample(k, np.random.default_rng(seed)).gramian
        preferences = rng.integers(1, 9, (7, k)) / 8
        weights = mojd.upgrad(gramians, preferences, threads=threads)
        for gramian, preference, w in zip(gramians, preferences, weights, strict=True):
            if k <= 5:
                truth = exact.upgrad(gramian, preference)
                floor = exact.rounding_floor(truth, gramian)
                assert exact.direction_error(w, truth, gramian) <= 1e-12 + 10 * floor
            np.testing.assert_allclose(w, mojd.upgrad(gramian, preference), rtol=1e-12)

    @pytest.mark.parametrize("k", [16, 17, 32, 33, 34])
    def test_on_both_sides_of_the_sizes_that_kernels_take(self, k: int) -> None:
        """Alone, in a batch and by way of its own problems: K gradients have the same projections."""
        gramians = np.stack(
            [symmetric_gramian(np.random.default_rng(i).standard_normal((k, 2 * k))) for i in range(3)]
        )
        expected = mojd.upgrad(gramians, solver="active_set")
        np.testing.assert_allclose(mojd.upgrad(gramians), expected, rtol=1e-12)
        for gramian, weights in zip(gramians, expected, strict=True):
            assert (weights > 1 / k).all()
            np.testing.assert_allclose(mojd.upgrad(gramian), weights, rtol=1e-12)


@pytest.mark.parametrize("solver", ["auto", "active_set", "array_api"])
@pytest.mark.parametrize(
    "method",
    [mojd.upgrad, mojd.dualproj, lambda G, **options: mojd.project(np.eye(3), G, **options).sum(axis=-2)],
    ids=["upgrad", "dualproj", "project"],
)
def test_a_square_that_underflows_beside_products_that_do_not(method: Any, solver: str) -> None:
    """Float32 takes the square of 2e-23 for 0; the conflict of the others is still to be resolved."""
    J = np.array([[1.0, 0.0, 0.0], [-1e-23, -2e-23, 0.0], [-1.0, 0.5, 0.2]], dtype=np.float32)
    G = J @ J.T
    assert G[1, 1] == 0.0
    assert G[0, 1] < 0.0
    for gramian in (G, np.stack([G, np.eye(3, dtype=np.float32)])):
        weights = method(gramian, solver=solver)
        direction = (J.T @ weights.reshape(-1, 3)[0]).astype(np.float64)
        slopes = (J.astype(np.float64) @ direction) / np.linalg.norm(J.astype(np.float64), axis=1)
        assert (slopes[[0, 2]] >= -1e-6).all()
