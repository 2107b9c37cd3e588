"""PCD: values of the paper, closed forms, Algorithm 1's fallbacks, rescaling and normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd import Status
from tests.reference import certify, exact
from tests.reference.families import FAMILIES, Floats, symmetric_gramian

ANGLE = math.radians(150)
PAPER = np.array([[1.0, 0.0], [math.cos(ANGLE), math.sin(ANGLE)]])


def pcd_of(jacobian: Floats, *args: Any, **options: Any) -> Any:
    """The direction."""
    return jacobian.T @ mojd.pcd(symmetric_gramian(jacobian), *args, **options)


class TestWorkedValues:
    @pytest.mark.parametrize(
        ("tau", "expected"), [(0.0, (0.25, 0.4330)), (0.3, (-0.0098, 0.5830)), (0.7, (-0.3562, 0.7830))]
    )
    @pytest.mark.parametrize("solver", ["auto", "closed_form", "active_set", "array_api"])
    def test_values_of_the_paper(self, tau: float, expected: tuple[float, float], solver: str) -> None:
        np.testing.assert_allclose(pcd_of(PAPER, tau, solver=solver), expected, atol=5e-5)

    @pytest.mark.parametrize("tau", [0.0, 0.02, 0.5, 1.0])
    def test_two_objectives(self, tau: float) -> None:
        """μ = max(0, τ − g₂·g₁ / ‖g₂‖²)."""
        rng = np.random.default_rng(0)
        for _ in range(30):
            gramian = symmetric_gramian(rng.standard_normal((2, 4)))
            expected = max(0.0, tau - gramian[1, 0] / gramian[1, 1])
            np.testing.assert_allclose(mojd.pcd(gramian, tau), [1.0, expected], rtol=1e-13, atol=1e-15)

    def test_three_objectives(self) -> None:
        """The paper's closed form: try none, {2}, {3} and both."""
        rng = np.random.default_rng(1)
        seen = set()
        for _ in range(60):
            gramian, tau = symmetric_gramian(rng.standard_normal((3, 4))), float(rng.uniform())
            n2, n3, c = gramian[1, 1], gramian[2, 2], gramian[1, 2]
            b2, b3 = tau * n2 - gramian[1, 0], tau * n3 - gramian[2, 0]
            delta = n2 * n3 - c * c
            if b2 <= 0 and b3 <= 0:
                mu = (0.0, 0.0)
            elif b2 > 0 and c * b2 / n2 >= b3:
                mu = (b2 / n2, 0.0)
            elif b3 > 0 and c * b3 / n3 >= b2:
                mu = (0.0, b3 / n3)
            else:
                mu = ((n3 * b2 - c * b3) / delta, (n2 * b3 - c * b2) / delta)
            seen.add((mu[0] > 0, mu[1] > 0))
            np.testing.assert_allclose(mojd.pcd(gramian, tau), [1.0, *mu], rtol=1e-10, atol=1e-12)
        assert len(seen) == 4

    def test_one_objective(self) -> None:
        assert mojd.pcd([[4.0]]).tolist() == [1.0]
        assert mojd.pcd([[4.0]], scales=[0.5]).tolist() == [0.5]
        assert mojd.pcd([[4.0]], scales=[0.5], rescale=True).tolist() == [1.0]
        assert mojd.pcd([[0.0]], rescale=True).tolist() == [0.0]
        assert mojd.pcd(np.ones((5, 1, 1))).tolist() == [[1.0]] * 5

    def test_no_conflict_leaves_the_primary_alone(self) -> None:
        for k in (2, 3, 4, 9):
            gramian = np.full((k, k), 0.5) + 0.5 * np.eye(k)
            assert mojd.pcd(gramian, 0.5).tolist() == [1.0] + [0.0] * (k - 1)

    def test_the_problem(self) -> None:
        problem = mojd.pcd_problem([[1.0, -0.5], [-0.5, 4.0]], tau=0.25)
        assert problem.gramian.tolist() == [[4.0]]
        assert problem.linear.tolist() == [-1.5]
        scaled = mojd.pcd_problem([[1.0, -0.5], [-0.5, 4.0]], tau=0.25, scales=[2.0, 0.5])
        assert scaled.gramian.tolist() == [[4.0]]
        assert scaled.linear.tolist() == [2.0 * -0.5 - 0.25 * 0.5 * 4.0]


