"""Pivoting: what block exchange can't do alone, ranks, rays, and the layout of the work over threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mojd
from mojd import NNQP, Status
from mojd._arrays import FLOAT64_PRECISION, Precision
from mojd.kernels import status as codes
from mojd.solvers import get_solver
from mojd.solvers._registry import RawSolution
from tests.reference import certify, exact
from tests.reference.families import (
    CYCLING_JACOBIAN,
    CYCLING_SINGULAR_JACOBIAN,
    FAMILIES,
    Floats,
    linear_terms,
    symmetric_gramian,
)

SOLVER = get_solver("active_set")


def solve(
    gramian: Floats, linear: Floats, threads: int = 1, precision: Precision = FLOAT64_PRECISION
) -> RawSolution:
    """Call the solver itself: G (B, K, K), q (B, R, K)."""
    return SOLVER.solve(np.ascontiguousarray(gramian), np.ascontiguousarray(linear), threads, precision)


class TestBlockExchange:
    @pytest.mark.parametrize("jacobian", [CYCLING_JACOBIAN, CYCLING_SINGULAR_JACOBIAN])
    def test_where_it_cycles(self, jacobian: Floats) -> None:
        """UPGrad's own QP, with integers, at K = 4."""
        gramian = symmetric_gramian(jacobian)
        for q in gramian:
            truth = exact.solve_nnqp(gramian, q)
            solution = mojd.solve(NNQP(gramian, q), "active_set")
            assert solution.status == Status.OPTIMAL
            assert exact.direction_error(solution.x, truth.x, gramian) <= 1e-13

    @pytest.mark.parametrize(
        ("family", "k", "term"), [("integers_rank_deficient", 16, 8), ("ties", 32, 1)], ids=["16", "32"]
    )
    def test_where_the_tableau_cycles(self, family: str, k: int, term: int) -> None:
        """Always exchanging the most infeasible index goes round here: it stops at 3K pivots."""
        rng = np.random.default_rng(0)
        sample = FAMILIES[family].sample(k, rng)
        _, q = list(linear_terms(sample, rng))[term]
        solution = mojd.solve(NNQP(sample.gramian, q), "active_set")
        assert solution.status == Status.OPTIMAL
        assert solution.iterations > 3 * k
        assert certify.kkt_residual(sample.gramian, q, solution.x) <= 1e-12

    @pytest.mark.parametrize("k", [20, 100, 300])
    def test_it_takes_a_handful_of_iterations(self, k: int) -> None:
        gramian = symmetric_gramian(np.random.default_rng(k).standard_normal((k, 2 * k)))
        solution = mojd.solve(NNQP(gramian, gramian[:10]), "active_set")
        assert solution.iterations.max() <= 15
        assert solution.kkt_residual.max() <= 1e-12

    @pytest.mark.parametrize("family", ["murty", "fathi"])
    @pytest.mark.parametrize("k", [10, 40, 100])
    def test_matrices_that_take_other_rules_exponentially_long(self, family: str, k: int) -> None:
        rng = np.random.default_rng(0)
        sample = FAMILIES[family].sample(k, rng)
        for _, q in linear_terms(sample, rng, upgrad=3, extra=1):
            solution = mojd.solve(NNQP(sample.gramian, q), "active_set")
            assert solution.status == Status.OPTIMAL
            assert solution.iterations <= 20 * k + 100
            assert certify.kkt_residual(sample.gramian, q, solution.x) <= 1e-12


