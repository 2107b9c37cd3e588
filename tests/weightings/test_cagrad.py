"""CAGrad: the best worst-case progress within a ball around the mean gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd.weightings.cagrad import cagrad_residual
from tests.reference.families import FAMILIES, Floats, symmetric_gramian


def weights_of(jacobian: Any, c: float = 0.5) -> Floats:
    rows = np.asarray(jacobian, float)
    found: Floats = mojd.cagrad(rows @ rows.T, c)
    return found


def direction(jacobian: Any, c: float = 0.5) -> Floats:
    return np.asarray(jacobian, float).T @ weights_of(jacobian, c)


def stored(name: str, k: int, seed: int) -> Any:
    gramian = FAMILIES[name].sample(k, np.random.default_rng(seed)).gramian
    return gramian.astype(np.float32) if name.startswith("float32") else gramian


class TestWorkedValues:
    def test_one_active_objective(self) -> None:
        """d = g₀ + r·g₁/‖g₁‖ for r = c·√3 and g₁ of length √18, as g₂ fares better there."""
        weights = weights_of([[-4, 1, 1], [6, 1, 1]])
        np.testing.assert_allclose(weights, [0.7041241452319315, 0.5], rtol=1e-14)

    def test_counterexample_of_the_paper(self) -> None:
        """[2, 0], [-2a - 2, 2] for a = 1: w₁ = 1/2 + (√2/2)/2, and d conflicts with g₁."""
        jacobian = [[2.0, 0.0], [-4.0, 2.0]]
        np.testing.assert_allclose(weights_of(jacobian), [0.8535533905932737, 0.5], rtol=1e-14)
        assert direction(jacobian)[0] * 2 == pytest.approx(math.sqrt(2) - 2)

    def test_three_active_objectives(self) -> None:
        """d·g_i = λ for all i: d = λ(1, 1/2, 1/3) at distance 3·‖g₀‖ = √14 from g₀ = (1, 2, 3)/3."""
        level = 36 / 49 * (1 + math.sqrt(1 + 49 / 36 * 14 / 9 * 8))
        weights = mojd.cagrad(np.diag([1.0, 4.0, 9.0]), 3.0)
        np.testing.assert_allclose(weights, [level, level / 4, level / 9], rtol=1e-14)

    def test_one_objective(self) -> None:
        assert mojd.cagrad([[5.0]], 0.5) == pytest.approx([1.5])
        assert mojd.cagrad([[0.0]]).tolist() == [1.0]

    def test_orthonormal_objectives(self) -> None:
        np.testing.assert_allclose(mojd.cagrad(np.eye(4), 0.6), np.full(4, 0.4), rtol=1e-14)


def assert_as_good(jacobian: Floats, weights: Floats, other: Floats) -> None:
    """Compare with a direction of the same ball that a conic solver found to a gap of 1e-8 in the dual.

    The dual is flat, so that a gap of 1e-8 leaves its combination of the gradients, and with it the progress
    in the worst objective, off by the root of that and more: up to 2e-4 of ‖g₀‖·max‖g_i‖ here.

    If Jᵀw is optimal, with multipliers y = w - 1/K, then any direction of the ball that falls short of it
    by δ is within √(2δ·Σy) of it: that is by how much, and no more, directions may differ.
    """
    found = jacobian.T @ weights
    mean = jacobian.mean(axis=0)
    size = float(np.linalg.norm(mean) * np.linalg.norm(jacobian, axis=1).max())
    short = float((jacobian @ found).min() - (jacobian @ other).min())
    assert -1e-12 * size <= short <= 1e-3 * size
    total = float(weights.sum()) - 1.0
    allowed = 2 * max(short, 0.0) * total + (1e-7 * float(np.linalg.norm(mean))) ** 2
    assert ((found - other) ** 2).sum() <= allowed


def cone_reference(gramian: Floats, c: float) -> tuple[Floats, Floats, float, float]:
    """Solve the dual on the simplex by Clarabel: J, d, ‖g₀‖ and the value of the dual."""
    cvxpy = pytest.importorskip("cvxpy")
    values, vectors = np.linalg.eigh(gramian)
    jacobian = vectors * np.sqrt(np.maximum(values, 0.0))
    mean = jacobian.mean(axis=0)
    radius = c * float(np.linalg.norm(mean))
    w = cvxpy.Variable(len(gramian), nonneg=True)
    objective = (jacobian @ mean) @ w + radius * cvxpy.norm(jacobian.T @ w)
    problem = cvxpy.Problem(cvxpy.Minimize(objective), [cvxpy.sum(w) == 1])
    problem.solve(cvxpy.CLARABEL)
    combination = jacobian.T @ w.value
    found = mean + radius * combination / np.linalg.norm(combination)
    return jacobian, found, float(np.linalg.norm(mean)), float(problem.value)


class TestReferences:
    def test_the_paper_s_own_problem(self) -> None:
        """The dual on the simplex bounds the value, and gives the direction."""
        rng = np.random.default_rng(0)
        for _ in range(25):
            k, c = int(rng.integers(2, 9)), float(rng.choice([0.1, 0.4, 0.9, 1.5]))
            gramian = symmetric_gramian(rng.standard_normal((k, int(rng.integers(k, 3 * k)))))
            jacobian, expected, length, bound = cone_reference(gramian, c)
            weights = mojd.cagrad(gramian, c)
            size = length * float(np.sqrt(gramian.diagonal().max()))
            assert abs((jacobian @ jacobian.T @ weights).min() - bound) <= 1e-7 * size
            assert_as_good(jacobian, weights, expected)

    def test_a_general_optimiser(self) -> None:
        """SLSQP on (d, λ), from the primal problem: no better value is found anywhere."""
        optimize = pytest.importorskip("scipy.optimize")
        rng = np.random.default_rng(1)
        for k in (2, 3, 5):
            jacobian = rng.standard_normal((k, k + 1))
            mean = jacobian.mean(axis=0)
            square = 0.4**2 * mean @ mean
            constraints = [
                {"type": "ineq", "fun": lambda x, jacobian=jacobian: jacobian @ x[:-1] - x[-1]},
                {
                    "type": "ineq",
                    "fun": lambda x, mean=mean, square=square: square - ((x[:-1] - mean) ** 2).sum(),
                },
            ]
            start = np.append(mean, (jacobian @ mean).min())
            result = optimize.minimize(
                lambda x: -x[-1],
                start,
                constraints=constraints,
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            found = direction(jacobian, 0.4)
            assert (jacobian @ found).min() == pytest.approx(-result.fun, abs=1e-6)
            np.testing.assert_allclose(found, result.x[:-1], atol=1e-4)

    def test_torchjd(self) -> None:
        """TorchJD adds no ridge: it differs by the gap of its conic solver."""
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        pytest.importorskip("cvxpy")
        rng = np.random.default_rng(2)
        for _ in range(24):
            jacobian = rng.standard_normal((int(rng.integers(2, 7)), 9))
            c = float(rng.choice([0.2, 0.5, 1.0]))
            theirs = aggregation.CAGrad(c=c)(torch.tensor(jacobian)).numpy()
            assert_as_good(jacobian, weights_of(jacobian, c), theirs)


# Weights in single precision, or gradients so close to cancelling that weights in double precision are
# too coarse: Jᵀw is known to ε·Σ w_i‖g_i‖, which is up to 1e8·ε of ‖g₀‖ where δ = 1e-8.
COARSE = {
    "float32": 1e-6,
    "float32_low_rank": 5e-3,
    "float32_parallel": 1e-6,
    "near_antiparallel": 1e-7,
    "nearly_strongly_stationary_1e-8": 1e-7,
    "nearly_weakly_stationary_1e-8": 1e-7,
    "nearly_weakly_stationary_1e-6": 1e-8,
}


class TestResidual:
    @pytest.mark.parametrize("c", [0.01, 0.1, 0.5, 1.0, 3.0])
    @pytest.mark.parametrize("name", FAMILIES)
    def test_of_every_family(self, name: str, c: float) -> None:
        for k in (1, 2, 3, 4, 6, 8, 16, 32):
            if k < FAMILIES[name].min_size:
                continue
            gramian = stored(name, k, k)
            weights = mojd.cagrad(gramian, c)
            assert np.isfinite(weights).all()
            residual = cagrad_residual(weights.astype(float), gramian.astype(float), c)
            assert residual <= COARSE.get(name, 1e-10), k

    def test_wrong_weights_show(self) -> None:
        rng = np.random.default_rng(0)
        for k in (2, 3, 6, 12):
            gramian = symmetric_gramian(rng.standard_normal((k, 3 * k)))
            weights = mojd.cagrad(gramian)
            assert cagrad_residual(weights, gramian) <= 1e-13
            for i in range(k):
                wrong = weights.copy()
                wrong[i] *= 1 + 1e-6
                assert cagrad_residual(wrong, gramian) > 1e-7
            for other in (np.full(k, 1 / k), mojd.mgda(gramian), mojd.upgrad(gramian)):
                assert cagrad_residual(other, gramian) > 1e-3

    def test_it_has_no_scale_and_takes_batches(self) -> None:
        rng = np.random.default_rng(0)
        gramians = np.stack([symmetric_gramian(rng.standard_normal((4, 9))) for _ in range(6)])
        weights = mojd.cagrad(gramians) * 1.01
        residuals = cagrad_residual(weights, gramians)
        assert residuals.shape == (6,)
        for exponent in (-200, 3, 200):
            assert np.array_equal(cagrad_residual(weights, 4.0**exponent * gramians), residuals)
        for gramian, one, residual in zip(gramians, weights, residuals, strict=True):
            assert cagrad_residual(one, gramian) == pytest.approx(residual, rel=1e-12)

    def test_a_mean_inside_the_ball_is_no_excuse(self) -> None:
        """Beside a short gradient, nothing is stationary: the mean is not optimal."""
        gramian = np.array([[1.0, 0.0], [0.0, 1e-24]])
        assert cagrad_residual(np.full(2, 0.5), gramian) > 0.1
        assert cagrad_residual(mojd.cagrad(gramian), gramian) <= 1e-13


class TestTheory:
    @given(
        k=st.integers(1, 7),
        n=st.integers(1, 9),
        spread=st.floats(0, 6),
        c=st.floats(0, 3),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_in_the_ball_and_no_worse_than_the_mean(
        self, k: int, n: int, spread: float, c: float, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        jacobian = rng.standard_normal((k, n)) * 10.0 ** (spread * rng.uniform(-0.5, 0.5, k))[:, None]
        gramian = symmetric_gramian(jacobian)
        weights = mojd.cagrad(gramian, c)
        assert (weights >= 1 / k - 1e-15).all()
        mean, d = jacobian.mean(axis=0), jacobian.T @ weights
        size = float(weights @ np.linalg.norm(jacobian, axis=1))
        assert np.linalg.norm(d - mean) <= c * np.linalg.norm(mean) + 1e-7 * size
        short = float(np.linalg.norm(jacobian, axis=1).min())
        assert (jacobian @ d).min() >= (jacobian @ mean).min() - 1e-9 * size * max(short, size)

    def test_a_larger_ball_is_no_worse(self) -> None:
        jacobian = np.random.default_rng(0).standard_normal((6, 8))
        values = [(jacobian @ direction(jacobian, c)).min() for c in np.linspace(0, 2, 21)]
        assert np.all(np.diff(values) >= 0)

    def test_permutation_and_scale(self) -> None:
        rng = np.random.default_rng(0)
        for k in (2, 3, 8):
            gramian, order = symmetric_gramian(rng.standard_normal((k, 2 * k))), rng.permutation(k)
            weights = mojd.cagrad(gramian)
            np.testing.assert_allclose(
                mojd.cagrad(gramian[np.ix_(order, order)]), weights[order], rtol=1e-12, atol=1e-13
            )
            np.testing.assert_allclose(mojd.cagrad(7.0 * gramian), weights, rtol=1e-12, atol=1e-13)
            for scale in (1e-300, 4.0**-100, 4.0**100, 1e300):
                scaled = mojd.cagrad(scale * gramian)
                np.testing.assert_allclose(scaled, weights, rtol=1e-11, atol=1e-12)

    def test_batches(self) -> None:
        """Easy problems wait for hard ones, and are none the worse for it."""
        names = ("random", "row_scales", "zero_rows", "weakly_stationary", "rank_half", "all_zero")
        gramians = np.stack([FAMILIES[name].sample(6, np.random.default_rng(0)).gramian for name in names])
        for c in (0.1, 1.0):
            weights = mojd.cagrad(gramians, c)
            for gramian, together in zip(gramians, weights, strict=True):
                alone = mojd.cagrad(gramian, c)
                norms = np.sqrt(gramian.diagonal())
                assert (norms * abs(alone - together)).max() <= 1e-11 * max(1e-300, (norms * alone).max())
            assert np.array_equal(mojd.cagrad(gramians.reshape(2, 3, 6, 6), c), weights.reshape(2, 3, 6))
        assert mojd.cagrad(np.zeros((0, 3, 3))).shape == (0, 3)


class TestSpecialCases:
    def test_no_ball(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((4, 6)))
        assert mojd.cagrad(gramian, 0.0).tolist() == [0.25] * 4
        assert mojd.cagrad(np.zeros((3, 3))).tolist() == [1 / 3] * 3

    def test_a_mean_of_zero(self) -> None:
        jacobian = np.array([[3.0, 1.0], [-1.0, 2.0], [-2.0, -3.0]])
        assert weights_of(jacobian).tolist() == [1 / 3] * 3
        assert weights_of(0.1 * jacobian).tolist() == [1 / 3] * 3
        assert mojd.cagrad([[1.0, -1.0], [-1.0, 1.0]], 2.0).tolist() == [0.5, 0.5]

    def test_a_mean_below_what_the_gramian_resolves(self) -> None:
        """Near pairs that cancel up to 1e-8 leave of ‖g₀‖² = 1e-16 nothing but rounding errors."""
        for k in (2, 6, 10):
            for seed in range(6):
                gramian = stored("near_antiparallel", k, seed)
                for c in (0.5, 3.0):
                    assert cagrad_residual(mojd.cagrad(gramian, c), gramian, c) <= 1e-6

    @pytest.mark.parametrize("c", [1.0, 1.5, 4.0])
    def test_weak_stationarity_gives_the_nearest_direction_without_conflict(self, c: float) -> None:
        for jacobian in ([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [3.0, 1.0], [-1.0, 1.0]]):
            rows = np.array(jacobian)
            np.testing.assert_allclose(direction(rows, c), mojd.aggregate(rows, "dualproj"), atol=1e-14)

    def test_a_ball_that_does_not_reach_the_cone(self) -> None:
        """g₁ = 1, g₂ = -2: d = -1/2 + c/2 is as near to 0 as it gets."""
        for c in (0.0, 0.1, 0.5, 0.9):
            assert direction([[1.0], [-2.0]], c) == pytest.approx(-0.5 + c / 2, abs=1e-15)
        assert direction([[1.0], [-2.0]], 1.0) == pytest.approx(0.0, abs=1e-15)

    def test_duplicates_share(self) -> None:
        once = direction([[1.0, 2.0], [3.0, -1.0], [3.0, -1.0]])
        unique = np.array([[1.0, 2.0], [3.0, -1.0]])
        mean = np.array([7.0, 0.0]) / 3
        assert np.linalg.norm(once - mean) == pytest.approx(0.5 * np.linalg.norm(mean), rel=1e-13)
        assert np.ptp(unique @ once) <= 1e-12 or (unique @ once).min() > (unique @ mean).min()

    def test_rows_of_very_different_lengths(self) -> None:
        """Orthogonal rows 1 and 1e-12: all of the radius goes to the short one."""
        weights = mojd.cagrad(np.diag([1.0, 1e-24]))
        assert weights[0] == pytest.approx(0.5, rel=1e-6)
        assert weights[1] == pytest.approx(0.5 + 0.25e12, rel=1e-6)

    def test_single_precision(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((5, 9))).astype(np.float32)
        weights = mojd.cagrad(gramian)
        assert weights.dtype == np.float32
        assert np.array_equal(weights, mojd.cagrad(gramian.astype(float)).astype(np.float32))


class TestErrors:
    @pytest.mark.parametrize("c", [-0.1, math.nan, math.inf, True, "0.5", None])
    def test_radius(self, c: Any) -> None:
        with pytest.raises(mojd.InvalidInputError, match="c must be a finite number that is not negative"):
            mojd.cagrad(np.eye(2), c)

    def test_gramians(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match="gramian must have shape"):
            mojd.cagrad(np.ones((2, 3)))
        with pytest.raises(mojd.InvalidInputError, match="not symmetric"):
            mojd.cagrad([[1.0, 0.5], [0.0, 1.0]])
        with pytest.raises(mojd.NonFiniteError, match=r"gramian .*nan at index \(0, 0\)"):
            mojd.cagrad([[math.nan]])
        assert np.isnan(mojd.cagrad([[math.nan]], nonfinite="propagate")).all()

    def test_by_name(self) -> None:
        jacobian = np.random.default_rng(0).standard_normal((3, 5))
        np.testing.assert_allclose(
            mojd.aggregate(jacobian, "cagrad", c=0.2), direction(jacobian, 0.2), rtol=1e-12
        )
