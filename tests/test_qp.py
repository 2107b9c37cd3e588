"""The problem and its solution: shapes, laziness, what a status means, and what a certificate is about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import mojd
from mojd import NNQP, Solution, Status
from tests.reference import certify
from tests.reference.families import symmetric_gramian


def solution_of(gramian: Any, linear: Any, x: Any, status: Any = 0) -> Solution:
    """Certify an x that no solver has found."""
    problem = NNQP(np.asarray(gramian, float), np.asarray(linear, float))
    shape = problem.flatten().linear.shape
    raw = np.array(x, float).reshape(shape)
    statuses = np.broadcast_to(np.asarray(status, np.int8).reshape(-1, 1), (shape[0] * shape[1], 1))
    return Solution(problem, raw, statuses.reshape(shape[:2]).copy(), np.zeros(shape[:2], np.int32))


class TestNNQP:
    @pytest.mark.parametrize(
        ("gramian", "linear", "batch", "flat"),
        [
            ((3, 3), (3,), (), (1, 1)),
            ((3, 3), (5, 3), (5,), (1, 5)),
            ((3, 3), (2, 5, 3), (2, 5), (1, 10)),
            ((4, 3, 3), (4, 3), (4,), (4, 1)),
            ((4, 3, 3), (3,), (4,), (4, 1)),
            ((4, 1, 3, 3), (6, 3), (4, 6), (4, 6)),
            ((4, 1, 3, 3), (4, 6, 3), (4, 6), (4, 6)),
            ((1, 1, 3, 3), (4, 6, 3), (4, 6), (1, 24)),
            ((1, 6, 3, 3), (4, 6, 3), (4, 6), (24, 1)),
            ((2, 1, 5, 1, 3, 3), (4, 5, 7, 3), (2, 4, 5, 7), (40, 7)),
            ((0, 3, 3), (0, 3), (0,), (0, 1)),
            ((3, 3), (0, 3), (0,), (1, 0)),
        ],
    )
    def test_right_hand_sides_that_share_a_gramian_stay_together(
        self, gramian: tuple[int, ...], linear: tuple[int, ...], batch: tuple[int, ...], flat: tuple[int, int]
    ) -> None:
        rng = np.random.default_rng(0)
        problem = NNQP(rng.random(gramian), rng.random(linear))
        assert problem.batch_shape == batch
        assert problem.size == 3
        matrices, vectors = problem.flatten()
        assert matrices.shape == (flat[0], 3, 3)
        assert vectors.shape == (*flat, 3)
        # In the order of the batch: problem by problem, row by row.
        expected = np.broadcast_to(problem.gramian, (*batch, 3, 3)).reshape(*flat, 3, 3)
        assert np.array_equal(np.broadcast_to(matrices[:, None], (*flat, 3, 3)), expected)
        assert np.array_equal(vectors, np.broadcast_to(problem.linear, (*batch, 3)).reshape(*flat, 3))
        for array in (matrices, vectors):
            assert array.dtype == np.float64
            assert array.flags.c_contiguous

    def test_it_keeps_the_arrays_that_it_was_given(self) -> None:
        gramian, linear = np.eye(3, dtype=np.float32), np.ones((2, 3))
        problem = NNQP(gramian, linear)
        assert problem.gramian is gramian
        assert problem.linear is linear

    def test_float64_is_not_copied(self) -> None:
        gramian, linear = np.eye(3), np.ones((2, 3))
        flat = NNQP(gramian, linear).flatten()
        assert np.shares_memory(flat.gramian, gramian)
        assert np.shares_memory(flat.linear, linear)

    def test_repr_shows_shapes(self) -> None:
        assert repr(NNQP(np.eye(3), np.ones((2, 3)))) == "NNQP(size=3, batch_shape=(2,), ndarray)"

    def test_it_has_no_other_attributes(self) -> None:
        problem: Any = NNQP(np.eye(2), np.ones(2))
        with pytest.raises(AttributeError):
            problem.lineer = np.ones(2)


class TestStatus:
    def test_values(self) -> None:
        """Kernels and other libraries' adapters return these numbers."""
        assert [(status.name, int(status)) for status in Status] == [
            ("OPTIMAL", 0),
            ("INFEASIBLE", 1),
            ("NONFINITE", 2),
            ("MAX_ITER", 3),
        ]

    def test_values_are_those_of_the_kernels(self) -> None:
        from mojd.kernels import status

        for member in Status:
            assert getattr(status, member.name) == member

    @pytest.mark.parametrize(
        ("status", "hint"),
        [
            (Status.OPTIMAL, "solved"),
            (Status.INFEASIBLE, "Solution.ray"),
            (Status.NONFINITE, "skip this step"),
            (Status.MAX_ITER, "solver='active_set'"),
        ],
    )
    def test_messages_say_what_to_do(self, status: Status, hint: str) -> None:
        assert hint in status.message


