"""IMTL-G: a direction whose projections on all gradients are equally long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference.families import FAMILIES
from tests.reference.symmetries import assert_symmetric


def weights_of(jacobian: Any) -> Any:
    rows = np.asarray(jacobian, float)
    return mojd.imtl_g(rows @ rows.T)


class TestWorkedValues:
    def test_two_objectives(self) -> None:
        """Cramer's rule: w ∝ (38√18 + 22√38, 22√18 + 18√38)."""
        weights = weights_of([[-4, 1, 1], [6, 1, 1]])
        np.testing.assert_allclose(weights, [0.5923303169377979, 0.407669683062202], rtol=1e-13)

    def test_counterexample_of_the_paper(self) -> None:
        """[1], [-1], [-1]: G⁺n = -(1, -1, -1)/9, so that d = -3 conflicts with the first."""
        np.testing.assert_allclose(weights_of([[1], [-1], [-1]]), [-1.0, 1.0, 1.0], rtol=1e-14)

    def test_orthogonal_objectives(self) -> None:
        """w ∝ 1/‖g‖."""
        np.testing.assert_allclose(mojd.imtl_g(np.diag([1.0, 4.0, 16.0])), [4 / 7, 2 / 7, 1 / 7], rtol=1e-14)

    def test_one_dimension(self) -> None:
        """G = uuᵀ for u = (1, -2): G⁺n = u(uᵀn)/25 with uᵀn = -3, so w = (-1, 2)."""
        np.testing.assert_allclose(weights_of([[1], [-2]]), [-1.0, 2.0], rtol=1e-13)

    def test_one_objective(self) -> None:
        assert mojd.imtl_g([[5.0]]).tolist() == [1.0]


class TestReferences:
    def test_least_squares(self) -> None:
        """d from J itself: equal projections, and in the affine hull of the gradients."""
        rng = np.random.default_rng(0)
        for _ in range(40):
            k = int(rng.integers(2, 9))
            jacobian = rng.standard_normal((k, k + 3)) * 10.0 ** rng.uniform(-3, 3, k)[:, None]
            units = jacobian / np.linalg.norm(jacobian, axis=1)[:, None]
            system = np.vstack([units @ jacobian.T, np.ones(k)])
            system = np.hstack([system, -np.append(np.ones(k), 0.0)[:, None]])
            scales = 1 / np.linalg.norm(system, axis=0)
            expected = scales * np.linalg.solve(system * scales, np.append(np.zeros(k), 1.0))
            weights = weights_of(jacobian)
            size = np.abs(expected[:k] @ jacobian).max()
            np.testing.assert_allclose(weights @ jacobian, expected[:k] @ jacobian, atol=1e-8 * size)

    def test_the_pseudo_inverse(self) -> None:
        """Where gradients depend on each other, with lengths that differ: NumPy's G⁺ for a known rank."""
        rng = np.random.default_rng(1)
        for _ in range(40):
            k = int(rng.integers(3, 9))
            rank = int(rng.integers(1, k))
            jacobian = rng.standard_normal((k, rank)) * 2.0 ** rng.integers(-3, 4, k)[:, None]
            inverse = np.linalg.pinv(jacobian)
            v = inverse.T @ (inverse @ np.linalg.norm(jacobian, axis=1))
            np.testing.assert_allclose(weights_of(jacobian), v / v.sum(), rtol=1e-7, atol=1e-7 * abs(v).max())

    def test_torchjd(self) -> None:
        """The same formula, with the rank judged on G by 1e-15 of its largest singular value."""
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        rng = np.random.default_rng(2)
        for _ in range(40):
            jacobian = rng.standard_normal((int(rng.integers(1, 8)), int(rng.integers(2, 12))))
            theirs = aggregation.IMTLG()(torch.tensor(jacobian)).numpy()
            size = float(np.abs(weights_of(jacobian)) @ np.linalg.norm(jacobian, axis=1))
            np.testing.assert_allclose(weights_of(jacobian) @ jacobian, theirs, atol=1e-9 * size)