class TestRank:
    @pytest.mark.parametrize("copies", [2, 3, 7])
    def test_copies_of_one_gradient(self, copies: int) -> None:
        gramian = np.ones((copies, copies))
        solution = mojd.solve(NNQP(gramian, np.full(copies, -1.0)), "active_set")
        assert solution.status == Status.OPTIMAL
        assert solution.x.sum() == pytest.approx(1.0, rel=1e-15)

    @pytest.mark.parametrize("k", [4, 9, 30])
    def test_no_more_weights_than_the_rank(self, k: int) -> None:
        """The passive set never holds a dependent row."""
        for rank in (1, 2, k // 2):
            gramian = symmetric_gramian(np.random.default_rng(k).integers(-9, 10, (k, rank)).astype(float))
            solution = mojd.solve(NNQP(gramian, gramian), "active_set")
            assert (solution.status == Status.OPTIMAL).all()
            assert (solution.x > 0).sum(axis=1).max() <= rank

    @pytest.mark.parametrize(
        "family", ["nearly_weakly_stationary_1e-6", "nearly_weakly_stationary_1e-8", "near_antiparallel"]
    )
    def test_weights_stay_bounded(self, family: str) -> None:
        """Weights of 1e12 could meet every condition to rounding, while Jᵀw is noise."""
        for k in (4, 8, 20):
            rng = np.random.default_rng(k)
            sample = FAMILIES[family].sample(k, rng)
            linear = np.array([q for _, q in linear_terms(sample, rng)])
            solution = mojd.solve(NNQP(sample.gramian, linear), "active_set")
            norms = certify.row_norms(sample.gramian)
            largest = np.abs(linear / norms).max(axis=1)
            assert (solution.status == Status.OPTIMAL).all()
            assert ((solution.x * norms).max(axis=1) <= 1e7 * largest).all()

    @pytest.mark.parametrize("k", [3, 6, 12, 30])
    def test_float32_gramians_of_low_rank(self, k: int) -> None:
        """Slightly indefinite: rank deficiency, not an error, and no weights in the noise."""
        for seed in range(5):
            jacobian = np.random.default_rng(seed).standard_normal((k, max(1, k // 2))).astype(np.float32)
            gramian = jacobian @ jacobian.T
            solution = mojd.solve(NNQP(gramian, gramian), "active_set")
            assert (solution.status == Status.OPTIMAL).all()
            norms = np.linalg.norm(jacobian, axis=1)
            direction = solution.x_float64 @ jacobian + jacobian
            products = direction @ jacobian.T / norms / norms[:, None]
            assert products.min() >= -1e-3

    def test_a_pivot_at_the_edge_of_rounding(self) -> None:
        """Rows 2⁻ᵉ apart, for e from resolved to lost: never a wrong status, never a large residual."""
        for exponent in range(10, 40):
            gap = 2.0**-exponent
            for sign in (1.0, -1.0):
                jacobian = np.array([[1.0, 0.0, 0.5], [sign, gap, 0.5 * sign], [0.25, 1.0, -1.0]])
                gramian = symmetric_gramian(jacobian)
                for q in gramian:
                    solution = mojd.solve(NNQP(gramian, q), "active_set")
                    assert solution.status == Status.OPTIMAL
                    assert certify.kkt_residual(gramian, q, solution.x) <= 3e-8


class TestRefinement:
    """Problems with known solutions: G, x, s and so q = s − G·x hold in float64 without rounding."""

    @staticmethod
    def problems(k: int, rows: int, gap: float) -> tuple[Floats, Floats, Floats]:
        """Pairs of rows about `gap` apart; both of a pair are passive in every other problem."""
        rng = np.random.default_rng(k)
        half = rng.integers(-1, 2, ((k + 1) // 2, 2 * k)).astype(float)
        pairs = np.stack([half, half + gap * rng.integers(-1, 2, half.shape)], axis=1)
        gramian = symmetric_gramian(pairs.reshape(-1, 2 * k)[:k])
        passive = rng.integers(0, 2, (rows, k)) == 1
        passive[::2] = np.repeat(passive[::2, ::2], 2, axis=1)[:, :k]
        passive[1::2, 1::2] = False
        x = np.where(passive, rng.integers(1, 8, (rows, k)), 0).astype(float)
        slack = np.where(passive, 0, rng.integers(1, 8, (rows, k)))
        return gramian, slack - x @ gramian, x

    @pytest.mark.parametrize("rows", [1, 2, 21])
    @pytest.mark.parametrize("k", [5, 16, 17, 32, 33, 40])
    def test_ill_conditioned_blocks_cost_no_digit(self, k: int, rows: int) -> None:
        """Relative pivots of 1e-5: a step with an accurate residual takes an error of 1e-11 below one ulp.

        In every other problem, no pivot is small: those need no refinement, and may lose two digits.
        """
        gramian, linear, truth = self.problems(k, rows, 2.0**-8)
        raw = solve(gramian[None], linear[None])
        assert (raw.status == codes.OPTIMAL).all()
        alone = np.array([mojd.solve(NNQP(gramian, q)).x for q in linear])
        for x in (raw.x[0], alone):
            np.testing.assert_allclose(x[::2], truth[::2], rtol=2.0**-52, atol=0)
            np.testing.assert_allclose(x[1::2], truth[1::2], rtol=100 * 2.0**-52, atol=0)

    @pytest.mark.parametrize("rows", [1, 12])
    @pytest.mark.parametrize("k", [5, 9, 17])
    def test_nearly_dependent_blocks(self, k: int, rows: int) -> None:
        """Relative pivots of 1e-10 are left to the general solver: an error of 1e-6 takes both steps."""
        gramian, linear, truth = self.problems(k, rows, 2.0**-16)
        raw = solve(gramian[None], linear[None])
        assert (raw.status == codes.OPTIMAL).all()
        np.testing.assert_allclose(raw.x[0, ::2], truth[::2], rtol=2.0**-52, atol=0)

    def test_a_factor_that_many_exchanges_have_worn(self) -> None:
        """Relative pivots of 1e-11: after 27 exchanges, steps with the old factor no longer converge."""
        gramian, linear, truth = self.problems(32, 21, 2.0**-18)
        raw = solve(gramian[None], linear[None])
        assert (raw.status == codes.OPTIMAL).all()
        np.testing.assert_allclose(raw.x[0, ::2], truth[::2], rtol=2.0**-52, atol=0)

    @pytest.mark.parametrize("k", [17, 40])
    def test_lanes_are_refined_on_their_own(self, k: int) -> None:
        """Which problems lie side by side depends on the threads, and must not change a bit."""
        gramian, linear, _ = self.problems(k, 21, 2.0**-8)
        linear = linear + np.random.default_rng(0).uniform(0.0, 0.1, linear.shape)
        expected = solve(gramian[None], linear[None])
        for threads in (2, 3, 21):
            assert np.array_equal(solve(gramian[None], linear[None], threads).x, expected.x)


class TestIndefinite:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(("k", "pairs"), [(8, 8), (8, 4), (13, 3), (16, 16), (33, 20)])
    def test_many_opposed_pairs(self, k: int, pairs: int, dtype: type) -> None:
        """Rounding makes such Gramians indefinite, and exchanges go round in circles on what it left."""
        for seed in range(5):
            rng = np.random.default_rng(seed)
            half: Any = rng.standard_normal((k, 64)).astype(dtype)
            factors: Any = rng.uniform(0.5, 2.0, (pairs, 1)).astype(dtype)
            jacobian = np.concatenate([half, -factors * half[:pairs]])
            weights = mojd.upgrad(jacobian @ jacobian.T).astype(float)
            rows = jacobian.astype(float)
            norms = np.linalg.norm(rows, axis=1)
            largest = float((weights * norms).max())
            precision = 1e-4 if dtype is np.float32 else 1e-10
            assert (rows @ (rows.T @ weights) >= -precision * norms * largest).all()
            assert weights.max() < 10.0

    @pytest.mark.parametrize("k", [4, 9, 20, 40])
    def test_what_no_rounding_explains_is_refused(self, k: int) -> None:
        """Every pair of rows could be gradients, all of them can't: there is no answer to give."""
        matrix = np.eye(k)
        matrix[:3, :3] += -0.9 * (1.0 - np.eye(3))
        for call in (
            lambda: mojd.upgrad(matrix),
            lambda: mojd.upgrad(np.stack([np.eye(k), matrix])),
            lambda: mojd.solve(mojd.upgrad_problem(matrix)),
            lambda: mojd.solve(NNQP(matrix, matrix[0]), "active_set"),
            lambda: mojd.upgrad(matrix.astype(np.float32)),
        ):
            with pytest.raises(mojd.InvalidInputError, match=r"not positive semi-definite.*eigenvalue -0\.8"):
                call()


class TestRays:
    def test_an_entry_that_is_zero_but_for_rounding_does_not_block(self) -> None:
        """g₃ = −g₂/3: what rounding leaves of the null direction along g₁ is no obstacle."""
        gramian = np.array([[247.0, -219.0, 73.0], [-219.0, 1287.0, -429.0], [73.0, -429.0, 143.0]])
        linear = np.array([-303.0, -1918.0, 638.0])
        solution = mojd.solve(NNQP(gramian, linear), "active_set")
        assert solution.status == Status.INFEASIBLE
        np.testing.assert_allclose(solution.ray / solution.ray.max(), [0.0, 1 / 3, 1.0], atol=1e-12)

    def test_a_zero_row(self) -> None:
        for k in (1, 4, 7):
            gramian, linear = np.eye(k), np.ones(k)
            gramian[-1, -1], linear[-1] = 0.0, -2.0
            solution = mojd.solve(NNQP(gramian, linear), "active_set")
            assert solution.status == Status.INFEASIBLE
            assert solution.ray[:-1].tolist() == [0.0] * (k - 1)
            assert solution.ray[-1] > 0

    @pytest.mark.parametrize("slope", [1e-2, 1e-4, 1e-6, 1e-8])
    def test_slow_descent_is_descent(self, slope: float) -> None:
        gramian = symmetric_gramian(np.array([[1.0, 2.0], [-1.0, -2.0], [2.0, -1.0], [0.0, 1.0]]))
        linear = gramian @ np.array([1.0, 2.0, 0.5, 0.25]) - slope * np.array([1.0, 0.0, 0.0, 0.0])
        solution = mojd.solve(NNQP(gramian, linear), "active_set")
        assert solution.status == Status.INFEASIBLE
        assert certify.is_ray(gramian, linear, solution.ray, tolerance=1e-10)

    @pytest.mark.parametrize("bits", range(6, 23, 2))
    @pytest.mark.parametrize("rows", [1, 3, 40])
    def test_rays_of_weights_that_differ_by_orders_of_magnitude(self, bits: int, rows: int) -> None:
        """δ·a + b + c = 0 exactly: an index that depends on the others looks independent at some pivots.

        What pretends to be a solution is then a multiple of the ray, as long as rounding lets it be.
        """
        rng = np.random.default_rng(bits)
        delta = 2.0**-bits
        for trial in range(40):
            n = int(rng.integers(2, 6))
            a, b, extra = rng.integers(-2, 3, (3, n)).astype(float)
            jacobian = np.stack([a, b, -b - delta * a, extra])[rng.permutation(4)]
            gramian = symmetric_gramian(jacobian)
            squares = np.diagonal(gramian)
            if not np.linalg.norm(np.stack([a, b]), axis=1).all() or np.linalg.matrix_rank([a, b]) < 2:
                continue
            # As PCD has it for τ = 1: q = J·g₀ − diag G, and q·z < 0 along the ray.
            primaries = rng.integers(-2, 3, (rows, n)).astype(float)
            linear = primaries @ jacobian.T - squares
            found = solve(gramian[None], linear[None])
            assert (found.status == codes.INFEASIBLE).all(), trial
            for ray in found.x[0]:
                assert (ray >= 0).all()
                size = ray @ np.sqrt(squares)
                # The square of this length is what a Gramian in float64 knows to rounding.
                assert np.linalg.norm(ray @ jacobian) <= 4 * 2.0**-26 * size

    def test_level_rays_are_no_descent(self) -> None:
        gramian = symmetric_gramian(np.array([[1.0, 2.0], [-1.0, -2.0], [2.0, -1.0], [0.0, 1.0]]))
        solution = mojd.solve(NNQP(gramian, gramian), "active_set")
        assert (solution.status == Status.OPTIMAL).all()
        assert solution.x.max() < 10


class TestRefusals:
    """The kernel raises nothing: it returns a code, and dispatch says what it means."""

    @pytest.mark.parametrize(
        ("gramian", "code"),
        [
            ([[1.0, 0.5], [0.0, 1.0]], codes.ASYMMETRIC),
            ([[1.0, 0.0], [0.0, -1.0]], codes.NEGATIVE_DIAGONAL),
            ([[1.0, 2.0], [2.0, 1.0]], codes.NOT_PSD),
            ([[0.0, 1.0], [1.0, 1.0]], codes.NOT_PSD),
            ([[np.nan, 0.0], [0.0, 1.0]], codes.NONFINITE),
            ([[1.0, np.inf], [np.inf, 1.0]], codes.NONFINITE),
        ],
    )
    def test_codes(self, gramian: list[list[float]], code: int) -> None:
        for k in (2, 5):
            matrix = np.eye(k)
            matrix[:2, :2] = gramian
            for rows in (1, 3, 9):
                raw = solve(np.stack([np.eye(k), matrix]), np.ones((2, rows, k)))
                assert raw.status[0].tolist() == [codes.OPTIMAL] * rows
                assert raw.status[1].tolist() == [code] * rows
                assert np.isnan(raw.x[1]).all()
                assert (raw.x[0] == 0).all()

    def test_tolerances_follow_the_precision(self) -> None:
        gramian = np.array([[[1.0, 1.0 + 1e-5], [1.0, 1.0]]])
        linear = np.ones((1, 1, 2))
        assert solve(gramian, linear).status[0, 0] == codes.ASYMMETRIC
        assert (
            solve(gramian, linear, precision=Precision(2.0**-11.5, 2.0**-126)).status[0, 0] == codes.OPTIMAL
        )

    def test_underflow_beside_a_zero_row(self) -> None:
        """In float32, a gradient of 1e-30 has the square 0, but products with others are left."""
        gramian = np.array([[0.0, 1e-22], [1e-22, 1.0]], dtype=np.float32)
        assert mojd.solve(NNQP(gramian, np.zeros(2, np.float32)), "active_set").status == Status.OPTIMAL
        with pytest.raises(mojd.InvalidInputError, match="not positive semi-definite"):
            mojd.solve(NNQP(gramian.astype(np.float64), np.zeros(2)), "active_set")


class TestWork:
    @pytest.mark.parametrize(
        "shape", [(1, 1), (1, 7), (1, 8), (1, 9), (1, 40), (7, 1), (8, 1), (9, 1), (3, 5), (40, 1)]
    )
    @pytest.mark.parametrize("k", [4, 11, 16, 17, 32, 33])
    def test_tableaus_lanes_and_queues(self, shape: tuple[int, int], k: int) -> None:
        """Small problems take tableaus, many right-hand sides of larger ones lanes, eight at a time."""
        rng = np.random.default_rng(0)
        count, rows = shape
        gramian = np.stack([symmetric_gramian(rng.standard_normal((k, 2 * k))) for _ in range(count)])
        linear = rng.standard_normal((count, rows, k))
        raw = solve(gramian, linear)
        assert raw.x.dtype == np.float64
        assert raw.status.dtype == np.int8
        assert raw.iterations.dtype == np.int32
        assert (raw.status == codes.OPTIMAL).all()
        assert (raw.iterations[(raw.x > 0).any(axis=-1)] >= 1).all()
        for b in range(count):
            assert certify.worst_kkt_residual(gramian[b], linear[b], raw.x[b], range(rows)) <= 1e-13

    @pytest.mark.parametrize("threads", [1, 2, 5, 50])
    @pytest.mark.parametrize("shape", [(1, 30), (3, 10), (30, 1), (2, 2)])
    @pytest.mark.parametrize("k", [6, 20, 40])
    def test_threads_share_gramians_or_rows(self, shape: tuple[int, int], threads: int, k: int) -> None:
        rng = np.random.default_rng(0)
        gramian = np.stack([symmetric_gramian(rng.standard_normal((k, k - 2))) for _ in range(shape[0])])
        linear = gramian[:, rng.integers(0, k, shape[1])]
        expected, raw = solve(gramian, linear), solve(gramian, linear, threads)
        for one, other in zip(expected, raw, strict=True):
            assert np.array_equal(one, other)

    def test_hard_problems_next_to_easy_ones(self) -> None:
        """One problem that leaves the lanes for the finite active set must not disturb its neighbours."""
        rng = np.random.default_rng(0)
        easy = np.stack([symmetric_gramian(rng.standard_normal((4, 9))) for _ in range(24)])
        linear = rng.standard_normal((24, 4))
        expected = mojd.solve(NNQP(easy, linear), "active_set").x
        mixed, terms = easy.copy(), linear.copy()
        hard = symmetric_gramian(CYCLING_JACOBIAN)
        for i in (0, 5, 6, 23):
            mixed[i], terms[i] = hard, hard[0]
        solution = mojd.solve(NNQP(mixed, terms), "active_set")
        assert (solution.status == Status.OPTIMAL).all()
        others = np.setdiff1d(np.arange(24), (0, 5, 6, 23))
        np.testing.assert_allclose(solution.x[others], expected[others], rtol=1e-12, atol=1e-14)
        assert solution.kkt_residual.max() <= 1e-12

    def test_every_right_hand_side_of_a_large_gramian(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((96, 60)))
        solution = mojd.solve(NNQP(gramian, gramian), "active_set")
        assert (solution.status == Status.OPTIMAL).all()
        assert solution.kkt_residual.max() <= 1e-9
