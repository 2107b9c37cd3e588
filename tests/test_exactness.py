"""The bars of exactness: against enumeration in rational arithmetic, and other solvers at larger sizes.

Residuals and statuses on the hard families, K from 1 to 512, are in contracts/test_solver_contract.py.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd import NNQP, Status
from mojd.compare.recording import PCD_PREFIX, recorded_gramians
from tests.reference import certify, exact
from tests.reference.bounds import direction_error
from tests.reference.families import FAMILIES, Floats, linear_terms, power_of_two_scales, symmetric_gramian

EPS = float(np.finfo(np.float64).eps)
EXACT_FAMILIES = [name for name, family in FAMILIES.items() if family.exact]

METHODS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "upgrad": (mojd.upgrad, exact.upgrad),
    "dualproj": (mojd.dualproj, exact.dualproj),
    "mgda": (mojd.mgda, exact.mgda),
    "pcd": (lambda g: mojd.pcd(g, 0.25), lambda g: exact.pcd(g, 0.25).weights),
}


def assert_direction(gramian: Floats, weights: Floats, truth: list[Fraction], label: object = "") -> None:
    """Weights that nearly cancel can't be written down in float64; that is not held against them."""
    allowed = 1e-12 + 10 * exact.rounding_floor(truth, gramian)
    assert direction_error(weights, truth, gramian) <= allowed, label


def ulps(value: float, truth: Fraction) -> float:
    return float(abs(Fraction(value) - truth) / Fraction(float(np.spacing(float(truth)))))


class TestWorkedValue:
    """DESIGN, from the paper: J = [[-4, 1, 1], [6, 1, 1]] gives (10/9, 15/19)."""

    JACOBIAN = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])

    @pytest.mark.parametrize("solver", ["auto", "closed_form", "active_set", "array_api"])
    @pytest.mark.parametrize("exponent", [0, -500, 500])
    def test_to_two_ulps(self, solver: str, exponent: int) -> None:
        gramian = self.JACOBIAN @ self.JACOBIAN.T * 2.0**exponent
        first, second = mojd.upgrad(gramian, solver=solver)
        assert ulps(first, Fraction(10, 9)) <= 2
        assert ulps(second, Fraction(15, 19)) <= 2

    def test_in_a_batch_and_in_float32(self) -> None:
        gramian = self.JACOBIAN @ self.JACOBIAN.T
        weights = mojd.upgrad(np.stack([gramian] * 9))
        assert max(ulps(w, Fraction(10, 9)) for w in weights[:, 0]) <= 2
        assert max(ulps(w, Fraction(15, 19)) for w in weights[:, 1]) <= 2
        single = mojd.upgrad(gramian.astype(np.float32))
        assert single.tolist() == [float(np.float32(10 / 9)), float(np.float32(15 / 19))]

    def test_with_other_preferences(self) -> None:
        weights = mojd.upgrad(self.JACOBIAN @ self.JACOBIAN.T, [3.0, 5.0])
        truth = exact.upgrad(self.JACOBIAN @ self.JACOBIAN.T, [3, 5])
        assert max(ulps(w, t) for w, t in zip(weights, truth, strict=True)) <= 2


