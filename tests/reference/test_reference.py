"""Tests of the references themselves: against theory, closed forms, each other and CVXPY."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from . import certify, exact
from . import rational as ra
from .families import (
    CYCLING_JACOBIAN,
    CYCLING_SINGULAR_JACOBIAN,
    FAMILIES,
    Floats,
    linear_terms,
    symmetric_gramian,
)

EXACT = sorted(name for name, family in FAMILIES.items() if family.exact)
WORKED = [[-4, 1, 1], [6, 1, 1]]


def gram(jacobian: Any) -> Floats:
    return symmetric_gramian(np.asarray(jacobian, dtype=np.float64))


def sizes(name: str, *wanted: int) -> list[int]:
    return [k for k in wanted if k >= FAMILIES[name].min_size]


class TestRational:
    def test_affine_solutions_of_a_singular_system(self) -> None:
        a = ra.matrix([[1, 2], [2, 4]])
        found = ra.affine_solutions(a, ra.vector([3, 6]))
        assert found is not None
        particular, basis = found
        assert ra.matvec(a, particular) == [3, 6]
        assert [ra.matvec(a, null) for null in basis] == [[0, 0]]
        assert ra.affine_solutions(a, ra.vector([3, 7])) is None

    @pytest.mark.parametrize("value", [2, 1e-300, 1e300, Fraction(1, 3), 5e-324, 0])
    def test_square_root(self, value: Any) -> None:
        assert ra.square_root(ra.exact(value)) == pytest.approx(math.sqrt(value), rel=1e-15, abs=0)

    def test_integers_of_numpy_do_not_overflow(self) -> None:
        assert ra.exact(np.int64(2**62)) * 4 == 2**64

    @pytest.mark.parametrize(
        "gramian", [[[1, 2], [2, 1]], [[0, 1], [1, 5]], [[-1]], [[1, 1], [1, 1 - 2.0**-53]]]
    )
    def test_indefinite_gramians_are_refused(self, gramian: list[list[float]]) -> None:
        with pytest.raises(ValueError, match="positive semidefinite"):
            ra.check_psd(ra.matrix(gramian))

    def test_malformed_gramians_are_refused(self) -> None:
        with pytest.raises(ValueError, match="symmetric"):
            ra.check_psd(ra.matrix([[1, 0], [1, 1]]))
        with pytest.raises(ValueError, match="square"):
            ra.check_psd(ra.matrix([[1, 0]]))

    def test_null_rays_of_antiparallel_and_zero_rows(self) -> None:
        rays = ra.extreme_null_rays(ra.matrix([[1, -1, 0], [-1, 1, 0], [0, 0, 0]]))
        assert [support for support, _ in rays] == [(2,), (0, 1)]


class TestNNQP:
    @pytest.mark.parametrize("name", EXACT)
    def test_kkt_conditions_hold_exactly(self, name: str) -> None:
        rng = np.random.default_rng(0)
        for k in sizes(name, 1, 2, 4, 5):
            sample = FAMILIES[name].sample(k, rng)
            for _, q in linear_terms(sample, rng, upgrad=2, extra=1):
                found = exact.solve_nnqp(sample.gramian, q)
                assert found.status == "optimal"
                for x in found.vertices:
                    assert min(x) >= 0 <= min(found.slack)
                    assert ra.dot(x, found.slack) == 0
                    assert found.squared_distance(x) == 0
                    assert found.nearest(x) == x
                    assert certify.kkt_residual(sample.gramian, q, [float(v) for v in x]) < 1e-12

    def test_a_float_gramian_that_rounding_made_indefinite_is_refused(self) -> None:
        with pytest.raises(ValueError, match="pivot 1"):
            exact.solve_nnqp([[1.0, 1.0], [1.0, 1.0 - 2.0**-53]], [1.0, 1.0])

    def test_duplicates_have_a_segment_of_minimisers(self) -> None:
        found = exact.solve_nnqp([[1, 1], [1, 1]], [-1, -1])
        assert found.vertices == [[1, 0], [0, 1]]
        assert not found.unique
        assert found.supports == {frozenset({0}), frozenset({1}), frozenset({0, 1})}
        assert found.nearest([0.25, 0.75]) == [Fraction(1, 4), Fraction(3, 4)]
        assert found.nearest([1.0, 1.0]) == [Fraction(1, 2), Fraction(1, 2)]
        assert found.squared_distance([1.0, 1.0]) == 1
        assert found.weights_error([1.0, 1.0]) == 1.0
        assert found.on_support([False, True]) == ra.vector([0, 1])
        assert found.on_support([True, True]) is None

    def test_minimisers_may_be_unbounded(self) -> None:
        found = exact.solve_nnqp([[1, -1], [-1, 1]], [-1, 1])
        assert found.vertices == [[1, 0]]
        assert found.recession == [[Fraction(1, 2), Fraction(1, 2)]]
        assert found.supports == {frozenset({0}), frozenset({0, 1})}
        assert found.nearest([3.0, 2.0]) == [3, 2]

    def test_ties_keep_the_smallest_support(self) -> None:
        found = exact.solve_nnqp([[1, 0], [0, 1]], [-1, 0])
        assert found.unique
        assert found.x == [1, 0]
        assert found.slack == [0, 0]

    def test_infeasible_with_its_ray(self) -> None:
        found = exact.solve_nnqp([[1, -2], [-2, 4]], [-1, 1])
        assert found.status == "infeasible"
        assert found.ray == [Fraction(2, 3), Fraction(1, 3)]
        assert certify.is_ray([[1, -2], [-2, 4]], [-1, 1], [2, 1])

    def test_no_random_point_is_better(self) -> None:
        rng = np.random.default_rng(1)
        g = FAMILIES["rank_half_grid"].sample(4, rng).gramian
        q = g @ np.array([-3.0, 1.0, 2.0, -1.0])
        found = exact.solve_nnqp(g, q)

        def objective(x: list[Fraction]) -> Fraction:
            return ra.quadratic(found.gramian, x) / 2 + ra.dot(found.linear, x)

        points = rng.exponential(size=(200, 4)) * rng.integers(0, 2, (200, 4))
        assert all(objective(ra.vector(point)) >= objective(found.x) for point in points)


class TestMethods:
    def test_worked_value(self) -> None:
        expected = [Fraction(10, 9), Fraction(15, 19)]
        assert exact.upgrad(gram(WORKED)) == expected
        assert exact.upgrad(gram(WORKED), [1, 1]) == [2 * value for value in expected]

    @pytest.mark.parametrize("name", EXACT)
    def test_projections_meet_their_kkt_conditions(self, name: str) -> None:
        rng = np.random.default_rng(2)
        for k in sizes(name, 1, 3, 4, 5):
            gramian = FAMILIES[name].sample(k, rng).gramian
            g, u = ra.matrix(gramian), ra.vector(rng.integers(0, 4, k))
            w = exact.project(u, g)
            products = ra.matvec(g, w)
            assert all(a <= b for a, b in zip(u, w, strict=True))
            assert min(products) >= 0
            assert ra.dot(u, products) == ra.dot(w, products)
            reduced = exact.solve_nnqp(g, ra.matvec(g, u))
            assert reduced.squared_distance([a - b for a, b in zip(w, u, strict=True)]) == 0

    @pytest.mark.parametrize("name", EXACT)
    def test_mgda_meets_its_kkt_conditions(self, name: str) -> None:
        rng = np.random.default_rng(3)
        for k in sizes(name, 1, 3, 5):
            g = ra.matrix(FAMILIES[name].sample(k, rng).gramian)
            w = exact.mgda(g)
            assert min(w) >= 0
            assert sum(w) == 1
            assert min(ra.matvec(g, w)) >= ra.quadratic(g, w)

    def test_mgda_finds_the_origin_of_a_strongly_stationary_jacobian(self) -> None:
        g = FAMILIES["strongly_stationary_alpha"].sample(5, np.random.default_rng(4)).gramian
        assert ra.quadratic(ra.matrix(g), exact.mgda(g)) == 0

    def test_dualproj_counterexample_of_the_paper(self) -> None:
        w = exact.dualproj(gram([[2, 0], [-4, 4]]))
        assert w == [1, Fraction(1, 2)]

    def test_upgrad_is_linear_under_scaling_of_a_row(self) -> None:
        rng = np.random.default_rng(5)
        jacobian = rng.integers(-5, 6, (4, 6)).astype(np.float64)
        scale = np.array([1.0, 3.0, 0.5, 4.0])
        base = exact.upgrad(gram(jacobian))
        scaled = exact.upgrad(gram(scale[:, None] * jacobian))
        each = exact.upgrad(gram(jacobian), scale / 4)
        products = [a * b for a, b in zip(ra.vector(scale), scaled, strict=True)]
        assert exact.direction_error(products, each, gram(jacobian)) == 0
        assert base != scaled


class TestPCD:
    @pytest.mark.parametrize(
        ("tau", "expected"), [(0.0, (0.25, 0.4330)), (0.3, (-0.0098, 0.5830)), (0.7, (-0.3562, 0.7830))]
    )
    def test_values_of_the_paper(self, tau: float, expected: tuple[float, float]) -> None:
        angle = math.radians(150)
        jacobian = np.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
        found = exact.pcd([[1.0, math.cos(angle)], [math.cos(angle), 1.0]], tau)
        assert found.feasible
        assert jacobian.T @ np.array(found.weights, dtype=np.float64) == pytest.approx(expected, abs=5e-5)

    def test_two_objectives_in_closed_form(self) -> None:
        g = gram([[3, 1, 0], [-2, 1, 1]])
        tau = Fraction(1, 4)
        assert exact.pcd(g, tau).weights == [1, tau - Fraction(-5, 6)]
        assert exact.pcd(gram([[3, 1, 0], [2, 1, 1]]), tau).weights == [1, 0]

    @pytest.mark.parametrize("seed", range(8))
    def test_equals_its_nnqp_with_scales_and_separate_taus(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        k = 2 + seed % 4
        g = ra.matrix(gram(rng.integers(-4, 5, (k, k))))
        s, tau = ra.vector(2.0 ** rng.integers(-3, 4, k)), ra.vector(rng.integers(0, 9, k - 1) / 8)
        found = exact.pcd(g, tau, s)
        h = [[s[i] * g[i][j] * s[j] for j in range(k)] for i in range(k)]
        rest = range(1, k)
        reduced = exact.solve_nnqp(ra.block(h, rest, rest), [h[j][0] - tau[j - 1] * h[j][j] for j in rest])
        assert found.feasible == (reduced.status == "optimal")
        if found.feasible:
            assert found.weights[0] == s[0]
            assert reduced.squared_distance([found.weights[j] / s[j] for j in rest]) == 0

    def test_antiparallel_secondaries_are_infeasible(self) -> None:
        g = gram([[1, 2], [1, 0], [-3, 0]])
        found = exact.pcd(g, 0.5, scales=[2, 1, 1])
        assert not found.feasible
        assert found.weights == [2, 0, 0]
        assert found.ray == [Fraction(3, 4), Fraction(1, 4)]
        assert exact.pcd(g, 0).feasible


class TestMeasures:
    def test_direction_error_is_relative(self) -> None:
        assert exact.direction_error([1, 1], [1, 0], [[4, 0], [0, 1]]) == 0.5

    def test_direction_error_of_a_direction_that_cancels(self) -> None:
        assert exact.direction_error([1.5, 1], [1, 1], [[4, -4], [-4, 4]]) == 0.5
        assert exact.direction_error([1], [0], [[4]]) == math.inf
        assert exact.direction_error([0], [0], [[4]]) == 0.0

    def test_rounding_floor(self) -> None:
        g = gram(WORKED)
        assert 0 < exact.rounding_floor(exact.upgrad(g), g) < 1e-15
        assert exact.rounding_floor([1, 2], g) == 0.0

    def test_residual_floor_of_an_indefinite_pair(self) -> None:
        e = 2.0**-20
        g, q = np.array([[1.0, -1.0 - e], [-1.0 - e, 1.0]]), np.array([1.0, -1.0 - e])
        # y'(Gx + q) <= y'q = -e / 2 for y = (1/2, 1/2), whatever x is, and another y does better.
        floor = exact.residual_floor(g, q)
        assert e / 2 / (1 + e) < floor < 2 * e
        for x in np.random.default_rng(0).exponential(size=(50, 2)) * 10:
            assert certify.kkt_residual(g, q, x) >= floor
        assert certify.indefiniteness(g) == pytest.approx(e, rel=1e-6)

    @pytest.mark.parametrize(
        "name", ["rank_half_grid", "near_duplicates_grid", "row_scales_grid", "all_zero"]
    )
    def test_residual_floor_of_psd_gramians_is_zero(self, name: str) -> None:
        sample = FAMILIES[name].sample(4, np.random.default_rng(0))
        for _, q in linear_terms(sample, np.random.default_rng(1), upgrad=1, extra=1):
            assert exact.residual_floor(sample.gramian, q) == 0.0

    def test_residual_floor_of_an_unbounded_problem(self) -> None:
        assert exact.residual_floor([[1, -1], [-1, 1]], [-1, 0]) == 0.5

    def test_block_condition(self) -> None:
        hilbert = FAMILIES["hilbert"].sample(6, np.random.default_rng(0)).gramian
        assert exact.block_condition(hilbert, [True] * 6) == pytest.approx(1.4951058e7, rel=1e-6)
        assert exact.block_condition(hilbert, [False] * 6) == 1.0
        assert exact.block_condition([[1, 1], [1, 1]], [True, True]) == math.inf
        assert exact.block_condition([[1, 1], [1, 1]], [True, False]) == 1.0
        close = ra.matrix([[1, 1], [1, 1 + Fraction(1, 10**24)]])
        assert exact.block_condition(close, [1, 1]) == pytest.approx(4e24, rel=1e-6)


class TestFamilies:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_shapes_symmetry_and_finiteness(self, name: str) -> None:
        for k in sizes(name, 1, 2, 3, 4, 6, 9, 33, 512):
            sample = FAMILIES[name].sample(k, np.random.default_rng(k))
            assert sample.gramian.shape == (k, k)
            assert sample.gramian.dtype == np.float64
            assert np.isfinite(sample.gramian).all()
            assert np.array_equal(sample.gramian, sample.gramian.T)
            assert (np.diagonal(sample.gramian) >= 0).all()
            assert sample.jacobian is None or len(sample.jacobian) == k
            assert sample.linear is None or sample.linear.shape == (k,)

    @pytest.mark.parametrize("name", EXACT)
    def test_exact_families_are_exact(self, name: str) -> None:
        for k in sizes(name, 1, 2, 3, 4, 5, 6, 7, 8):
            sample = FAMILIES[name].sample(k, np.random.default_rng(k))
            g = ra.matrix(sample.gramian)
            ra.check_psd(g)
            if sample.jacobian is not None:
                rows = ra.matrix(sample.jacobian)
                assert g == [[ra.dot(a, b) for b in rows] for a in rows]

    @pytest.mark.parametrize(
        ("jacobian", "path", "period"),
        [
            (CYCLING_JACOBIAN, [set(), {1, 3}, {2, 3}], 3),
            (CYCLING_SINGULAR_JACOBIAN, [set(), {3}, {1, 2, 3}, {2}], 3),
        ],
    )
    def test_full_block_exchange_cycles(self, jacobian: Floats, path: list[set[int]], period: int) -> None:
        g = ra.matrix(gram(jacobian))
        found = exact.solve_nnqp(g, g[0])
        assert found.status == "optimal"
        passive: set[int] = set()
        visited = []
        for _ in range(len(path) + 2 * period):
            visited.append(passive)
            x = found.on_support([i in passive for i in range(4)])
            assert x is not None
            s = [a + b for a, b in zip(ra.matvec(g, x), g[0], strict=True)]
            passive = passive ^ {i for i in range(4) if (x[i] if i in passive else s[i]) < 0}
        assert visited == path + 2 * path[-period:]

    def test_linear_terms_of_exact_families_are_in_the_range(self) -> None:
        sample = FAMILIES["row_scales_low_rank_grid"].sample(6, np.random.default_rng(0))
        labels = []
        for label, q in linear_terms(sample, np.random.default_rng(1), upgrad=3, extra=2):
            labels.append(label.split()[0])
            assert ra.affine_solutions(ra.matrix(sample.gramian), ra.vector(q)) is not None
        assert labels == ["column"] * 3 + ["range"] * 2


class TestCertify:
    def test_exact_products_are_exact(self) -> None:
        rng = np.random.default_rng(6)
        a = rng.standard_normal((7, 7)) * 10.0 ** rng.integers(-150, 150, (7, 7))
        a[2] = 0.0
        x = rng.standard_normal(7) * 10.0 ** rng.integers(-150, 150, 7)
        x[3] = 0.0
        assert certify.exact_products(a, x) == ra.matvec(ra.matrix(a), ra.vector(x))
        assert certify.exact_dot(a[0], x) == ra.dot(ra.vector(a[0]), ra.vector(x))

    def test_residual_of_a_wrong_answer(self) -> None:
        g = np.diag([4.0, 1.0, 0.0])
        q = np.array([-4.0, 1.0, 0.0])
        assert certify.kkt_residual(g, q, [1.0, 0.0, 7.0]) == 0.0
        assert certify.kkt_residual(g, q, [1.5, 0.0, 0.0]) == 0.5
        assert certify.kkt_residual(g, q, [1.0, -0.5, 0.0]) == 0.25
        assert certify.kkt_residual(g, q, [0.0, 0.0, 0.0]) == 1.0
        assert certify.kkt_residual(g, q, [math.nan, 0.0, 0.0]) == math.inf
        assert certify.worst_kkt_residual(g, [q, q], [[1, 0, 0], [0, 0, 0]], range(2)) == 1.0
        assert certify.gap(g, q, [1.5, 0.5, 0.0]) == 1.5 * 2.0 + 0.5 * 1.5

    def test_residual_of_a_zero_linear_term(self) -> None:
        assert certify.kkt_residual([[1.0]], [0.0], [0.0]) == 0.0
        assert certify.kkt_residual([[1.0]], [0.0], [1.0]) == math.inf

    def test_residual_is_scale_free(self) -> None:
        rng = np.random.default_rng(7)
        g, q, x = gram(rng.standard_normal((5, 9))), rng.standard_normal(5), rng.exponential(size=5)
        d = 2.0 ** rng.integers(-60, 60, 5)
        scaled = certify.kkt_residual(g * d[:, None] * d, q * d, x / d)
        assert scaled == pytest.approx(certify.kkt_residual(g, q, x), rel=1e-14)

    def test_what_is_no_ray(self) -> None:
        g, q = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([-1.0, 0.0])
        assert certify.is_ray(g, q, [1.0, 1.0])
        assert not certify.is_ray(g, -q, [1.0, 1.0])
        assert not certify.is_ray(g, q, [1.0, 1.0 + 1e-6])
        assert not certify.is_ray(g, q, [1.0, -1.0])
        assert not certify.is_ray(g, q, [0.0, 0.0])
        assert not certify.is_ray(g, q, [math.nan, 1.0])

    def test_is_quick_at_k_512(self) -> None:
        sample = FAMILIES["row_scales"].sample(512, np.random.default_rng(8))
        start = time.perf_counter()
        certify.kkt_residual(sample.gramian, sample.gramian[0], np.ones(512))
        assert time.perf_counter() - start < 2.0


class TestAgainstCVXPY:
    @pytest.mark.parametrize("seed", range(4))
    def test_nnqp_and_mgda(self, seed: int) -> None:
        cvxpy: Any = pytest.importorskip("cvxpy")
        rng = np.random.default_rng(seed)
        k = 3 + seed % 3
        jacobian = rng.integers(-3, 4, (k, k + 2)).astype(np.float64)
        g, u = gram(jacobian), rng.integers(0, 3, k).astype(np.float64)
        v = cvxpy.Variable(k)
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(jacobian.T @ v)), [v >= u]).solve(solver="CLARABEL")
        assert exact.direction_error(v.value, exact.project(u, g), g) < 1e-4
        hull = [v >= 0, cvxpy.sum(v) == 1]
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(jacobian.T @ v)), hull).solve(solver="CLARABEL")
        assert exact.direction_error(v.value, exact.mgda(g), g) < 1e-4

    @pytest.mark.parametrize("seed", range(4))
    def test_pcd_in_the_space_of_directions(self, seed: int) -> None:
        cvxpy: Any = pytest.importorskip("cvxpy")
        rng = np.random.default_rng(seed)
        jacobian = rng.integers(-3, 4, (4, 6)).astype(np.float64)
        g = gram(jacobian)
        d = cvxpy.Variable(6)
        objective = cvxpy.Minimize(cvxpy.sum_squares(d - jacobian[0]))
        cvxpy.Problem(objective, [jacobian[1:] @ d >= 0.25 * np.diagonal(g)[1:]]).solve(solver="CLARABEL")
        weights = np.array(exact.pcd(g, 0.25).weights, dtype=np.float64)
        assert jacobian.T @ weights == pytest.approx(d.value, abs=1e-4)