class TestConstraints:
    @given(
        k=st.integers(2, 7),
        n=st.integers(1, 9),
        seed=st.integers(0, 2**32 - 1),
        spread=st.floats(0, 6),
    )
    def test_every_secondary_gets_its_progress(self, k: int, n: int, seed: int, spread: float) -> None:
        """Feasible: g_j·d >= τ_j‖g_j‖², with equality where μ_j > 0. Infeasible: a ray says so."""
        rng = np.random.default_rng(seed)
        norms = 10.0 ** (spread * rng.uniform(-0.5, 0.5, k))
        gramian = symmetric_gramian(rng.standard_normal((k, n)) * norms[:, None])
        tau = rng.uniform(0, 1, k - 1)
        scales = rng.uniform(0.5, 2.0, k) / norms
        weights = mojd.pcd(gramian, tau, scales=scales)
        assert weights[0] == scales[0]
        assert (weights >= 0).all()
        solution = mojd.solve(mojd.pcd_problem(gramian, tau, scales=scales))
        if solution.status == Status.INFEASIBLE:
            assert certify.is_ray(gramian[1:, 1:], solution.problem.linear, solution.ray, tolerance=1e-6)
            assert weights.tolist() == [scales[0]] + [0.0] * (k - 1)
            return
        normalised = gramian * scales[:, None] * scales
        multipliers = weights / scales
        slack = (normalised @ multipliers)[1:] - tau * np.diagonal(normalised)[1:]
        size = float(multipliers @ np.sqrt(np.diagonal(normalised)))
        lengths = np.sqrt(np.diagonal(normalised))[1:]
        assert (slack >= -1e-7 * lengths * size).all()
        assert (np.minimum(slack, multipliers[1:]) <= 1e-7 * lengths * size).all()

    def test_a_threshold_for_each(self) -> None:
        jacobian = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
        np.testing.assert_allclose(pcd_of(jacobian, [0.25, 0.5]), [1.0, 0.25, 1.0], rtol=1e-15)

    def test_thresholds_of_a_batch(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(2).standard_normal((4, 6)))
        tau = np.random.default_rng(3).uniform(0, 1, (5, 3))
        scales = np.random.default_rng(4).uniform(0.5, 2, (5, 4))
        together = mojd.pcd(gramian, tau, scales=scales, rescale=True)
        assert together.shape == (5, 4)
        for i in range(5):
            alone = mojd.pcd(gramian, tau[i], scales=scales[i], rescale=True)
            np.testing.assert_allclose(together[i], alone, rtol=1e-12)
        many = mojd.pcd(np.stack([gramian] * 5), 0.3, scales=scales[0])
        np.testing.assert_allclose(many, [mojd.pcd(gramian, 0.3, scales=scales[0])] * 5, rtol=1e-13)

    @pytest.mark.parametrize("threads", [1, 2, 5])
    @pytest.mark.parametrize("own_scales", [False, True], ids=["shared scales", "own scales"])
    @pytest.mark.parametrize("own_tau", [False, True], ids=["shared tau", "own tau"])
    @pytest.mark.parametrize("k", [2, 3, 5])
    def test_every_gramian_keeps_its_own_options(
        self, k: int, own_tau: bool, own_scales: bool, threads: int
    ) -> None:
        """In pieces for threads, and where some come back: zero rows, and constraints that contradict."""
        rng = np.random.default_rng(k)
        jacobians = rng.integers(-9, 10, (9, k, 2 * k)).astype(float)
        jacobians[[2, 5, 6], -1] = jacobians[[2, 5, 6], -2] * [[2.0], [-3.0], [1.0]]
        jacobians[[3, 8], 0] = -jacobians[[3, 8], -1]
        jacobians[4, 0] = 0.0
        gramians = np.stack([symmetric_gramian(jacobian) for jacobian in jacobians])
        tau = rng.integers(1, 9, (9, k - 1) if own_tau else k - 1) / 8
        scales = 2.0 ** rng.integers(-3, 4, (9, k) if own_scales else k)
        weights = mojd.pcd(gramians, tau, scales=scales, threads=threads)
        taus, sizes = np.broadcast_to(tau, (9, k - 1)), np.broadcast_to(scales, (9, k))
        seen = set()
        for gramian, t, s, w in zip(gramians, taus, sizes, weights, strict=True):
            truth = exact.pcd(gramian, t, s)
            seen.add(truth.feasible)
            assert w[0] == s[0]
            floor = exact.rounding_floor(truth.weights, gramian)
            assert exact.direction_error(w, truth.weights, gramian) <= 1e-12 + 10 * floor
        assert seen == ({True} if k == 2 else {True, False})
        rescaled = mojd.pcd(gramians, tau, scales=scales, rescale=True, threads=threads)
        for gramian, w, r in zip(gramians, weights, rescaled, strict=True):
            length = float(w @ gramian @ w) ** 0.5
            np.testing.assert_allclose(r, w * (gramian[0, 0] ** 0.5 / length), rtol=1e-12)

    @pytest.mark.parametrize("k", [32, 33, 34, 40])
    def test_on_both_sides_of_the_largest_tableau(self, k: int) -> None:
        """Alone and in a batch: weights meet the conditions of their problem, whoever solves it."""
        gramians = np.stack(
            [symmetric_gramian(np.random.default_rng(i).standard_normal((k, 2 * k))) for i in range(3)]
        )
        together = mojd.pcd(gramians, 0.3)
        for gramian, weights in zip(gramians, together, strict=True):
            problem = mojd.pcd_problem(gramian, 0.3)
            for w in (weights, mojd.pcd(gramian, 0.3)):
                assert w[0] == 1.0
                assert (w[1:] > 0).sum() >= k // 4
                assert certify.kkt_residual(problem.gramian, problem.linear, w[1:]) <= 1e-13

    @pytest.mark.parametrize("tau", [0, 1, np.float64(0.5), np.float32(0.5), np.array(0.25), np.int64(1)])
    def test_numbers_of_any_kind(self, tau: Any) -> None:
        gramian = symmetric_gramian(np.random.default_rng(2).standard_normal((3, 6)))
        assert np.array_equal(mojd.pcd(gramian, tau), mojd.pcd(gramian, float(tau)))