class TestEnumeration:
    """K <= 6, integers and other Gramians without rounding errors, of every rank."""

    @pytest.mark.parametrize("family", EXACT_FAMILIES)
    @pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6])
    def test_solutions(self, family: str, k: int) -> None:
        if k < FAMILIES[family].min_size:
            pytest.skip(f"{family} starts at K = {FAMILIES[family].min_size}")
        for seed in range(3 if k < 6 else 1):
            rng = np.random.default_rng(seed)
            sample = FAMILIES[family].sample(k, rng)
            for label, q in linear_terms(sample, rng, upgrad=4, extra=2):
                truth = exact.solve_nnqp(sample.gramian, q)
                solution = mojd.solve(NNQP(sample.gramian, q))
                assert solution.status == Status.OPTIMAL, (seed, label)
                assert truth.status == "optimal"
                x = solution.x
                condition = exact.block_condition(sample.gramian, x > 0)
                assert truth.weights_error(x) <= 100 * condition * EPS, (seed, label)
                assert_direction(sample.gramian, x, truth.x, (seed, label))
                distance = float(truth.squared_distance(x)) ** 0.5
                assert distance <= solution.direction_error_bound, (seed, label)

    @pytest.mark.parametrize("family", EXACT_FAMILIES)
    @pytest.mark.parametrize("method", METHODS)
    def test_methods(self, method: str, family: str) -> None:
        compute, reference = METHODS[method]
        for k in (2, 3, 4, 5, 6):
            if k < FAMILIES[family].min_size:
                continue
            gramian = FAMILIES[family].sample(k, np.random.default_rng(20 + k)).gramian
            weights = compute(gramian)
            assert (weights >= 0).all()
            assert_direction(gramian, weights, reference(gramian), k)

    @pytest.mark.parametrize("family", ["integers", "random_grid", "hilbert", "near_duplicates_grid"])
    def test_weights_of_methods(self, family: str) -> None:
        """Where the minimisers are unique, so are the weights, and they are as good as κ lets them be."""
        for k in (2, 3, 4, 5):
            gramian = FAMILIES[family].sample(k, np.random.default_rng(k)).gramian
            condition = exact.block_condition(gramian, [True] * k)
            assert condition < 1e15
            for compute, reference in METHODS.values():
                truth = np.array([float(w) for w in reference(gramian)])
                error = np.abs(compute(gramian) - truth).max() / np.abs(truth).max()
                assert error <= 100 * condition * EPS

    def test_projections_of_any_vector(self) -> None:
        rng = np.random.default_rng(0)
        for k in (2, 3, 5):
            for family in ("integers", "integers_rank_deficient", "antiparallel_grid"):
                gramian = FAMILIES[family].sample(k, rng).gramian
                rows = rng.integers(0, 5, (4, k)).astype(float)
                for row, v in zip(rows, mojd.project(rows, gramian), strict=True):
                    assert (v >= row).all()
                    assert_direction(gramian, v, exact.project(row, gramian), family)

    @given(data=st.data())
    def test_pcd_with_any_options(self, data: st.DataObject) -> None:
        k, n = data.draw(st.integers(2, 5), label="K"), data.draw(st.integers(1, 5), label="n")
        entries = data.draw(st.lists(st.integers(-3, 3), min_size=k * n, max_size=k * n), label="J")
        gramian = mojd.gramian(np.array(entries, float).reshape(k, n))
        eighths = st.lists(st.integers(0, 8), min_size=k - 1, max_size=k - 1)
        tau = np.array(data.draw(eighths, label="8 tau")) / 8
        exponents = data.draw(st.lists(st.integers(-8, 8), min_size=k, max_size=k), label="log2 scales")
        scales = 2.0 ** np.array(exponents)
        truth = exact.pcd(gramian, tau, scales)
        solution = mojd.solve(mojd.pcd_problem(gramian, tau, scales=scales))
        assert (solution.status == Status.OPTIMAL) == truth.feasible
        if not truth.feasible:
            assert certify.is_ray(gramian[1:, 1:], solution.problem.linear, solution.ray)
        assert_direction(gramian, mojd.pcd(gramian, tau, scales=scales), truth.weights)


class TestScaling:
    """For D of powers of two, (DGD, Dq) has D⁻¹ times the solution of (G, q), bit for bit."""

    @pytest.mark.parametrize(
        "family", ["random", "rank_half", "integers_rank_deficient", "clustered", "ties"]
    )
    def test_auto(self, family: str) -> None:
        for k in (1, 2, 3, 4, 10, 40):
            if k < FAMILIES[family].min_size:
                continue
            rng = np.random.default_rng(k)
            gramian = FAMILIES[family].sample(k, rng).gramian
            scale = power_of_two_scales(k, rng, span=100)
            scaled = gramian * scale[:, None] * scale
            for q in (gramian[0], gramian @ rng.integers(-3, 4, k)):
                plain = mojd.solve(NNQP(gramian, q))
                other = mojd.solve(NNQP(scaled, q * scale))
                assert other.status == plain.status
                assert np.array_equal(other.x, plain.x / scale, equal_nan=True)

    @pytest.mark.parametrize("k", [2, 3, 4, 10, 33])
    def test_upgrad_is_linear_under_scaling_of_a_row(self, k: int) -> None:
        """w_D = D⁻¹ Σ D_i v_i: with the preference D in G's units, both are the same projections."""
        rng = np.random.default_rng(k)
        gramian = symmetric_gramian(rng.standard_normal((k, k)))
        scale = power_of_two_scales(k, rng, span=60)
        scaled = mojd.upgrad(gramian * scale[:, None] * scale, np.ones(k))
        assert np.array_equal(scaled * scale, mojd.upgrad(gramian, scale))

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("exponent", [-900, -300, -2, 2, 300, 900])
    def test_weights_do_not_depend_on_the_units_of_all_losses(self, method: str, exponent: int) -> None:
        compute, _ = METHODS[method]
        for k in (2, 3, 4, 12):
            gramian = symmetric_gramian(np.random.default_rng(k).standard_normal((k, k + 1)))
            assert np.array_equal(compute(gramian * 2.0**exponent), compute(gramian))

    def test_no_bit_of_a_tiny_gramian_is_lost(self) -> None:
        """TorchJD takes every trace below 1e-4 for zero; exactness has no such threshold."""
        jacobian = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
        for factor in (1e-2, 1e-80, 1e80):
            weights = mojd.upgrad(mojd.gramian(factor * jacobian))
            np.testing.assert_allclose(weights, [10 / 9, 15 / 19], rtol=1e-14)