class TestOneProblem:
    def test_numbers_are_numbers(self) -> None:
        for linear in ([-3.0, 1.0], [-3.0, -9.0]):
            for solver in ("auto", "active_set", "array_api", "scipy_nnls"):
                solution = mojd.solve(NNQP([[2.0, 1.0], [1.0, 2.0]], linear), solver)
                assert type(solution.status) is Status
                assert type(solution.iterations) is int
                for name in ("kkt_residual", "gap", "direction_error_bound"):
                    assert isinstance(getattr(solution, name), float), name
                assert solution.x.shape == solution.slack.shape == solution.active.shape == (2,)

    def test_worked_example(self) -> None:
        solution = mojd.solve(NNQP([[2.0, 1.0], [1.0, 2.0]], [-3.0, 1.0]))
        assert solution.x.tolist() == [1.5, 0.0]
        assert solution.active.tolist() == [True, False]
        assert solution.slack.tolist() == [0.0, 2.5]
        assert solution.kkt_residual == 0.0
        assert solution.gap == 0.0
        assert np.isnan(solution.ray).all()
        assert solution.problem.size == 2
        assert solution.status is Status.OPTIMAL

    def test_repr_shows_the_status(self) -> None:
        solution = mojd.solve(NNQP(np.eye(2), -np.ones(2)))
        assert repr(solution).startswith("Solution(status=<Status.OPTIMAL: 0>, problem=NNQP(size=2")

    def test_infeasible(self) -> None:
        solution = mojd.solve(NNQP([[1.0, -1.0], [-1.0, 1.0]], [-1.0, -1.0]))
        assert solution.status is Status.INFEASIBLE
        assert certify.is_ray([[1.0, -1.0], [-1.0, 1.0]], [-1.0, -1.0], solution.ray)
        assert np.isnan(solution.x).all()
        assert np.isnan(solution.slack).all()
        assert not solution.active.any()
        for name in ("kkt_residual", "gap", "direction_error_bound"):
            assert math.isnan(getattr(solution, name))

    def test_nonfinite(self) -> None:
        solution = mojd.solve(NNQP(np.eye(2), [np.nan, 1.0]), nonfinite="propagate")
        assert solution.status is Status.NONFINITE
        assert np.isnan(solution.x).all()
        assert np.isnan(solution.ray).all()
        assert math.isnan(solution.kkt_residual)
        assert not solution.active.any()


class TestBatches:
    def test_mixed_statuses(self) -> None:
        gramian = np.array([[[1.0, -1.0], [-1.0, 1.0]]] * 3 + [np.eye(2)])
        linear = np.array([[-1.0, 1.0], [-1.0, -1.0], [np.inf, 0.0], [-2.0, 3.0]])
        solution = mojd.solve(NNQP(gramian, linear), nonfinite="propagate")
        assert solution.status.tolist() == [
            Status.OPTIMAL,
            Status.INFEASIBLE,
            Status.NONFINITE,
            Status.OPTIMAL,
        ]
        assert solution.status.dtype.kind == solution.iterations.dtype.kind == "i"
        assert np.isnan(solution.x).any(axis=1).tolist() == [False, True, True, False]
        assert np.isnan(solution.kkt_residual).tolist() == [False, True, True, False]
        assert np.isnan(solution.gap).tolist() == [False, True, True, False]
        assert np.isnan(solution.direction_error_bound).tolist() == [False, True, True, False]
        assert np.isnan(solution.ray).all(axis=1).tolist() == [True, False, True, True]
        assert solution.active.tolist() == [[True, False], [False, False], [False, False], [True, False]]

    def test_certificates_belong_to_their_problem(self) -> None:
        rng = np.random.default_rng(0)
        gramian = np.stack([symmetric_gramian(rng.standard_normal((4, 9))) for _ in range(6)]).reshape(
            2, 3, 1, 4, 4
        )
        linear = rng.standard_normal((3, 5, 4))
        solution = mojd.solve(NNQP(gramian, linear))
        assert solution.x.shape == (2, 3, 5, 4)
        for index in np.ndindex(2, 3, 5):
            g, q, x = gramian[index[:2]][0], linear[index[1:]], solution.x[index]
            np.testing.assert_allclose(solution.slack[index], g @ x + q, atol=1e-13)
            assert solution.gap[index] == pytest.approx(certify.gap(g, q, x), rel=1e-9, abs=1e-25)
            residual = certify.kkt_residual(g, q, x)
            assert solution.kkt_residual[index] == pytest.approx(residual, rel=1e-9, abs=1e-25)