class TestInfeasible:
    """Algorithm 1 drops the constraints for such a step."""

    @pytest.mark.parametrize("solver", ["auto", "active_set", "array_api", "scipy_nnls"])
    def test_opposite_secondaries(self, solver: str) -> None:
        jacobian = np.array([[1.0, 2.0], [0.0, 1.0], [0.0, -3.0]])
        gramian = symmetric_gramian(jacobian)
        assert mojd.pcd(gramian, 0.1, solver=solver).tolist() == [1.0, 0.0, 0.0]
        assert mojd.pcd(gramian, 0.1, scales=[2.0, 1.0, 1.0], solver=solver).tolist() == [2.0, 0.0, 0.0]
        assert mojd.pcd(gramian, 0.1, rescale=True, solver=solver).tolist() == [1.0, 0.0, 0.0]
        assert mojd.solve(mojd.pcd_problem(gramian, 0.1), solver).status == Status.INFEASIBLE

    def test_opposite_secondaries_without_a_threshold_are_feasible(self) -> None:
        """d orthogonal to both."""
        jacobian = np.array([[1.0, 2.0], [0.0, 1.0], [0.0, -3.0]])
        np.testing.assert_allclose(pcd_of(jacobian, 0.0), [1.0, 0.0], atol=1e-14)
        status = mojd.solve(mojd.pcd_problem(symmetric_gramian(jacobian), 0.0)).status
        assert status == Status.OPTIMAL

    @pytest.mark.parametrize("k", [3, 4, 5, 6, 10])
    def test_secondaries_that_cancel(self, k: int) -> None:
        rng = np.random.default_rng(k)
        for _ in range(10):
            jacobian = rng.integers(-9, 10, (k, 2 * k)).astype(float)
            jacobian[-1] = -(rng.integers(1, 4, k - 2) @ jacobian[1:-1])
            gramian = symmetric_gramian(jacobian)
            solution = mojd.solve(mojd.pcd_problem(gramian, 0.02))
            assert solution.status == Status.INFEASIBLE
            assert certify.is_ray(gramian[1:, 1:], solution.problem.linear, solution.ray)
            assert mojd.pcd(gramian).tolist() == [1.0] + [0.0] * (k - 1)

    def test_in_a_batch_next_to_feasible_ones(self) -> None:
        infeasible = symmetric_gramian(np.array([[1.0, 2.0], [0.0, 1.0], [0.0, -3.0]]))
        feasible = symmetric_gramian(np.array([[1.0, 2.0], [0.0, -1.0], [1.0, -3.0]]))
        weights = mojd.pcd(np.stack([feasible, infeasible] * 5), 0.5)
        np.testing.assert_allclose(weights[::2], [mojd.pcd(feasible, 0.5)] * 5, rtol=1e-13)
        assert weights[1::2].tolist() == [[1.0, 0.0, 0.0]] * 5

    def test_nothing_is_asked_of_a_zero_gradient(self) -> None:
        """0 >= τ·0 holds."""
        for k in (2, 3, 5):
            gramian = np.zeros((k, k))
            gramian[0, 0] = 4.0
            assert mojd.pcd(gramian, 0.5).tolist() == [1.0] + [0.0] * (k - 1)

    @pytest.mark.parametrize("k", [3, 4, 40])
    def test_nothing_is_asked_of_a_gradient_whose_square_underflows(self, k: int) -> None:
        """Its products with others may be left; they must not make the problem infeasible."""
        gramian = np.zeros((k, k), dtype=np.float32)
        gramian[:-1, :-1] = symmetric_gramian(np.random.default_rng(k).standard_normal((k - 1, 2 * k)))
        gramian[0, -1] = gramian[-1, 0] = -1e-22
        weights = mojd.pcd(gramian, 0.3)
        assert weights[-1] == 0.0
        np.testing.assert_allclose(weights[:-1], mojd.pcd(gramian[:-1, :-1], 0.3), rtol=1e-5)

    @pytest.mark.parametrize("k", [4, 9, 33, 34])
    def test_gradients_that_float32_makes_dependent(self, k: int) -> None:
        """Rounding leaves pivots of 1e-7 on dependent rows; weights must not follow them."""
        jacobian = np.random.default_rng(k).standard_normal((k, 3)).astype(np.float32)
        single = jacobian @ jacobian.T
        weights = mojd.pcd(single, 0.0)
        assert np.abs(weights).max() < 1e3
        double = jacobian.astype(float)
        expected = double.T @ mojd.pcd(symmetric_gramian(double), 0.0)
        assert np.linalg.norm(double.T @ weights - expected) <= 1e-3 * np.linalg.norm(double[0])

    def test_synthetic_feasibility(self) -> None:
        """The paper found none of 1785 synthetic problems infeasible: n > K gradients in general position."""
        rng = np.random.default_rng(0)
        for k in (2, 3, 5, 8):
            gramians = np.stack([symmetric_gramian(rng.standard_normal((k, 4 * k))) for _ in range(100)])
            status = mojd.solve(mojd.pcd_problem(gramians, 0.3)).status
            assert (status == Status.OPTIMAL).all()


