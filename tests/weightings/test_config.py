"""ConFIG: the direction with the same cosine to every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference.families import FAMILIES
from tests.reference.symmetries import assert_symmetric


def direction(jacobian: Any, **options: Any) -> Any:
    return mojd.aggregate(np.asarray(jacobian, float), "config", **options)


def slow_direction(jacobian: Any, wanted: Any = None) -> Any:
    """Equation 2, from the gradients themselves."""
    units = jacobian / np.linalg.norm(jacobian, axis=1)[:, None]
    v = np.linalg.pinv(units) @ (np.ones(len(units)) if wanted is None else wanted)
    v = v / np.linalg.norm(v)
    return (jacobian @ v).sum() * v


class TestWorkedValues:
    def test_two_objectives(self) -> None:
        """v is along the bisector: w_i = (‖g₁‖ + ‖g₂‖)/(2‖g_i‖), for √18 and √38."""
        weights = mojd.config([[18.0, -22.0], [-22.0, 38.0]])
        np.testing.assert_allclose(weights, [1.226483157256779, 0.8441236008058426], rtol=1e-13)

    def test_orthogonal_objectives(self) -> None:
        """w_i = Σ‖g‖/(K·‖g_i‖)."""
        np.testing.assert_allclose(mojd.config(np.diag([1.0, 4.0, 9.0])), [2.0, 1.0, 2 / 3], rtol=1e-14)

    def test_preferences(self) -> None:
        """Orthonormal gradients: v = u, and d = u·Σu/‖u‖² for u = (1, 2, 2) is 5/9·u."""
        np.testing.assert_allclose(
            mojd.config(np.eye(3), [1.0, 2.0, 2.0]), [5 / 9, 10 / 9, 10 / 9], rtol=1e-14
        )

    def test_dependent_objectives_may_conflict(self) -> None:
        """[1], [-1], [-1]: v = -1/3 is the least-squares answer, and opposes the first."""
        np.testing.assert_allclose(direction([[1], [-1], [-1]]), [-1.0], rtol=1e-14)

    def test_one_objective(self) -> None:
        assert mojd.config([[5.0]]) == pytest.approx([1.0])


class TestReferences:
    def test_the_equation(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(50):
            k, n = int(rng.integers(1, 9)), int(rng.integers(2, 12))
            jacobian = rng.standard_normal((k, n)) * 10.0 ** rng.uniform(-3, 3, k)[:, None]
            wanted = rng.uniform(0.1, 2.0, k)
            for options, expected in (
                ({}, slow_direction(jacobian)),
                ({"pref_vector": wanted}, slow_direction(jacobian, wanted)),
            ):
                # From the Gramian, the condition of the units counts twice.
                np.testing.assert_allclose(
                    direction(jacobian, **options), expected, atol=1e-8 * float(np.linalg.norm(jacobian))
                )

    def test_torchjd(self) -> None:
        """It takes the pseudo-inverse of the units, with nothing added; n > 1, or v may be its noise."""
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        rng = np.random.default_rng(1)
        for _ in range(40):
            jacobian = rng.standard_normal((int(rng.integers(1, 8)), int(rng.integers(2, 12))))
            theirs = aggregation.ConFIG()(torch.tensor(jacobian)).numpy()
            np.testing.assert_allclose(
                direction(jacobian), theirs, atol=1e-9 * float(np.linalg.norm(jacobian, axis=1).sum())
            )


class TestTheory:
    @given(k=st.integers(1, 6), spread=st.floats(0, 200), seed=st.integers(0, 2**32 - 1))
    def test_equal_cosines(self, k: int, spread: float, seed: int) -> None:
        """And a length that is the sum of the projections, for lengths that differ by up to 1e100."""
        rng = np.random.default_rng(seed)
        jacobian = np.eye(k, k + 2) + 0.1 * rng.standard_normal((k, k + 2))
        norms = 10.0 ** (0.5 * spread * rng.uniform(-0.5, 0.5, k))
        rows = jacobian * norms[:, None]
        d = direction(rows)
        length = np.linalg.norm(d)
        cosines = (jacobian @ (d / length)) / np.linalg.norm(jacobian, axis=1)
        np.testing.assert_allclose(cosines, cosines[0], rtol=1e-10)
        assert cosines[0] > 0
        assert (rows @ (d / length)).sum() == pytest.approx(length, rel=1e-10)

    @pytest.mark.parametrize("rank", [1, 2, 5])
    def test_linear_under_scaling(self, rank: int) -> None:
        rng = np.random.default_rng(rank)
        jacobian = rng.standard_normal((4, rank))
        first, second = rng.uniform(0.1, 5.0, (2, 4, 1))
        total = direction(2 * first * jacobian + second * jacobian)
        parts = 2 * direction(first * jacobian) + direction(second * jacobian)
        np.testing.assert_allclose(total, parts, rtol=1e-9)

    def test_permutation_scale_and_batches(self) -> None:
        assert_symmetric(mojd.config, rtol=1e-11)


class TestSpecialCases:
    def test_opposite_rows_cancel(self) -> None:
        for jacobian in ([[1.0], [-2.0]], [[0.3, 0.1], [-0.3, -0.1]]):
            assert direction(jacobian).tolist() == [0.0] * len(jacobian[0])

    def test_gradients_that_cancel_to_rounding(self) -> None:
        """Unit vectors to the corners of a polygon: what rounding leaves must not become the answer."""
        for k in (3, 4, 5, 8):
            for turn in np.linspace(0, 2, 41):
                angles = turn + 2 * np.pi * np.arange(k) / k
                rows = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
                assert mojd.config(rows @ rows.T).tolist() == [0.0] * k

    def test_zero_rows_are_ignored(self) -> None:
        for size in (1e-150, 1.0, 1e150):
            rows = size * np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 10.0]])
            weights = mojd.config(rows @ rows.T)
            assert weights[0] == 0.0
            np.testing.assert_allclose(weights[1:], mojd.config(rows[1:] @ rows[1:].T), rtol=1e-13)
        assert mojd.config(np.zeros((3, 3))).tolist() == [0.0] * 3

    def test_duplicates(self) -> None:
        """One direction still, with the length of three gradients."""
        np.testing.assert_allclose(direction([[1, 0], [1, 0], [0, 2]]), [2.0, 2.0], rtol=1e-14)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_weights_are_finite(self, name: str) -> None:
        for k in (2, 3, 7):
            if k >= FAMILIES[name].min_size:
                gramian = FAMILIES[name].sample(k, np.random.default_rng(k)).gramian
                given_gramian = gramian.astype(np.float32) if name.startswith("float32") else gramian
                weights = mojd.config(given_gramian)
                assert weights.dtype == given_gramian.dtype
                assert np.isfinite(weights).all()

    def test_single_precision(self) -> None:
        jacobian = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
        np.testing.assert_allclose(
            mojd.config(jacobian @ jacobian.T) @ jacobian, slow_direction(jacobian.astype(float)), rtol=1e-4
        )


def test_errors() -> None:
    with pytest.raises(mojd.InvalidInputError, match="gramian must have shape"):
        mojd.config(np.ones((2, 3)))
    with pytest.raises(mojd.InvalidInputError, match=r"pref_vector .*negative entry -1.0 at index \(1,\)"):
        mojd.config(np.eye(2), [1.0, -1.0])
    with pytest.raises(mojd.InvalidInputError, match=r"pref_vector must have shape \(\.\.\., 2\)"):
        mojd.config(np.eye(2), [1.0, 1.0, 1.0])
    with pytest.raises(mojd.NonFiniteError, match="gramian"):
        mojd.config([[np.inf]])
