"""Aligned-MTL: gradients replaced by the nearest orthogonal ones of equal length."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference.families import FAMILIES, symmetric_gramian

MODES = ("min", "median", "rmse")


def slow_direction(jacobian: Any, mode: str = "min", preference: Any = None) -> Any:
    """From the singular values of J: the polar factor, times a length."""
    left, values, right = np.linalg.svd(jacobian, full_matrices=False)
    rank = int((values > 1e-7 * values[0]).sum())
    squares = np.sort(values[:rank] ** 2)
    scale = {"min": squares[0], "median": squares[(rank - 1) // 2], "rmse": squares.mean()}[mode]
    u = np.full(len(jacobian), 1 / len(jacobian)) if preference is None else np.asarray(preference)
    return math.sqrt(scale) * u @ left[:, :rank] @ right[:rank]


class TestWorkedValues:
    def test_two_objectives(self) -> None:
        """√G = (G + √det·1)/√(tr + 2√det) for det = 200, tr = 56; least eigenvalue 28 - √584."""
        root = math.sqrt(200.0)
        inverse = np.array([[38 + root, 22.0], [22.0, 18 + root]]) / root / math.sqrt(56 + 2 * root)
        expected = math.sqrt(28 - math.sqrt(584)) * inverse.sum(axis=1) / 2
        np.testing.assert_allclose(mojd.aligned_mtl([[18.0, -22.0], [-22.0, 38.0]]), expected, rtol=1e-13)

    def test_orthogonal_objectives(self) -> None:
        """w_i = √σ/(K·‖g_i‖) for eigenvalues 1, 4, 9, 16."""
        gramian = np.diag([4.0, 1.0, 16.0, 9.0])
        for mode, square in (("min", 1.0), ("median", 4.0), ("rmse", 7.5)):
            expected = math.sqrt(square) / 4 / np.array([2.0, 1.0, 4.0, 3.0])
            np.testing.assert_allclose(mojd.aligned_mtl(gramian, scale_mode=mode), expected, rtol=1e-14)

    def test_a_conflict(self) -> None:
        """[-2], [1]: one eigenvalue, 5; B = vvᵀ for v = (-2, 1)/√5, so d = -1/2 opposes the second."""
        jacobian = np.array([[-2.0], [1.0]])
        for mode in MODES:
            d = mojd.aggregate(jacobian, "aligned_mtl", scale_mode=mode)
            np.testing.assert_allclose(d, [-0.5], rtol=1e-13)

    def test_preferences(self) -> None:
        weights = mojd.aligned_mtl(np.diag([4.0, 1.0]), [3.0, 5.0])
        np.testing.assert_allclose(weights, [1.5, 5.0], rtol=1e-14)

    def test_one_objective(self) -> None:
        assert mojd.aligned_mtl([[5.0]]) == pytest.approx([1.0])


class TestReferences:
    @pytest.mark.parametrize("mode", MODES)
    def test_the_polar_factor(self, mode: str) -> None:
        rng = np.random.default_rng(0)
        for _ in range(40):
            k = int(rng.integers(1, 9))
            jacobian = rng.standard_normal((k, int(rng.integers(1, 12))))
            u = rng.uniform(0, 2, k)
            for given_preference in (None, u):
                d = mojd.aggregate(jacobian, "aligned_mtl", pref_vector=given_preference, scale_mode=mode)
                expected = slow_direction(jacobian, mode, given_preference)
                # The least eigenvalue is known to ε of the largest; its root divides.
                np.testing.assert_allclose(d, expected, atol=1e-8 * float(np.linalg.norm(jacobian)))

    @pytest.mark.parametrize("mode", MODES)
    def test_torchjd(self, mode: str) -> None:
        """The same formulas, and the same bound K·ε for what counts as an eigenvalue."""
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        rng = np.random.default_rng(1)
        for _ in range(40):
            jacobian = rng.standard_normal((int(rng.integers(1, 8)), int(rng.integers(1, 12))))
            theirs = aggregation.AlignedMTL(scale_mode=mode)(torch.tensor(jacobian)).numpy()
            d = mojd.aggregate(jacobian, "aligned_mtl", scale_mode=mode)
            np.testing.assert_allclose(d, theirs, atol=1e-9 * float(np.linalg.norm(jacobian)))


class TestTheory:
    @given(k=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
    def test_aligned_gradients_are_orthogonal_and_of_one_length(self, k: int, seed: int) -> None:
        """Every column of B is an answer for a preference of its own."""
        rng = np.random.default_rng(seed)
        jacobian = np.eye(k, k + 2) + 0.2 * rng.standard_normal((k, k + 2))
        gramian = symmetric_gramian(jacobian)
        balance = mojd.aligned_mtl(np.stack([gramian] * k), np.eye(k))
        aligned = balance @ gramian @ balance.T
        np.testing.assert_allclose(aligned, np.linalg.eigvalsh(gramian)[0] * np.eye(k), atol=1e-11)

    def test_permutation_scale_and_batches(self) -> None:
        rng = np.random.default_rng(0)
        for k in (2, 3, 8):
            gramians = np.stack([symmetric_gramian(rng.standard_normal((k, 2 * k))) for _ in range(4)])
            for mode in MODES:
                weights = mojd.aligned_mtl(gramians, scale_mode=mode)
                order = rng.permutation(k)
                swapped = mojd.aligned_mtl(gramians[:, order][:, :, order], scale_mode=mode)
                np.testing.assert_allclose(swapped, weights[:, order], rtol=1e-11, atol=1e-12)
                for scale in (1e-300, 7.0, 1e300):
                    scaled = mojd.aligned_mtl(scale * gramians, scale_mode=mode)
                    np.testing.assert_allclose(scaled, weights, rtol=1e-11, atol=1e-12)
                for gramian, together in zip(gramians, weights, strict=True):
                    alone = mojd.aligned_mtl(gramian, scale_mode=mode)
                    np.testing.assert_allclose(alone, together, rtol=1e-13, atol=1e-14)
        assert mojd.aligned_mtl(np.zeros((0, 3, 3))).shape == (0, 3)

    def test_not_linear_under_scaling(self) -> None:
        parts = [np.array([[-2.0, -2.0], [-2.0, -1.0]]), np.array([[-6.0, -6.0], [-2.0, -1.0]])]
        total = sum(mojd.aggregate(part, "aligned_mtl") for part in parts)
        assert np.abs(mojd.aggregate(parts[0] + parts[1], "aligned_mtl") - total).max() > 0.01


class TestSpecialCases:
    def test_zeros(self) -> None:
        assert mojd.aligned_mtl(np.zeros((2, 2))).tolist() == [0.5, 0.5]
        assert mojd.aligned_mtl(np.zeros((2, 2)), [1.0, 3.0]).tolist() == [1.0, 3.0]
        for size in (1e-150, 1.0, 1e150):
            rows = size * np.array([[0.0, 0.0], [3.0, 4.0]])
            np.testing.assert_allclose(mojd.aligned_mtl(rows @ rows.T), [0.0, 0.5], atol=1e-15)

    def test_dependent_rows(self) -> None:
        """[1, 0] twice and [0, 2]: eigenvalues 2 and 4, and the null space drops out."""
        rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        weights = mojd.aligned_mtl(rows @ rows.T)
        np.testing.assert_allclose(weights, [1 / 3, 1 / 3, math.sqrt(0.5) / 3], rtol=1e-14)
        opposite = np.array([[1.0], [-1.0]])
        np.testing.assert_allclose(mojd.aligned_mtl(opposite @ opposite.T), [0.0, 0.0], atol=1e-15)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_weights_are_finite(self, name: str) -> None:
        for k in (2, 3, 7):
            if k >= FAMILIES[name].min_size:
                gramian = FAMILIES[name].sample(k, np.random.default_rng(k)).gramian
                given_gramian = gramian.astype(np.float32) if name.startswith("float32") else gramian
                for mode in MODES:
                    weights = mojd.aligned_mtl(given_gramian, scale_mode=mode)
                    assert weights.dtype == given_gramian.dtype
                    assert np.isfinite(weights).all()

    def test_single_precision(self) -> None:
        """What float32 leaves of zero eigenvalues is not taken for the least."""
        jacobian = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
        d = mojd.aligned_mtl(jacobian @ jacobian.T) @ jacobian
        np.testing.assert_allclose(d, slow_direction(jacobian.astype(float)), rtol=1e-4, atol=1e-5)


def test_errors() -> None:
    with pytest.raises(mojd.InvalidInputError, match="scale_mode='max' is not one of"):
        mojd.aligned_mtl(np.eye(2), scale_mode="max")
    with pytest.raises(mojd.InvalidInputError, match="gramian must have shape"):
        mojd.aligned_mtl(np.ones((2, 3)))
    with pytest.raises(mojd.InvalidInputError, match=r"pref_vector .*negative entry -1.0 at index \(1,\)"):
        mojd.aligned_mtl(np.eye(2), [1.0, -1.0])
    with pytest.raises(mojd.NonFiniteError, match="gramian"):
        mojd.aligned_mtl([[np.nan]])
