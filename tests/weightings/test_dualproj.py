"""Projection onto the dual cone, and DualProj, which projects the mean gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd import Status
from tests.reference.families import FAMILIES, symmetric_gramian


def direction(jacobian: Any, **options: Any) -> Any:
    return mojd.aggregate(np.asarray(jacobian, float), mojd.dualproj, **options)


class TestProject:
    def test_worked_values(self) -> None:
        rows = mojd.project([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1.0, -1.0], [-1.0, 2.0]])
        assert rows.tolist() == [[1.0, 0.5], [1.0, 1.0], [1.0, 1.0]]

    def test_one_vector_and_many(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((4, 6)))
        rows = np.random.default_rng(1).uniform(0, 1, (3, 4))
        together = mojd.project(rows, gramian)
        assert together.shape == (3, 4)
        for row, v in zip(rows, together, strict=True):
            alone = mojd.project(row, gramian)
            assert alone.shape == (4,)
            np.testing.assert_allclose(alone, v, rtol=1e-13)

    def test_rows_share_a_gramian_in_a_batch(self) -> None:
        gramians = np.stack(
            [symmetric_gramian(np.random.default_rng(i).standard_normal((3, 5))) for i in range(2)]
        )
        rows = np.random.default_rng(1).uniform(0, 1, (2, 6, 3))
        together = mojd.project(rows, gramians)
        assert together.shape == (2, 6, 3)
        assert mojd.project_problem(rows, gramians).flatten().gramian.shape == (2, 3, 3)
        shared = mojd.project(rows[0], gramians)
        assert shared.shape == (2, 6, 3)
        for i in range(2):
            np.testing.assert_allclose(together[i], mojd.project(rows[i], gramians[i]), rtol=1e-13)
            np.testing.assert_allclose(shared[i], mojd.project(rows[0], gramians[i]), rtol=1e-13)

    def test_vectors_of_either_sign(self) -> None:
        """The projection of Jᵀu exists for any u; preferences are non-negative, U need not be."""
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((3, 5)))
        rows = np.array([[-1.0, 2.0, 0.5], [-1.0, -1.0, -1.0]])
        projected = mojd.project(rows, gramian)
        assert (projected >= rows).all()
        products = projected @ gramian
        assert (products >= -1e-12).all()
        np.testing.assert_allclose((rows * products).sum(1), (projected * products).sum(1), atol=1e-12)

    @given(k=st.integers(1, 6), n=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
    def test_projecting_twice_changes_nothing(self, k: int, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        jacobian = rng.standard_normal((k, n))
        gramian = symmetric_gramian(jacobian)
        rows = rng.standard_normal((3, k))
        once = mojd.project(rows, gramian)
        twice = mojd.project(once, gramian)
        scale = float((np.maximum(np.abs(rows), np.abs(once)) @ np.sqrt(np.diagonal(gramian))).max())
        np.testing.assert_allclose(twice @ jacobian, once @ jacobian, atol=1e-7 * scale)

    @pytest.mark.parametrize("solver", ["auto", "active_set", "array_api"])
    def test_a_projection_always_exists(self, solver: str) -> None:
        """Of a direction that cancels to rounding errors, too: no ray is to be seen in noise."""
        for family in ("strongly_stationary", "antiparallel", "rank_one", "equicorrelated_rounded"):
            for k in (2, 3, 4, 6, 11):
                gramian = FAMILIES[family].sample(k, np.random.default_rng(k)).gramian
                rows = np.concatenate([np.ones((1, k)), mojd.project(np.eye(k)[:2], gramian)])
                projected = mojd.project(rows, gramian, solver=solver)
                assert np.isfinite(projected).all()
                assert (projected >= rows).all()
                for problem in (mojd.project_problem(rows, gramian), mojd.dualproj_problem(gramian)):
                    assert (np.asarray(mojd.solve(problem, solver).status) == Status.OPTIMAL).all()

    def test_integers_and_lists(self) -> None:
        assert mojd.project([1, 0], [[1, -1], [-1, 2]]).tolist() == [1.0, 0.5]
        weights = mojd.project(np.array([[1, 0]]), np.array([[1, -1], [-1, 2]], dtype=np.float32))
        assert weights.dtype == np.float32


class TestDualProj:
    def test_worked_values(self) -> None:
        assert mojd.dualproj([[1.0, -2.0], [-2.0, 5.0]]).tolist() == [1.0, 0.5]
        assert mojd.dualproj([[3.0]]).tolist() == [1.0]
        assert mojd.dualproj(np.eye(5)).tolist() == [0.2] * 5

    @pytest.mark.parametrize("a", [0.25, 1.0, 8.0])
    def test_counterexample_of_the_paper(self, a: float) -> None:
        """[2, 0], [−2a, 2a]: not linear under scaling of rows. By hand: the mean is (1 − a, a)."""
        expected = [1.0 - a, a] if a <= 0.5 else [0.5, 0.5] if a == 1.0 else [0.0, a]
        mean = np.array([1.0 - a, a])
        if mean[0] < 0:
            expected = [0.0, a]
        elif -mean[0] + mean[1] < 0:
            expected = [0.5, 0.5]
        else:
            expected = mean.tolist()
        np.testing.assert_allclose(direction([[2.0, 0.0], [-2.0 * a, 2.0 * a]]), expected, atol=1e-15)

    def test_the_mean_if_nothing_conflicts(self) -> None:
        jacobian = np.random.default_rng(0).uniform(0.1, 1.0, (6, 9))
        np.testing.assert_allclose(direction(jacobian), jacobian.mean(axis=0), rtol=1e-15)

    def test_preferences(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(3).standard_normal((4, 4)))
        preference = np.array([1.0, 0.0, 3.0, 0.5])
        np.testing.assert_allclose(
            mojd.dualproj(gramian, preference), mojd.project(preference, gramian), rtol=1e-13, atol=1e-14
        )
        np.testing.assert_allclose(
            mojd.dualproj(gramian, np.full(4, 0.25)), mojd.dualproj(gramian), rtol=1e-13
        )
        assert (mojd.dualproj(gramian, preference) >= preference).all()

    def test_the_default_preference_costs_no_digit(self) -> None:
        """1/3 is no float: a sum of rows is as exact as G, a mean of them would not be."""
        gramian = symmetric_gramian(np.array([[1.0, 2.0], [1.0, -3.0], [-2.0, 1.0]]))
        assert mojd.dualproj_problem(gramian).linear.tolist() == [0.0, 0.0, 0.0]
        assert mojd.dualproj(gramian).tolist() == [1 / 3] * 3

    def test_preferences_of_a_batch(self) -> None:
        gramians = np.stack(
            [symmetric_gramian(np.random.default_rng(i).standard_normal((3, 4))) for i in range(4)]
        )
        preferences = np.random.default_rng(0).uniform(0, 1, (4, 3))
        weights = mojd.dualproj(gramians, preferences)
        for i in range(4):
            np.testing.assert_allclose(weights[i], mojd.dualproj(gramians[i], preferences[i]), rtol=1e-13)
        assert mojd.dualproj(gramians[0], preferences).shape == (4, 3)

    @given(k=st.integers(1, 7), n=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
    def test_conditions_of_the_projection(self, k: int, n: int, seed: int) -> None:
        """Proposition 1: u <= w, Gw >= 0, u'Gw = w'Gw."""
        rng = np.random.default_rng(seed)
        gramian = symmetric_gramian(rng.standard_normal((k, n)))
        preference = rng.uniform(0, 1, k) * rng.integers(0, 2, k)
        weights = mojd.dualproj(gramian, preference)
        assert (weights >= preference).all()
        lengths = np.sqrt(np.diagonal(gramian))
        size = float(weights @ lengths)
        products = gramian @ weights
        assert (products >= -1e-8 * lengths * size).all()
        assert preference @ products == pytest.approx(weights @ products, abs=1e-8 * size**2)