class TestTheory:
    @given(k=st.integers(1, 6), spread=st.floats(0, 200), seed=st.integers(0, 2**32 - 1))
    def test_equal_projections(self, k: int, spread: float, seed: int) -> None:
        """Lengths that differ by up to 1e200 are no obstacle."""
        rng = np.random.default_rng(seed)
        jacobian = np.eye(k, k + 2) + 0.1 * rng.standard_normal((k, k + 2))
        norms = 10.0 ** (0.5 * spread * rng.uniform(-0.5, 0.5, k))
        weights = weights_of(jacobian * norms[:, None])
        assert weights.sum() == pytest.approx(1.0)
        projections = (jacobian @ (jacobian.T @ (weights * norms))) / np.linalg.norm(jacobian, axis=1)
        np.testing.assert_allclose(projections, projections[0], rtol=1e-10)

    def test_permutation_scale_and_batches(self) -> None:
        assert_symmetric(mojd.imtl_g, rtol=1e-10)

    def test_not_linear_under_scaling(self) -> None:
        """[-2], [-2] with factors (1, 1) and (3, 1): the directions don't add up."""
        parts = [np.array([[-2.0], [-2.0]]), np.array([[-6.0], [-2.0]])]
        total = sum(mojd.aggregate(part, "imtl_g") for part in parts)
        assert mojd.aggregate(parts[0] + parts[1], "imtl_g") != pytest.approx(total)


class TestSpecialCases:
    def test_nothing_sums_to_one(self) -> None:
        assert weights_of([[1], [-1]]).tolist() == [0.0, 0.0]
        assert weights_of([[0.3, 0.1], [-0.3, -0.1]]).tolist() == [0.0, 0.0]
        assert mojd.imtl_g(np.zeros((3, 3))).tolist() == [0.0] * 3

    def test_gradients_that_cancel_to_rounding(self) -> None:
        """Unit vectors to the corners of a polygon: what rounding leaves must not become the answer."""
        for k in (3, 4, 5, 8):
            for turn in np.linspace(0, 2, 41):
                angles = turn + 2 * np.pi * np.arange(k) / k
                rows = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
                assert mojd.imtl_g(rows @ rows.T).tolist() == [0.0] * k

    def test_zero_rows_have_no_weight(self) -> None:
        for size in (1e-150, 1.0, 1e150):
            weights = weights_of(size * np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 10.0]]))
            assert weights[[0, 2]].tolist() == [0.0, 0.0]
            np.testing.assert_allclose(weights[[1, 3]], [2 / 3, 1 / 3], rtol=1e-13)

    def test_duplicates_share(self) -> None:
        np.testing.assert_allclose(weights_of([[1, 0], [1, 0], [0, 1]]), [0.25, 0.25, 0.5], rtol=1e-14)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_weights_are_finite(self, name: str) -> None:
        for k in (2, 3, 7):
            if k >= FAMILIES[name].min_size:
                gramian = FAMILIES[name].sample(k, np.random.default_rng(k)).gramian
                given_gramian = gramian.astype(np.float32) if name.startswith("float32") else gramian
                weights = mojd.imtl_g(given_gramian)
                assert weights.dtype == given_gramian.dtype
                assert np.isfinite(weights).all()

    def test_single_precision_takes_dependence_for_what_it_is(self) -> None:
        """Rows that are dependent but for rounding in float32 must not become weights of 1e7."""
        rng = np.random.default_rng(0)
        jacobian = rng.standard_normal((5, 2)).astype(np.float32)
        weights = mojd.imtl_g(jacobian @ jacobian.T)
        np.testing.assert_allclose(weights, weights_of(jacobian), rtol=1e-4, atol=1e-4)


def test_errors() -> None:
    with pytest.raises(mojd.InvalidInputError, match="gramian must have shape"):
        mojd.imtl_g(np.ones((2, 3)))
    with pytest.raises(mojd.InvalidInputError, match="not positive semi-definite"):
        mojd.imtl_g([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(mojd.NonFiniteError, match="gramian"):
        mojd.imtl_g([[1.0, np.nan], [np.nan, 1.0]])
    with pytest.raises(mojd.InvalidInputError, match="nonfinite='skip'"):
        mojd.imtl_g([[1.0]], nonfinite="skip")
