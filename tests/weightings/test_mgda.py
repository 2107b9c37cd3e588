"""MGDA: the shortest vector in the convex hull of the gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference import exact
from tests.reference.families import FAMILIES, power_of_two_scales, symmetric_gramian


def direction(jacobian: Any) -> Any:
    return mojd.aggregate(np.asarray(jacobian, float), mojd.mgda)


class TestWorkedValues:
    def test_two_objectives(self) -> None:
        """w₁ = (b − c) / (a + b − 2c), between 0 and 1."""
        np.testing.assert_allclose(mojd.mgda([[4.0, 0.0], [0.0, 1.0]]), [0.2, 0.8], rtol=1e-15)
        np.testing.assert_allclose(mojd.mgda([[18.0, -22.0], [-22.0, 38.0]]), [0.6, 0.4], rtol=1e-15)
        assert mojd.mgda([[1.0, 2.0], [2.0, 9.0]]).tolist() == [1.0, 0.0]

    def test_one_objective(self) -> None:
        assert mojd.mgda([[5.0]]).tolist() == [1.0]
        assert mojd.mgda([[0.0]]).tolist() == [1.0]

    @pytest.mark.parametrize("a", [0.01, 0.3, 0.99])
    def test_counterexample_of_the_paper(self, a: float) -> None:
        """[2, 0], [0, 2], [a, a]: the short one decides alone, and so d is not linear under scaling."""
        np.testing.assert_allclose(direction([[2.0, 0.0], [0.0, 2.0], [a, a]]), [a, a], rtol=1e-14)

    def test_a_zero_gradient_takes_all(self) -> None:
        weights = mojd.mgda(np.diag([4.0, 0.0, 9.0]))
        assert weights.tolist() == [0.0, 1.0, 0.0]

    def test_nothing_but_zero_gradients(self) -> None:
        weights = mojd.mgda(np.zeros((3, 3)))
        assert weights.sum() == pytest.approx(1.0)
        assert (weights >= 0).all()

    def test_orthogonal_gradients(self) -> None:
        """Weights are proportional to 1/‖g‖²."""
        squares = np.array([1.0, 4.0, 9.0, 1e6, 1e-6])
        np.testing.assert_allclose(mojd.mgda(np.diag(squares)), 1 / squares / (1 / squares).sum(), rtol=1e-13)


class TestTheory:
    @given(k=st.integers(1, 7), n=st.integers(1, 9), spread=st.floats(0, 8), seed=st.integers(0, 2**32 - 1))
    def test_conditions_of_the_shortest_vector(self, k: int, n: int, spread: float, seed: int) -> None:
        """On the simplex, and Gw >= ‖d‖² with equality on the support: no gradient conflicts with d."""
        rng = np.random.default_rng(seed)
        norms = 10.0 ** (spread * rng.uniform(-0.5, 0.5, k))
        gramian = symmetric_gramian(rng.standard_normal((k, n)) * norms[:, None])
        weights = mojd.mgda(gramian)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1.0, rel=1e-14)
        lengths = np.sqrt(np.diagonal(gramian))
        square = float(weights @ gramian @ weights)
        # Rounding in a product of gradients, where d is a sum of w_i·g_i no longer than the shortest.
        size = float((weights * lengths).max()) + float(lengths.min())
        assert (gramian @ weights - square >= -1e-7 * lengths * size).all()

    def test_it_is_no_longer_than_any_point_of_the_hull(self) -> None:
        rng = np.random.default_rng(0)
        for family in ("random", "rank_half", "clustered", "row_scales", "duplicates"):
            jacobian = FAMILIES[family].sample(8, rng).jacobian
            assert jacobian is not None
            length = np.linalg.norm(direction(jacobian))
            points = rng.dirichlet(np.full(8, 0.3), 500) @ jacobian
            assert length <= np.linalg.norm(points, axis=1).min() * (1 + 1e-9)
            assert length <= np.linalg.norm(jacobian, axis=1).min() * (1 + 1e-9)

    @pytest.mark.parametrize("k", [2, 3, 5, 9])
    def test_a_stationary_jacobian_leads_nowhere(self, k: int) -> None:
        rng = np.random.default_rng(k)
        jacobian = rng.integers(-9, 10, (k, 2 * k)).astype(float)
        jacobian[-1] = -(rng.integers(1, 4, k - 1) @ jacobian[:-1])
        assert np.abs(direction(jacobian)).max() <= 1e-12 * np.abs(jacobian).max()

    @pytest.mark.parametrize("family", ["row_scales_grid", "row_scales_low_rank_grid"])
    def test_norms_far_apart(self, family: str) -> None:
        """The offset of the problem must drown no row: norms from 1e-12 to 1e12."""
        for k in (2, 3, 4, 5):
            gramian = FAMILIES[family].sample(k, np.random.default_rng(k)).gramian
            weights, truth = mojd.mgda(gramian), exact.mgda(gramian)
            assert exact.direction_error(weights, truth, gramian) <= 1e-12 + 10 * exact.rounding_floor(
                truth, gramian
            )

    def test_invariant_under_scaling_of_all(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((6, 6)))
        np.testing.assert_allclose(mojd.mgda(7.0 * gramian), mojd.mgda(gramian), rtol=1e-12)
        assert np.array_equal(mojd.mgda(2.0**100 * gramian), mojd.mgda(gramian))


class TestProblem:
    def test_the_offset_is_a_power_of_two_below_every_norm(self) -> None:
        gramian = np.diag([5.0, 3.0, 100.0])
        problem = mojd.mgda_problem(gramian)
        assert problem.gramian.tolist() == (gramian + 2.0).tolist()
        assert problem.linear.tolist() == [-2.0] * 3

    def test_each_gramian_of_a_batch_has_its_own(self) -> None:
        problem = mojd.mgda_problem(np.stack([np.eye(2), 16.0 * np.eye(2)]))
        assert problem.linear.tolist() == [[-1.0, -1.0], [-16.0, -16.0]]
        assert problem.batch_shape == (2,)

    def test_its_minimisers_are_the_weights_up_to_their_sum(self) -> None:
        rng = np.random.default_rng(0)
        for k in (2, 3, 6):
            gramian = symmetric_gramian(
                rng.standard_normal((k, 2 * k)) * power_of_two_scales(k, rng, 3)[:, None]
            )
            x = mojd.solve(mojd.mgda_problem(gramian)).x
            np.testing.assert_allclose(x / x.sum(), mojd.mgda(gramian), rtol=1e-12)

    def test_float32_may_be_slightly_indefinite(self) -> None:
        """The problem is formed in float64, but its rounding errors are the caller's."""
        jacobian = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
        gramian = jacobian @ jacobian.T
        assert np.linalg.eigvalsh(gramian.astype(np.float64))[0] < 0
        weights = mojd.mgda(gramian)
        assert weights.dtype == np.float32
        assert weights.sum() == pytest.approx(1.0, rel=1e-6)
        exact_length = np.linalg.norm(direction(jacobian.astype(np.float64)))
        assert np.linalg.norm(jacobian.T @ weights) <= exact_length + 1e-3