class TestLargerSizes:
    """Other solvers know nothing of ours; their own certificates say how far they can be trusted."""

    @pytest.mark.parametrize(("k", "n"), [(12, 24), (40, 30)])
    def test_against_clarabel(self, k: int, n: int) -> None:
        cvxpy: Any = pytest.importorskip("cvxpy")
        rng = np.random.default_rng(k)
        jacobian = rng.standard_normal((k, n))
        gramian = symmetric_gramian(jacobian)
        settings = {"solver": "CLARABEL", "tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
        d = cvxpy.Variable(n)
        primary = [jacobian[1:] @ d >= 0.1 * np.diagonal(gramian)[1:]]
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(d - jacobian[0])), primary).solve(**settings)
        if k < n:
            assert jacobian.T @ mojd.pcd(gramian, 0.1) == pytest.approx(d.value, abs=1e-6)
        cvxpy.Problem(
            cvxpy.Minimize(cvxpy.sum_squares(d - jacobian.mean(axis=0))), [jacobian @ d >= 0]
        ).solve(**settings)
        assert jacobian.T @ mojd.dualproj(gramian) == pytest.approx(d.value, abs=1e-6)
        w = cvxpy.Variable(k)
        hull = [w >= 0, cvxpy.sum(w) == 1]
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(jacobian.T @ w)), hull).solve(**settings)
        assert jacobian.T @ mojd.mgda(gramian) == pytest.approx(jacobian.T @ w.value, abs=1e-6)

    @pytest.mark.parametrize(("k", "n"), [(20, 40), (60, 30)])
    def test_upgrad_against_osqp(self, k: int, n: int) -> None:
        pytest.importorskip("osqp")
        jacobian = np.random.default_rng(k).standard_normal((k, n))
        gramian = symmetric_gramian(jacobian)
        problem = mojd.upgrad_problem(gramian)
        other = mojd.solve(problem, "osqp")
        sound = other.status == Status.OPTIMAL
        assert sound.sum() >= k // 2
        ours = mojd.solve(problem)
        np.testing.assert_allclose((ours.x @ jacobian)[sound], (other.x @ jacobian)[sound], atol=1e-5)

    def test_upgrad_at_a_strongly_stationary_point_goes_nowhere(self) -> None:
        """n < K/2 random directions surround the origin: the dual cone is {0}."""
        jacobian = np.random.default_rng(0).standard_normal((64, 12))
        direction = jacobian.T @ mojd.upgrad(mojd.gramian(jacobian))
        assert np.abs(direction).max() <= 1e-9

    @pytest.mark.parametrize("k", [16, 64, 200])
    def test_upgrad_meets_the_conditions_of_the_paper(self, k: int) -> None:
        """For every projection v of u: u <= v, Gv >= 0 and u'Gv = v'Gv (Proposition 1)."""
        gramian = symmetric_gramian(np.random.default_rng(k).standard_normal((k, 2 * k)))
        rows = np.eye(k)[:: max(1, k // 8)]
        for u, v in zip(rows, mojd.project(rows, gramian), strict=True):
            products = gramian @ v
            assert (v >= u).all()
            assert products.min() >= -1e-11 * k
            assert u @ products == pytest.approx(v @ products, rel=1e-10)


class TestRecordedGramians:
    """Real training: one objective per example, several tasks, losses 1e6 apart."""

    @pytest.mark.parametrize("name", recorded_gramians())
    def test_certificates(self, name: str) -> None:
        for gramian in recorded_gramians()[name]:
            problem = (
                mojd.pcd_problem(gramian) if name.startswith(PCD_PREFIX) else mojd.upgrad_problem(gramian)
            )
            solution = mojd.solve(problem)
            status, residual = np.asarray(solution.status), np.asarray(solution.kkt_residual)
            assert (status == Status.OPTIMAL).all()
            assert residual.max() <= 1e-9
            assert np.median(residual) <= 1e-12

    @pytest.mark.parametrize(
        "name", ["digits-mlp-32-late", "digits-mlp-256-late", "physics-4", "multitask-4"]
    )
    def test_residuals_are_what_they_are_said_to_be(self, name: str) -> None:
        """The certificate against exact sums, on the columns where it is largest."""
        gramian = recorded_gramians()[name][-1]
        solution = mojd.solve(mojd.upgrad_problem(gramian))
        for i in np.argsort(solution.kkt_residual)[-3:]:
            truth = certify.kkt_residual(gramian, solution.problem.linear[i], solution.x[i])
            assert solution.kkt_residual[i] == pytest.approx(truth, rel=1e-6, abs=1e-16)

    @pytest.mark.parametrize("name", ["digits-mlp-128-late", "digits-mlp-256-late"])
    def test_directions_oppose_no_gradient(self, name: str) -> None:
        """What a ridge of 1e-4 breaks for 90 of 256 gradients."""
        for gramian in recorded_gramians()[name]:
            weights = mojd.upgrad(gramian)
            products = gramian @ weights / np.sqrt(np.diagonal(gramian))
            length = float(weights @ gramian @ weights) ** 0.5
            assert products.min() >= -1e-8 * length