class TestRescaling:
    @pytest.mark.parametrize("k", [2, 3, 4, 8])
    def test_d_has_the_norm_of_the_primary(self, k: int) -> None:
        rng = np.random.default_rng(k)
        for scales in (None, rng.uniform(0.1, 10, k)):
            jacobian = rng.standard_normal((k, 2 * k))
            raw = pcd_of(jacobian, 0.3, scales=scales)
            rescaled = pcd_of(jacobian, 0.3, scales=scales, rescale=True)
            length = np.linalg.norm(jacobian[0])
            np.testing.assert_allclose(rescaled, raw / np.linalg.norm(raw) * length, rtol=1e-12)

    @pytest.mark.parametrize("k", [2, 3, 5])
    def test_no_direction_stays_none(self, k: int) -> None:
        """g₂ = −g₁ and τ = 0: d = 0 exactly, and is not blown up to the primary's norm."""
        jacobian = np.random.default_rng(k).integers(-9, 10, (k, 2 * k)).astype(float)
        jacobian[1] = -2.0 * jacobian[0]
        jacobian[2:] = 0.0
        gramian = symmetric_gramian(jacobian)
        assert np.abs(jacobian.T @ mojd.pcd(gramian, 0.0)).max() == 0.0
        assert mojd.pcd(gramian, 0.0, rescale=True).tolist() == [0.0] * k

    def test_a_direction_that_vanishes_to_rounding_stays_none(self) -> None:
        jacobian = np.array([[0.1, 0.7, 1.3], [-0.3, -2.1, -3.9]])
        weights = mojd.pcd(symmetric_gramian(jacobian), 0.0, rescale=True)
        assert weights.tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("k", [2, 3, 4, 7])
    def test_a_zero_primary_halts(self, k: int) -> None:
        """g₁ = 0 is Algorithm 1's stop; without rescaling, the secondaries still get their progress."""
        jacobian = np.random.default_rng(k).standard_normal((k, 2 * k))
        jacobian[0] = 0.0
        gramian = symmetric_gramian(jacobian)
        assert mojd.pcd(gramian, 0.3, rescale=True).tolist() == [0.0] * k
        batch = mojd.pcd(np.stack([gramian] * 3), 0.3, rescale=True)
        assert batch.tolist() == [[0.0] * k] * 3
        weights = mojd.pcd(gramian, 0.3)
        assert ((gramian @ weights)[1:] >= 0.3 * np.diagonal(gramian)[1:] - 1e-12).all()

    @pytest.mark.parametrize("exponent", [-150, -40, 40, 150])
    def test_of_any_size(self, exponent: int) -> None:
        jacobian = 2.0**exponent * PAPER
        rescaled = pcd_of(jacobian, 0.3, rescale=True)
        np.testing.assert_allclose(rescaled, 2.0**exponent * pcd_of(PAPER, 0.3, rescale=True), rtol=1e-14)

    @pytest.mark.parametrize("solver", ["active_set", "array_api", "scipy_nnls"])
    def test_with_any_solver(self, solver: str) -> None:
        for k in (2, 3, 6):
            gramian = symmetric_gramian(np.random.default_rng(k).standard_normal((k, 9)))
            expected = mojd.pcd(gramian, 0.3, rescale=True)
            np.testing.assert_allclose(
                mojd.pcd(gramian, 0.3, rescale=True, solver=solver), expected, rtol=1e-9
            )