class TestCertificatesOfAnyPoint:
    """What a solver returned is certified, not what it should have returned."""

    def test_a_wrong_answer_is_seen(self) -> None:
        solution = solution_of([[2.0, 1.0], [1.0, 2.0]], [-3.0, 1.0], [1.0, 0.5])
        assert solution.status is Status.OPTIMAL
        assert solution.slack.tolist() == [-0.5, 3.0]
        assert solution.kkt_residual == pytest.approx(0.5 * math.sqrt(2) / (3 / math.sqrt(2)))
        assert solution.gap == 1.0
        assert (
            solution.direction_error_bound
            >= float(np.array([-0.5, 0.5]) @ [[2, 1], [1, 2]] @ [-0.5, 0.5]) ** 0.5
        )

    def test_a_negative_weight_is_seen(self) -> None:
        solution = solution_of(np.eye(2), [1.0, -1.0], [-0.25, 1.0])
        assert solution.kkt_residual == 0.25
        assert solution.direction_error_bound >= 0.25

    def test_a_point_that_was_given_up_on(self) -> None:
        """MAX_ITER keeps the best x there is, with its certificates."""
        solution = solution_of(np.eye(2), [-1.0, -1.0], [0.5, 1.0], status=3)
        assert solution.status is Status.MAX_ITER
        assert solution.x.tolist() == [0.5, 1.0]
        assert solution.kkt_residual == 0.5
        assert solution.direction_error_bound >= 0.5

    def test_no_point_at_all(self) -> None:
        solution = solution_of(np.eye(2), [-1.0, -1.0], [np.nan, np.nan], status=3)
        assert math.isnan(solution.kkt_residual)

    def test_nothing_asked_nothing_wrong(self) -> None:
        assert solution_of(np.eye(2), [0.0, 0.0], [0.0, 0.0]).kkt_residual == 0.0

    def test_the_answer_to_no_question_is_nothing(self) -> None:
        """q = 0 has no scale to measure x by: it counts as it is."""
        assert solution_of(np.eye(2), [0.0, 0.0], [0.5, 0.0]).kkt_residual == 0.5

    def test_certificates_of_a_batch(self) -> None:
        gramian = [[2.0, 1.0], [1.0, 2.0]]
        solution = solution_of(gramian, [[-3.0, 1.0]] * 2, [[1.5, 0.0], [1.0, 0.5]])
        assert solution.kkt_residual[0] == 0.0
        assert solution.kkt_residual[1] > 0.1


class TestPrecision:
    def test_certificates_are_about_the_answer_before_it_is_rounded(self) -> None:
        gramian = np.array([[3.0, 1.0], [1.0, 7.0]], dtype=np.float32)
        solution = mojd.solve(NNQP(gramian, np.array([-1.0, -1.0], dtype=np.float32)))
        assert solution.x.dtype == solution.slack.dtype == np.float32
        assert solution.x_float64.dtype == np.float64
        assert solution.kkt_residual < 1e-15
        assert certify.kkt_residual(gramian, [-1.0, -1.0], solution.x) > 1e-10

    def test_the_dtype_of_the_gramian_decides(self) -> None:
        solution = mojd.solve(NNQP(np.eye(2, dtype=np.float32), -np.ones(2)))
        assert solution.x.dtype == np.float32
        solution = mojd.solve(NNQP(np.eye(2), -np.ones(2, dtype=np.float32)))
        assert solution.x.dtype == np.float64

    def test_results_are_computed_once(self) -> None:
        solution = mojd.solve(NNQP(np.eye(5), -np.ones((3, 5))))
        assert solution.x is solution.x
        assert solution.slack is solution.slack
        assert solution.kkt_residual is solution.kkt_residual
