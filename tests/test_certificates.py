"""The certificates against exact arithmetic: residuals and gaps are right, bounds are bounds."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd import NNQP, Solution, Status
from mojd import certificates as ce
from tests.reference import certify, exact
from tests.reference.bounds import stored_gramian
from tests.reference.families import FAMILIES, Floats, linear_terms, power_of_two_scales, symmetric_gramian

EXACT_FAMILIES = [name for name, family in FAMILIES.items() if family.exact]


def certified(gramian: Floats, linear: Floats, x: Floats) -> Solution:
    """A solution for one problem and a point that no solver has found."""
    return Solution(NNQP(gramian, linear), np.ascontiguousarray(x), int(Status.OPTIMAL), 0)


def equilibrated(gramian: Floats, linear: Floats, x: Floats) -> ce.Equilibrated:
    return ce.equilibrate(np, gramian[None], linear[None, None], x[None, None])


def true_distance(truth: exact.ExactSolution, x: Floats) -> float:
    return math.sqrt(float(truth.squared_distance(x)))


class TestPowersOfTwo:
    @pytest.mark.parametrize("exponent", [-1022, -537, -1, 0, 1, 52, 1023])
    def test_power_of_two(self, exponent: int) -> None:
        power = 2.0**exponent
        assert ce.power_of_two(np, np.array([power, 1.1 * power, 1.9 * power])).tolist() == [power] * 3

    def test_what_has_none(self) -> None:
        values = np.array([0.0, -1.0, np.nan, np.inf, -np.inf])
        with np.errstate(all="ignore"):
            assert ce.power_of_two(np, values).tolist() == [1.0] * 5

    @pytest.mark.parametrize("family", ["random", "row_scales", "zero_rows", "random_tiny", "random_huge"])
    def test_equilibration_is_exact(self, family: str) -> None:
        rng = np.random.default_rng(0)
        gramian = FAMILIES[family].sample(6, rng).gramian
        linear, x = gramian @ np.ones(6), np.abs(rng.standard_normal(6))
        scaled = equilibrated(gramian, linear, x)
        diagonal = np.diagonal(scaled.gramian[0])
        assert ((diagonal == 0) | ((diagonal >= 0.25) & (diagonal < 4))).all()
        largest = np.abs(scaled.linear).max()
        assert largest == 0 or 1 <= largest < 2
        assert (np.frexp(scaled.scale)[0] == 0.5).all()
        scale, magnitude = scaled.scale[0], scaled.magnitude[0, 0]
        assert np.array_equal(scaled.gramian[0] / scale[:, None] / scale, gramian)
        assert np.array_equal(scaled.linear[0, 0] * magnitude / scale, linear)
        assert np.array_equal(scaled.x[0, 0] * magnitude * scale, x)


class TestSlack:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_against_exact_sums(self, family: str) -> None:
        """Where G·x cancels q to the last bit, a slack in float64 would be all noise."""
        for k in (3, 8, 33):
            if k < FAMILIES[family].min_size:
                continue
            rng = np.random.default_rng(k)
            sample = FAMILIES[family].sample(k, rng)
            for _, q in linear_terms(sample, rng, upgrad=1, extra=1):
                x = mojd.solve(NNQP(stored_gramian(family, sample), q), "scipy_nnls").x_float64
                if not np.isfinite(x).all():
                    continue
                scaled = equilibrated(sample.gramian, q, x)
                slack = ce.accurate_slack(np, scaled)[0, 0]
                truth = certify.exact_slack(scaled.gramian[0], scaled.linear[0, 0], scaled.x[0, 0])
                dropped = 2 * ce.DROPPED * k * float(np.abs(scaled.x).max())
                for value, s in zip(slack.tolist(), truth, strict=True):
                    assert abs(Fraction(value) - s) <= Fraction(dropped) + abs(s) / 2**52

    def test_slack_of_a_solution_is_in_the_units_of_the_problem(self) -> None:
        gramian = np.array([[2.0, 1e-3], [1e-3, 3e-6]])
        solution = certified(gramian, np.array([-1.0, 1e-4]), np.array([0.4, 7.0]))
        truth = [float(s) for s in certify.exact_slack(gramian, [-1.0, 1e-4], [0.4, 7.0])]
        np.testing.assert_allclose(solution.slack, truth, rtol=1e-15)

    def test_the_last_bits_of_long_sums(self) -> None:
        """K = 600 products of 53 random bits each, which cancel to a 1e-15th."""
        rng = np.random.default_rng(0)
        gramian = symmetric_gramian(rng.standard_normal((600, 700)))
        x = np.abs(rng.standard_normal(600))
        q = -(gramian @ x)
        scaled = equilibrated(gramian, q, x)
        slack = ce.accurate_slack(np, scaled)[0, 0]
        rows = rng.permutation(600)[:20]
        exact_products = certify.exact_products(scaled.gramian[0][rows], scaled.x[0, 0])
        for value, product, linear in zip(
            slack[rows], exact_products, scaled.linear[0, 0][rows], strict=True
        ):
            truth = float(product + Fraction(float(linear)))
            assert value == pytest.approx(truth, rel=1e-6, abs=1e-22)


class TestResidualAndGap:
    @given(
        k=st.integers(1, 8),
        n=st.integers(1, 16),
        spread=st.integers(0, 40),
        seed=st.integers(0, 2**32 - 1),
        noise=st.sampled_from([0.0, 1e-15, 1e-9, 1e-3, 1.0]),
        negative=st.booleans(),
    )
    def test_any_point_of_any_problem(
        self, k: int, n: int, spread: int, seed: int, noise: float, negative: bool
    ) -> None:
        """Near a solution and far from it, feasible or not, for rows of any scale."""
        rng = np.random.default_rng(seed)
        scale = power_of_two_scales(k, rng, spread)
        gramian = symmetric_gramian(rng.standard_normal((k, n)) * scale[:, None])
        linear = gramian[0] if seed % 2 else rng.standard_normal(k) * scale
        found = mojd.solve(NNQP(gramian, linear))
        x = np.zeros(k) if found.status != Status.OPTIMAL else found.x.copy()
        x += noise * rng.standard_normal(k) / scale
        if not negative:
            x = np.abs(x)
        solution = certified(gramian, linear, x)
        truth = certify.kkt_residual(gramian, linear, x)
        assert solution.kkt_residual == pytest.approx(truth, rel=1e-12, abs=1e-22)
        # In units of ‖d‖²; the sum of x·s may itself cancel where s has both signs.
        size = float(np.abs(x) @ (np.abs(gramian) @ np.abs(x) + np.abs(linear)))
        assert solution.gap == pytest.approx(certify.gap(gramian, linear, x), rel=1e-12, abs=1e-15 * size)

    def test_zero_rows_count_as_they_are(self) -> None:
        gramian, linear = np.diag([0.0, 4.0]), np.array([1.0, -2.0])
        for x in ([0.0, 0.5], [0.25, 0.5], [-0.25, 0.5]):
            expected = certify.kkt_residual(gramian, linear, x)
            assert certified(gramian, linear, np.array(x)).kkt_residual == expected

    @pytest.mark.parametrize("span", [0, 20, 200])
    def test_scale_free(self, span: int) -> None:
        rng = np.random.default_rng(0)
        gramian = symmetric_gramian(rng.standard_normal((5, 3)))
        linear, x = rng.standard_normal(5), np.abs(rng.standard_normal(5))
        scale = power_of_two_scales(5, rng, span)
        base = certified(gramian, linear, x)
        other = certified(gramian * scale[:, None] * scale, 2.0**-99 * linear * scale, 2.0**-99 * x / scale)
        assert other.kkt_residual == pytest.approx(base.kkt_residual, rel=1e-14)
        assert other.gap == pytest.approx(2.0**-198 * base.gap, rel=1e-13)
        if np.isfinite(base.direction_error_bound):
            expected = 2.0**-99 * base.direction_error_bound
            assert other.direction_error_bound == pytest.approx(expected, rel=1e-9)

    def test_exact_solutions_have_no_residual(self) -> None:
        gramian, linear = np.array([[4.0, 2.0], [2.0, 8.0]]), np.array([-4.0, -1.0])
        solution = certified(gramian, linear, np.array([1.0, 0.0]))
        assert solution.kkt_residual == solution.gap == 0.0
        assert solution.direction_error_bound < 1e-10


class TestDirectionErrorBound:
    """The bound really bounds ‖Jᵀ(x − x*)‖, by exact enumeration."""

    @pytest.mark.parametrize("family", EXACT_FAMILIES)
    def test_answers_of_solvers(self, family: str) -> None:
        for k in (1, 2, 3, 4, 5):
            if k < FAMILIES[family].min_size:
                continue
            rng = np.random.default_rng(k)
            sample = FAMILIES[family].sample(k, rng)
            for _, q in linear_terms(sample, rng, upgrad=2, extra=1):
                truth = exact.solve_nnqp(sample.gramian, q)
                for solver in ("auto", "array_api", "scipy_nnls", "daqp", "osqp"):
                    if solver not in (*mojd.available_solvers(), "auto"):
                        continue
                    solution = mojd.solve(NNQP(sample.gramian, q), solver)
                    if solution.status == Status.OPTIMAL:
                        assert true_distance(truth, solution.x) <= solution.direction_error_bound

    @given(data=st.data())
    def test_any_point(self, data: st.DataObject) -> None:
        """Points off by little or much, to either side of the constraints, of problems of any rank."""
        k, n = data.draw(st.integers(1, 4), label="K"), data.draw(st.integers(1, 5), label="n")
        entries = data.draw(st.lists(st.integers(-3, 3), min_size=k * n, max_size=k * n), label="J")
        gramian = mojd.gramian(np.array(entries, float).reshape(k, n))
        linear = gramian @ np.array(
            data.draw(st.lists(st.integers(-3, 3), min_size=k, max_size=k), label="u"), float
        )
        truth = exact.solve_nnqp(gramian, linear)
        size = data.draw(st.sampled_from([0.0, 1e-14, 1e-8, 1e-3, 1.0, 1e3]), label="size")
        shift = np.array(
            data.draw(st.lists(st.integers(-4, 4), min_size=k, max_size=k), label="shift"), float
        )
        x = np.array([float(value) for value in truth.x]) + size * shift
        assert true_distance(truth, x) <= certified(gramian, linear, x).direction_error_bound

    @pytest.mark.parametrize("family", ["integers", "random_grid", "orthogonal", "integers_square"])
    @pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-2])
    def test_it_is_not_merely_infinite(self, family: str, size: float) -> None:
        """Where the Jacobian is far from stationary, the bound is near the error's root."""
        rng = np.random.default_rng(0)
        for k in (2, 3, 4):
            gramian = FAMILIES[family].sample(k, rng).gramian
            norms = certify.row_norms(gramian)
            linear = gramian[0]
            truth = exact.solve_nnqp(gramian, linear)
            x = np.array([float(value) for value in truth.x]) + size * rng.standard_normal(k) / norms
            bound = certified(gramian, linear, x).direction_error_bound
            assert bound <= 1e3 * (size * float(norms[0])) ** 0.5 * max(1.0, float(norms[0]) ** 0.5)

    def test_a_negative_slack_is_paid_for(self) -> None:
        """x = 0 has x's = 0, but s = q < 0: the gap alone would call it optimal."""
        solution = certified(np.eye(2), np.array([-1.0, -1.0]), np.zeros(2))
        assert solution.gap == 0.0
        assert solution.direction_error_bound >= np.sqrt(2.0)

    def test_a_negative_weight_is_paid_for(self) -> None:
        solution = certified(np.eye(2), np.array([1.0, 1.0]), np.array([-3.0, 0.0]))
        assert solution.direction_error_bound >= 3.0

    def test_no_bound_at_a_stationary_point_with_negative_slack(self) -> None:
        """No z with Gz > 0 exists, and x* may be anywhere."""
        gramian = np.array([[1.0, -1.0], [-1.0, 1.0]])
        assert certified(gramian, np.array([-1.0, 1.0]), np.zeros(2)).direction_error_bound == np.inf

    def test_units(self) -> None:
        gramian, linear, x = np.diag([4.0, 9.0]), np.array([-1.0, -1.0]), np.array([0.3, 0.1])
        bound = certified(gramian, linear, x).direction_error_bound
        assert certified(gramian, 8 * linear, 8 * x).direction_error_bound == pytest.approx(8 * bound)
        assert certified(4 * gramian, 4 * linear, x).direction_error_bound == pytest.approx(2 * bound)

    @pytest.mark.parametrize("k", [8, 64])
    def test_it_is_small_for_exact_solvers(self, k: int) -> None:
        gramian = symmetric_gramian(np.random.default_rng(k).standard_normal((k, 3 * k)))
        solution = mojd.solve(mojd.upgrad_problem(gramian, np.ones(k)))
        assert solution.direction_error_bound.max() <= 1e-6


class TestOtherNamespaces:
    def test_the_same_certificates_in_plain_array_api(self) -> None:
        xp: Any = pytest.importorskip("array_api_strict")
        rng = np.random.default_rng(0)
        gramian = np.stack([symmetric_gramian(rng.standard_normal((4, 6))) for _ in range(3)])
        linear, x = rng.standard_normal((3, 2, 4)), np.abs(rng.standard_normal((3, 2, 4)))
        scaled = ce.equilibrate(np, gramian, linear, x)
        slack = ce.accurate_slack(np, scaled)
        other = ce.equilibrate(xp, *(xp.asarray(array.tolist()) for array in (gramian, linear, x)))
        other_slack = ce.accurate_slack(xp, other)
        assert np.array_equal(np.from_dlpack(other_slack), slack)
        for function in (ce.kkt_residual, ce.direction_error_bound):
            expected = function(np, scaled, slack)
            np.testing.assert_allclose(np.from_dlpack(function(xp, other, other_slack)), expected, rtol=1e-10)