class TestScales:
    @pytest.mark.parametrize("k", [2, 3, 4, 6])
    def test_scales_are_those_of_the_rows(self, k: int) -> None:
        """Weights are for the raw gradients: S·(1, μ) on G is (1, μ) on S·G·S."""
        rng = np.random.default_rng(k)
        gramian, scales = symmetric_gramian(rng.standard_normal((k, k + 1))), 2.0 ** rng.integers(-9, 10, k)
        expected = scales * mojd.pcd(gramian * scales[:, None] * scales, 0.4)
        np.testing.assert_allclose(mojd.pcd(gramian, 0.4, scales=scales), expected, rtol=1e-12, atol=1e-14)

    def test_rounded_scales_keep_exact_dependencies(self) -> None:
        """g₃ = −3·g₂: infeasible, whatever the scales are. Scaling G by rounded numbers would hide it."""
        rng = np.random.default_rng(0)
        for _ in range(20):
            jacobian = rng.integers(-9, 10, (3, 5)).astype(float)
            jacobian[2] = -3.0 * jacobian[1]
            gramian = symmetric_gramian(jacobian)
            scales = 1 / np.sqrt(np.diagonal(gramian) + 1e-8) * rng.uniform(0.9, 1.1, 3)
            truth = exact.pcd(gramian, 0.02, scales)
            assert not truth.feasible
            solution = mojd.solve(mojd.pcd_problem(gramian, 0.02, scales=scales))
            assert solution.status == Status.INFEASIBLE
            assert mojd.pcd(gramian, 0.02, scales=scales).tolist() == [scales[0], 0.0, 0.0]

    def test_a_scale_of_zero_leaves_an_objective_out(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((3, 5)))
        weights = mojd.pcd(gramian, 0.5, scales=[0.0, 0.0, 0.0])
        assert weights.tolist() == [0.0, 0.0, 0.0]

    @pytest.mark.parametrize("k", [2, 3, 6])
    def test_scales_of_any_layout(self, k: int) -> None:
        """Kernels read plain arrays as they lie in memory; all others must be copied first."""
        rng = np.random.default_rng(k)
        gramian, scales = symmetric_gramian(rng.standard_normal((k, k + 1))), 2.0 ** rng.integers(-9, 10, k)
        expected = mojd.pcd(gramian, 0.4, scales=scales)
        spread = np.repeat(scales, 2)
        spread[1::2] = np.nan
        read_only = scales.copy()
        read_only.flags.writeable = False
        single, backwards = scales.astype(np.float32), scales[::-1].copy()[::-1]
        for given_scales in (spread[::2], read_only, single, backwards, scales.tolist()):
            np.testing.assert_allclose(mojd.pcd(gramian, 0.4, scales=given_scales), expected, rtol=1e-13)

    @pytest.mark.parametrize(
        ("bad", "error"),
        [(-1.0, mojd.InvalidInputError), (np.nan, mojd.NonFiniteError), (np.inf, mojd.NonFiniteError)],
    )
    @pytest.mark.parametrize("k", [2, 3, 5])
    def test_plain_arrays_are_looked_at_too(self, k: int, bad: float, error: type[Exception]) -> None:
        """They go to the kernels as they are, which must notice what can be no scale."""
        gramian, scales = symmetric_gramian(np.random.default_rng(k).standard_normal((k, k + 1))), np.ones(k)
        for i in range(k):
            spoilt = scales.copy()
            spoilt[i] = bad
            with pytest.raises(error, match=rf"scales .*{bad}.*\({i},\)"):
                mojd.pcd(gramian, 0.4, scales=spoilt)

    @pytest.mark.parametrize("exponent", [-900, -600, 600, 900])
    @pytest.mark.parametrize("k", [2, 3, 4])
    def test_scales_of_any_size(self, k: int, exponent: int) -> None:
        """Weights are proportional to the scales, and formulas must notice where they overflow."""
        jacobian = np.random.default_rng(k).standard_normal((k, 2 * k))
        jacobian[1:] -= 0.5 * jacobian[0]
        for size in (2.0**-30, 1.0, 2.0**30):
            gramian = symmetric_gramian(size * jacobian)
            expected = mojd.pcd(gramian, 0.3)
            assert (expected[1:] > 0).any()
            weights = mojd.pcd(gramian, 0.3, scales=np.full(k, 2.0**exponent))
            np.testing.assert_allclose(np.ldexp(weights, -exponent), expected, rtol=1e-13)

    def test_algorithm_1(self) -> None:
        """EMA → QP → rescale, as a training loop would call it."""
        rng = np.random.default_rng(0)
        state, v = mojd.init_normaliser(3), np.zeros(3)
        for step in range(1, 6):
            jacobian = rng.standard_normal((3, 8)) * [[1.0], [1e3], [1e-4]]
            gramian = symmetric_gramian(jacobian)
            scales, state = mojd.normalise(state, gramian)
            v = 0.999 * v + 0.001 * np.diagonal(gramian)
            s = 1 / np.sqrt(v / (1 - 0.999**step) + 1e-8)
            np.testing.assert_allclose(scales, s, rtol=1e-9)
            d = jacobian.T @ mojd.pcd(gramian, 0.3, scales=scales, rescale=True)
            truth = exact.pcd(gramian, 0.3, scales)
            expected = jacobian.T @ np.array([float(w) for w in truth.weights])
            expected *= np.linalg.norm(jacobian[0]) / np.linalg.norm(expected)
            np.testing.assert_allclose(d, expected, rtol=1e-9)


