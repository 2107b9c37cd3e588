"""Residuals: by how much weights miss the conditions of their own problem, whoever computed them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mojd
from mojd.weightings import get_method
from mojd.weightings.upgrad import _residual as upgrad_residual
from tests.reference import bounds
from tests.reference.families import FAMILIES, Floats, symmetric_gramian

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mgda": ("mgda", {}),
    "upgrad": ("upgrad", {}),
    "upgrad_preference": ("upgrad", {"pref_vector": [0.5, 1.0, 0.0, 2.0, 0.1]}),
    "dualproj": ("dualproj", {}),
    "dualproj_preference": ("dualproj", {"pref_vector": [0.5, 1.0, 0.0, 2.0, 0.1]}),
    "pcd": ("pcd", {"tau": 0.3}),
    "pcd_scales": ("pcd", {"tau": 0.3, "scales": [0.5, 1.0, 2.0, 0.3, 1.0]}),
    "pcd_rescale": ("pcd", {"tau": 0.3, "rescale": True}),
}
# float32 makes a Gramian indefinite by 1e-7, and then its conditions have no solution to 1e-10.
FAMILY_NAMES = [name for name in FAMILIES if not name.startswith("float32")]


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def conflicting_gramian(seed: int) -> Floats:
    """Five gradients, the first of which opposes the mean."""
    rng = np.random.default_rng(seed)
    jacobian = rng.standard_normal((5, 8))
    jacobian[0] = rng.standard_normal(8) - 1.5 * jacobian[1:].mean(axis=0)
    jacobian[1] -= 0.5 * jacobian[0]
    return symmetric_gramian(jacobian)


class TestOwnOutput:
    @pytest.mark.parametrize("family", FAMILY_NAMES)
    @pytest.mark.parametrize("method", ["mgda", "upgrad", "dualproj", "pcd"])
    def test_every_family(self, method: str, family: str) -> None:
        """1e-10, but 3e-8 where a Gramian can't tell a dependency from none."""
        residual = get_method(method).residual  # type: ignore[attr-defined]
        for k in (1, 2, 3, 5, 9, 24):
            if k < FAMILIES[family].min_size:
                continue
            gramian = FAMILIES[family].sample(k, np.random.default_rng(k)).gramian
            bar = bounds.UNRESOLVED if family in bounds.UNRESOLVED_FAMILIES else 1e-10
            if FAMILIES[family].well_posed:
                bar = bounds.WELL_POSED
            elif family == "nearly_weakly_stationary_1e-6":
                # Measured up to 5e-11: HARD is what its solutions are held to.
                bar = bounds.HARD
            assert residual(getattr(mojd, method)(gramian), gramian) <= bar, k

    def test_options(self, weigh: Callable[..., Any], miss: Callable[..., Any]) -> None:
        for seed in range(20):
            gramian = conflicting_gramian(seed)
            assert miss(weigh(gramian), gramian) <= 1e-13

    def test_shapes(self, weigh: Callable[..., Any], miss: Callable[..., Any]) -> None:
        gramians = np.stack([conflicting_gramian(seed) for seed in range(6)]).reshape(2, 3, 5, 5)
        residuals = miss(weigh(gramians), gramians)
        assert residuals.shape == (2, 3)
        assert residuals.max() <= 1e-13
        assert np.ndim(miss(weigh(gramians[0, 0]), gramians[0, 0])) == 0
        assert miss(np.zeros((0, 5)), np.zeros((0, 5, 5))).shape == (0,)


