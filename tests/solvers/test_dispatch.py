"""mojd.solve: which solver is taken, which path, and that all paths answer alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mojd
from mojd import NNQP, Status
from mojd._arrays import Precision
from mojd.solvers import Solver, _registry, get_solver, register, registered_solvers
from mojd.solvers._registry import RawSolution
from tests.reference.families import Floats, symmetric_gramian


class Spy:
    """A solver that remembers what it was given, and answers with zeros."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, int, Precision]] = []

    def solve(self, gramian: Any, linear: Any, threads: int, precision: Precision) -> RawSolution:
        self.calls.append((gramian, linear, threads, precision))
        shape = linear.shape[:2]
        return RawSolution(np.zeros(linear.shape), np.zeros(shape, np.int8), np.full(shape, 7, np.int32))


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """A registered solver called 'spy', for the time of one test."""
    monkeypatch.setattr(_registry, "_SOLVERS", dict(_registry._SOLVERS))
    found = Spy()
    register(Solver("spy", found.solve, "looks on", kkt_tolerance=1.0))
    return found


def random_problem(k: int, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return symmetric_gramian(rng.standard_normal((k, 2 * k))), rng.standard_normal(k)


class TestRegistry:
    def test_a_registered_solver_can_be_asked_for(self, spy: Spy) -> None:
        assert "spy" in mojd.available_solvers()
        assert get_solver("spy").summary == "looks on"
        solution = mojd.solve(NNQP(*random_problem(4)), "spy")
        assert solution.x.tolist() == [0.0] * 4
        assert solution.iterations == 7
        assert solution.status is Status.OPTIMAL
        # Whatever it says of itself, the certificate is ours.
        assert solution.kkt_residual > 0.1

    def test_a_name_is_taken_once(self, spy: Spy) -> None:
        with pytest.raises(mojd.InvalidInputError, match="'spy' is already registered"):
            register(Solver("spy", spy.solve, "again", kkt_tolerance=1.0))

    def test_the_order_is_that_of_the_tables(self) -> None:
        names = [solver.name for solver in registered_solvers()]
        assert names[:3] == ["active_set", "closed_form", "array_api"]
        assert mojd.available_solvers() == tuple(s.name for s in registered_solvers() if s.is_available())

    def test_our_own_need_nothing_more(self) -> None:
        for name in ("closed_form", "active_set", "array_api", "scipy_nnls"):
            assert get_solver(name).requires == ()


class TestWhatSolversSee:
    @pytest.mark.parametrize(
        ("gramian", "linear", "flat"),
        [
            ((3, 3), (3,), (1, 1)),
            ((3, 3), (5, 3), (1, 5)),
            ((5, 3, 3), (5, 3), (5, 1)),
            ((2, 1, 3, 3), (4, 3), (2, 4)),
        ],
    )
    def test_flat_float64_arrays(
        self, spy: Spy, gramian: tuple[int, ...], linear: tuple[int, ...], flat: tuple[int, int]
    ) -> None:
        for dtype in (np.float32, np.float64, np.int64):
            matrices = np.broadcast_to(np.eye(3), gramian).astype(dtype)
            mojd.solve(NNQP(matrices, np.ones(linear, dtype)), "spy", threads=3)
            seen_gramian, seen_linear, threads, precision = spy.calls[-1]
            assert seen_gramian.shape == (flat[0], 3, 3)
            assert seen_linear.shape == (*flat, 3)
            for array in (seen_gramian, seen_linear):
                assert array.dtype == np.float64
                assert array.flags.c_contiguous
            assert threads == 3
            assert precision.tolerance == (2.0**-11.5 if dtype == np.float32 else 2.0**-26)

    def test_no_nan_reaches_a_solver_that_does_not_look_for_it(self, spy: Spy) -> None:
        gramians = np.stack([np.eye(2)] * 4)
        gramians[1, 0, 1] = np.nan
        linear = np.ones((4, 3, 2))
        linear[2, 1, 0] = np.inf
        solution = mojd.solve(NNQP(gramians[:, None], linear), "spy", nonfinite="propagate")
        seen_gramian, seen_linear, _, _ = spy.calls[-1]
        assert np.isfinite(seen_gramian).all()
        assert np.isfinite(seen_linear).all()
        expected = np.zeros((4, 3))
        expected[1] = expected[2, 1] = Status.NONFINITE
        assert np.array_equal(solution.status, expected)
        assert np.array_equal(solution.iterations, np.where(expected == 0, 7, 0))
        assert np.array_equal(np.isnan(solution.x).all(axis=-1), expected != 0)

    def test_what_is_no_gramian_reaches_no_solver(self, spy: Spy) -> None:
        for bad in ([[1.0, 0.5], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]):
            with pytest.raises(mojd.InvalidInputError):
                mojd.solve(NNQP(bad, [1.0, 1.0]), "spy")
        assert spy.calls == []

    def test_options_are_checked_first(self, spy: Spy) -> None:
        for options in ({"threads": 0}, {"nonfinite": "no"}):
            with pytest.raises(mojd.InvalidInputError):
                mojd.solve(NNQP(np.eye(2), [1.0, 1.0]), "spy", **options)
        assert spy.calls == []


class TestAuto:
    @pytest.mark.parametrize(
        ("k", "name"), [(1, "closed_form"), (3, "closed_form"), (4, "active_set"), (30, "active_set")]
    )
    def test_which_solver_is_taken(self, k: int, name: str) -> None:
        gramian, linear = random_problem(k)
        batch = NNQP(np.stack([gramian] * 3), linear)
        auto, chosen = mojd.solve(batch), mojd.solve(batch, name)
        assert np.array_equal(auto.x, chosen.x)
        assert np.array_equal(auto.iterations, chosen.iterations)

    @pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 20, 60])
    def test_the_short_way_for_one_problem_leads_to_the_same_place(self, k: int) -> None:
        """One float64 problem takes a path of its own, past all checks and copies."""
        for seed in range(5):
            gramian, linear = random_problem(k, seed)
            short = mojd.solve(NNQP(gramian, linear))
            long = mojd.solve(NNQP(gramian[None], linear[None]))
            np.testing.assert_allclose(short.x, long.x[0], rtol=1e-13, atol=1e-14)
            assert short.status == long.status[0]
            assert short.kkt_residual <= 1e-12

    def test_the_short_way_gives_up_nothing(self) -> None:
        cases: list[tuple[Any, Any, Any]] = [
            ([[1.0, -1.0], [-1.0, 1.0]], [-1.0, -1.0], Status.INFEASIBLE),
            ([[0.0]], [-1.0], Status.INFEASIBLE),
            ([[0.0]], [1.0], Status.OPTIMAL),
            ([[1.0]], [np.nan], mojd.NonFiniteError),
            ([[np.inf]], [1.0], mojd.NonFiniteError),
            ([[1.0, 0.5], [0.4, 1.0]], [1.0, 1.0], mojd.InvalidInputError),
            ([[1.0, 2.0], [2.0, 1.0]], [1.0, 1.0], mojd.InvalidInputError),
        ]
        for gramian, linear, expected in cases:
            for padding in (0, 3):
                # Orthogonal rows more: from the closed forms to the active set.
                size = len(linear) + padding
                matrix, vector = np.eye(size), np.ones(size)
                matrix[: len(linear), : len(linear)] = gramian
                vector[: len(linear)] = linear
                problem = NNQP(matrix, vector)
                if isinstance(expected, Status):
                    assert mojd.solve(problem).status is expected
                else:
                    with pytest.raises(expected):
                        mojd.solve(problem)

    def test_slight_asymmetry_is_averaged(self) -> None:
        gramian, linear = random_problem(5)
        tilted = gramian + 1e-12 * np.triu(gramian, 1)
        mean = 0.5 * (tilted + tilted.T)
        for solver in ("auto", "active_set", "array_api"):
            x = mojd.solve(NNQP(tilted, linear), solver).x
            np.testing.assert_allclose(x, mojd.solve(NNQP(mean, linear), solver).x, rtol=1e-13)
        for k in (2, 3):
            x = mojd.solve(NNQP(tilted[:k, :k], linear[:k])).x
            np.testing.assert_allclose(x, mojd.solve(NNQP(mean[:k, :k], linear[:k])).x, rtol=1e-13)