class TestToy:
    """Figure 1 of the paper: from its three starts, PCD ends at (2, 0), where symmetric methods stall."""

    @staticmethod
    def jacobian(theta: Floats) -> Floats:
        away = theta - [2.0, 0.0]
        distance = float(np.linalg.norm(away))
        primary = [2.0 * theta[0] * (theta[0] ** 2 - 4.0) / 2.0, theta[1]]
        secondary = away / distance if distance > 0.5 else np.zeros(2)
        return np.array([primary, secondary])

    @pytest.mark.parametrize("start", [(-2.55, 0.40), (-2.90, 0.12), (-1.65, -0.55)])
    def test_pcd_reaches_the_good_minimum(self, start: tuple[float, float]) -> None:
        theta, state = np.array(start), mojd.init_normaliser(2)
        first, second = np.zeros(2), np.zeros(2)
        for step in range(1, 3001):
            jacobian = self.jacobian(theta)
            gramian = symmetric_gramian(jacobian)
            scales, state = mojd.normalise(state, gramian)
            d = jacobian.T @ mojd.pcd(gramian, 0.3, scales=scales, rescale=True)
            first = 0.9 * first + 0.1 * d
            second = 0.999 * second + 0.001 * d * d
            theta = theta - 0.01 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(theta, [2.0, 0.0], atol=0.05)


def test_all_families_have_a_true_status() -> None:
    """Statuses on the exact families, against enumeration."""
    for name, family in FAMILIES.items():
        if not family.exact:
            continue
        for k in (3, 4, 5):
            if k < family.min_size:
                continue
            gramian = family.sample(k, np.random.default_rng(50 + k)).gramian
            status = mojd.solve(mojd.pcd_problem(gramian, 0.25)).status
            expected = Status.OPTIMAL if exact.pcd(gramian, 0.25).feasible else Status.INFEASIBLE
            assert status == expected, (name, k)