class TestWrongWeights:
    def test_a_relative_error_of_a_millionth(
        self, weigh: Callable[..., Any], miss: Callable[..., Any]
    ) -> None:
        """In one weight that is not small beside the others."""
        for seed in range(20):
            gramian = conflicting_gramian(seed)
            weights = weigh(gramian)
            share = weights * np.sqrt(np.diagonal(gramian))
            for i in np.flatnonzero(share >= 0.3 * share.max()):
                for factor in (1 + 1e-6, 1 - 1e-6):
                    wrong = weights.copy()
                    wrong[i] *= factor
                    assert miss(wrong, gramian) > 5e-8, (seed, i)

    def test_a_wrong_sign(self, weigh: Callable[..., Any], miss: Callable[..., Any]) -> None:
        for seed in range(20):
            gramian = conflicting_gramian(seed)
            weights = weigh(gramian)
            for i in np.flatnonzero(weights > 0.05):
                wrong = weights.copy()
                wrong[i] *= -1
                assert miss(wrong, gramian) > 1e-3

    def test_a_ridge(self, weigh: Callable[..., Any], miss: Callable[..., Any]) -> None:
        """What is added to the diagonal elsewhere: 1e-4 of the mean square."""
        for seed in range(20):
            gramian = conflicting_gramian(seed)
            ridged = gramian + 1e-4 * np.trace(gramian) / 5 * np.eye(5)
            if not np.allclose(weigh(ridged), weigh(gramian), rtol=1e-6):
                assert miss(weigh(ridged), gramian) > 1e-7

    def test_other_methods(self, name: str, miss: Callable[..., Any]) -> None:
        gramian = conflicting_gramian(3)
        for other in ("mgda", "upgrad", "dualproj", "pcd"):
            if other != METHODS[name][0]:
                assert miss(getattr(mojd, other)(gramian), gramian) > 1e-3

    def test_nothing_and_everything(self, miss: Callable[..., Any]) -> None:
        gramian = conflicting_gramian(3)
        assert miss(np.zeros(5), gramian) >= 0.1
        assert miss(np.full(5, 1e6), gramian) >= 0.1

    def test_units_do_not_count(self, name: str, weigh: Callable[..., Any], miss: Callable[..., Any]) -> None:
        gramian = conflicting_gramian(0)
        wrong = weigh(gramian) * np.array([1.0, 1.01, 1.0, 1.02, 1.0])
        expected = miss(wrong, gramian)
        for power in (-400, 400):
            assert miss(wrong, gramian * 2.0**power) == pytest.approx(expected, rel=1e-9)


class TestUPGrad:
    def test_a_projection_that_was_left_out(self) -> None:
        gramian = conflicting_gramian(1)
        rows = mojd.project(0.2 * np.eye(5), gramian)
        assert upgrad_residual(rows.sum(axis=0), gramian) <= 1e-13
        moved = [i for i in range(5) if np.abs(rows[i] - 0.2 * np.eye(5)[i]).max() > 1e-3]
        assert moved
        for i in moved:
            wrong = rows.sum(axis=0) - rows[i] + 0.2 * np.eye(5)[i]
            assert upgrad_residual(wrong, gramian) > 1e-4

    def test_weights_of_the_same_direction(self) -> None:
        """Two equal gradients may share a weight in any way; two independent ones may not."""
        jacobian = np.array([[1.0, 0.0], [1.0, 0.0], [-2.0, 1.0]])
        gramian = symmetric_gramian(jacobian)
        weights = mojd.upgrad(gramian)
        shared = weights + np.array([0.1, -0.1, 0.0])
        np.testing.assert_allclose(jacobian.T @ shared, jacobian.T @ weights, atol=1e-15)
        assert upgrad_residual(shared, gramian) <= 1e-13
        assert upgrad_residual(weights + np.array([0.1, 0.0, -0.1]), gramian) > 1e-3


class TestPCD:
    def test_contradictions(self) -> None:
        """Opposite secondaries: the primary alone is right, and nothing else."""
        residual = get_method("pcd").residual  # type: ignore[attr-defined]
        gramian = symmetric_gramian(np.array([[1.0, 1.0], [2.0, 0.0], [-1.0, 0.0]]))
        assert mojd.pcd(gramian, 0.5).tolist() == [1.0, 0.0, 0.0]
        assert residual(np.array([1.0, 0.0, 0.0]), gramian, 0.5) == 0.0
        assert residual(np.array([1.0, 0.1, 0.0]), gramian, 0.5) > 1e-2
        assert residual(np.array([0.9, 0.0, 0.0]), gramian, 0.5) > 1e-2

    def test_the_primary_alone_where_there_is_no_contradiction(self) -> None:
        residual = get_method("pcd").residual  # type: ignore[attr-defined]
        gramian = symmetric_gramian(np.array([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]))
        assert residual(np.array([1.0, 0.0, 0.0]), gramian, 0.3) > 1e-2

    def test_a_rescaled_direction_of_another_length(self) -> None:
        residual = get_method("pcd").residual  # type: ignore[attr-defined]
        gramian = conflicting_gramian(0)
        weights = mojd.pcd(gramian, rescale=True)
        assert residual(weights, gramian, rescale=True) <= 1e-13
        assert residual(1.001 * weights, gramian, rescale=True) > 1e-4
        assert residual(np.zeros(5), gramian, rescale=True) == 1.0
        halted = np.diag([0.0, 1.0, 1.0])
        assert residual(mojd.pcd(halted, rescale=True), halted, rescale=True) == 0.0


def test_mgda_off_the_simplex() -> None:
    residual = get_method("mgda").residual  # type: ignore[attr-defined]
    gramian = np.diag([1.0, 4.0])
    assert residual(np.array([0.8, 0.2]), gramian) <= 1e-15
    assert residual(np.array([1.6, 0.4]), gramian) == 1.0
    assert residual(np.array([0.5, 0.5]), gramian) > 0.1
    assert residual(np.array([1.2, -0.2]), gramian) > 0.1
