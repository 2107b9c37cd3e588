"""The solvers of other libraries: their answers against exact ones, and what happens when they fail."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from unittest.mock import Mock

import numpy as np
import pytest

import mojd.solvers.cvxpy
import mojd.solvers.osqp
import mojd.solvers.qpsolvers
import mojd.solvers.scipy_nnls
from mojd._arrays import FLOAT64_PRECISION, FloatArray
from mojd.errors import MissingDependencyError
from mojd.kernels.status import INFEASIBLE, MAX_ITER, OPTIMAL
from mojd.solvers._registry import RawSolution, Solver, get_solver, registered_solvers
from mojd.solvers._rowwise import Answer, SolveOne, equilibrate, rowwise, unknown
from tests.reference import certify, exact
from tests.reference.families import FAMILIES, linear_terms, power_of_two_scales

NAMES = ("osqp", "cvxpy", "scipy_nnls", *(backend.name for backend in mojd.solvers.qpsolvers.BACKENDS))
FINDS_UNBOUNDED = {"osqp", "cvxpy", "scipy_nnls", "piqp", "qpalm", "scs", "clarabel"}
STOPS_EARLY = {"cvxopt"}  # on some singular Gramians
RETURNS_RAY = {"osqp", "scipy_nnls", "scs", "clarabel"}

# Two gradients that point in opposite directions: x = (t, t) costs nothing.
OPPOSITE = [[1.0, -1.0], [-1.0, 1.0]]


@pytest.fixture(params=NAMES)
def solver(request: pytest.FixtureRequest) -> Solver:
    """Each reference solver that is installed."""
    found = next(solver for solver in registered_solvers() if solver.name == request.param)
    if not found.is_available():
        pytest.skip(f"{', '.join(found.requires)} not installed")
    return found


def run(
    solver: Solver,
    gramian: Sequence[Sequence[float]] | FloatArray,
    linear: Sequence[Sequence[float]] | FloatArray,
) -> RawSolution:
    """Solve for one Gramian, and R right-hand sides, that must not be written to."""
    inputs = np.array(gramian, float)[None], np.array(linear, float)[None]
    for array in inputs:
        array.flags.writeable = False
    raw = solver.solve(*inputs, 1, FLOAT64_PRECISION)
    assert raw.x.dtype == np.float64
    assert raw.status.dtype == np.int8
    assert raw.iterations.dtype == np.int32
    assert raw.x.shape == inputs[1].shape
    assert raw.status.shape == raw.iterations.shape == inputs[1].shape[:2]
    return RawSolution(*(array[0] for array in raw))


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.well_posed])
def test_well_posed_problems_are_solved_to_the_registered_tolerance(solver: Solver, family: str) -> None:
    for size in (1, 2, 3, 5, 8, 17):
        rng = np.random.default_rng(size)
        sample = FAMILIES[family].sample(size, rng)
        linear = np.array([q for _, q in linear_terms(sample, rng)])
        raw = run(solver, sample.gramian, linear)
        assert (raw.status == OPTIMAL).all()
        assert (raw.x >= 0).all()
        residual = certify.worst_kkt_residual(sample.gramian, linear, raw.x, range(len(linear)))
        assert residual <= solver.kkt_tolerance


@pytest.mark.parametrize(
    "family", ["integers_rank_deficient", "antiparallel_grid", "duplicates_grid", "ties"]
)
def test_singular_gramians_match_exact_enumeration(solver: Solver, family: str) -> None:
    rng = np.random.default_rng(1)
    for size in (2, 3, 4):
        sample = FAMILIES[family].sample(size, rng)
        linear = np.array([*(q for _, q in linear_terms(sample, rng)), -np.ones(size)])
        raw = run(solver, sample.gramian, linear)
        for q, x, status in zip(linear, raw.x, raw.status, strict=True):
            truth = exact.solve_nnqp(sample.gramian.tolist(), q.tolist())
            if truth.status == "infeasible":
                assert status == INFEASIBLE or (status == MAX_ITER and solver.name not in FINDS_UNBOUNDED)
            elif solver.rank_deficient and solver.name not in STOPS_EARLY:
                assert status == OPTIMAL
            if status == OPTIMAL:
                assert float(truth.squared_distance(x.tolist())) <= 1e-8 * np.abs(q).max()


def test_unbounded_problem(solver: Solver) -> None:
    raw = run(solver, OPPOSITE, [[-1.0, -1.0], [-3e-200, 1e-200], [-1.0, 1.0]])
    if solver.name in FINDS_UNBOUNDED:
        assert raw.status.tolist() == [INFEASIBLE, INFEASIBLE, OPTIMAL]
        if solver.name in RETURNS_RAY:
            np.testing.assert_allclose(raw.x[:2], 1.0, rtol=1e-6)
        else:
            assert np.isnan(raw.x[:2]).all()
    else:
        assert raw.status[:2].tolist() == [MAX_ITER, MAX_ITER]
    if solver.rank_deficient:
        assert raw.status[2] == OPTIMAL
        np.testing.assert_allclose(raw.x[2, 0] - raw.x[2, 1], 1.0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(RETURNS_RAY))
def test_rays_prove_that_the_objective_has_no_bound(name: str) -> None:
    rng = np.random.default_rng(2)
    jacobian = rng.integers(-9, 10, (5, 8)).astype(float)
    jacobian[4] = -(jacobian[0] + 2 * jacobian[2])
    scale = power_of_two_scales(5, rng)
    jacobian *= scale[:, None]
    gramian = jacobian @ jacobian.T
    # q falls along the one ray of the null space, which combines rows 0, 2 and 4.
    linear = gramian @ (rng.standard_normal(5) / scale) - np.sqrt(np.diagonal(gramian))
    raw = run(get_solver(name), gramian, linear[None])
    assert raw.status[0] == INFEASIBLE
    assert certify.is_ray(gramian, linear, raw.x[0], tolerance=1e-3)


def test_zero_rows(solver: Solver) -> None:
    gramian = [[0.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]
    raw = run(solver, gramian, [[1.0, -2.0, 0.0], [0.0, -2.0, -1e-300], [-1.0, -2.0, -1.0], [0.0, 0.0, 0.0]])
    assert raw.status.tolist() == [OPTIMAL, INFEASIBLE, INFEASIBLE, OPTIMAL]
    np.testing.assert_allclose(
        raw.x, [[0.0, 0.5, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], rtol=1e-6
    )


def test_nothing_but_zero_rows(solver: Solver) -> None:
    raw = run(solver, np.zeros((2, 2)), [[1.0, 0.0], [0.0, -1.0]])
    assert raw.status.tolist() == [OPTIMAL, INFEASIBLE]
    assert raw.x.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_scales_by_powers_of_two_change_nothing_but_the_exponents(solver: Solver) -> None:
    rng = np.random.default_rng(3)
    jacobian = rng.standard_normal((6, 12))
    gramian = jacobian @ jacobian.T
    scale = power_of_two_scales(6, rng, span=100)
    raw = run(solver, gramian, gramian)
    rescaled = run(solver, gramian * scale[:, None] * scale, 2.0**-300 * gramian * scale)
    assert np.array_equal(rescaled.x, 2.0**-300 * raw.x / scale)
    assert np.array_equal(rescaled.status, raw.status)


def test_a_batch_is_its_problems_one_by_one(solver: Solver) -> None:
    rng = np.random.default_rng(4)
    jacobian = rng.standard_normal((3, 4, 8))
    gramian, linear = jacobian @ jacobian.swapaxes(1, 2), rng.standard_normal((3, 2, 4))
    raw = solver.solve(gramian, linear, 2, FLOAT64_PRECISION)
    for index in range(3):
        alone = run(solver, gramian[index], linear[index])
        assert np.array_equal(raw.x[index], alone.x)
    none = solver.solve(gramian[:0], linear[:0], 1, FLOAT64_PRECISION)
    assert none.x.shape == (0, 2, 4)


def test_solvers_agree_on_the_direction() -> None:
    rng = np.random.default_rng(5)
    jacobian = rng.standard_normal((12, 6))
    gramian = jacobian @ jacobian.T
    solvers = [s for s in registered_solvers() if s.name in NAMES and s.rank_deficient and s.is_available()]
    answers = [run(s, gramian, gramian) for s in solvers]
    expected = answers[[s.name for s in solvers].index("scipy_nnls")].x @ jacobian
    for x, status, _ in answers:
        # Half of these problems have minimisers of any size, and an interior point may never stop there.
        assert (status == OPTIMAL).sum() >= 6
        assert (status != INFEASIBLE).all()
        np.testing.assert_allclose((x @ jacobian)[status == OPTIMAL], expected[status == OPTIMAL], atol=1e-5)


def test_nothing_is_printed(solver: Solver, capfd: pytest.CaptureFixture[str]) -> None:
    # No bound is active on the first right-hand side, all are on the second.
    run(solver, [[2.0, 1.0], [1.0, 2.0]], [[-1.0, -1.0], [1.0, 1.0]])
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("gramian", [[[1.0, 3.0], [3.0, 1.0]], [[1.0, -3.0], [-3.0, 1.0]]])
def test_a_matrix_that_is_no_gramian_is_no_reason_to_raise(
    solver: Solver, gramian: list[list[float]]
) -> None:
    raw = run(solver, gramian, [[-1.0, -1.0]])
    if raw.status[0] == OPTIMAL:
        assert certify.kkt_residual(gramian, [-1.0, -1.0], raw.x[0]) <= 1e-3


@pytest.mark.parametrize("name", ["quadprog", "pyqpmad"])
def test_solvers_that_need_positive_definite_gramians_say_so(name: str) -> None:
    solver = next(solver for solver in registered_solvers() if solver.name == name)
    assert not solver.rank_deficient
    if not solver.is_available():
        pytest.skip(f"{name} not installed")
    raw = run(solver, OPPOSITE, [[-1.0, 1.0]])
    assert raw.status[0] == MAX_ITER
    assert np.isnan(raw.x).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _module: None)
    if name == "scipy_nnls":
        assert get_solver(name).is_available()
        return
    with pytest.raises(MissingDependencyError, match=rf"{name}.*pip install 'mojd\[solvers\]'"):
        get_solver(name)


def test_nnls_that_runs_out_of_iterations_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = RuntimeError("Maximum number of iterations reached.")
    monkeypatch.setattr("scipy.optimize.nnls", Mock(side_effect=limit))
    raw = run(get_solver("scipy_nnls"), np.eye(2), [[-1.0, -1.0]])
    assert raw.status[0] == MAX_ITER
    assert np.isnan(raw.x).all()


@pytest.mark.parametrize(
    ("name", "function", "error"),
    [
        ("scipy_nnls", "scipy.optimize.nnls", RuntimeError("out of luck")),
        ("scs", "qpsolvers.solve_problem", ValueError("out of luck")),
        ("osqp", "osqp.OSQP.setup", RuntimeError("out of luck")),
        ("cvxpy", "cvxpy.Problem.solve", ValueError("out of luck")),
    ],
)
def test_errors_that_no_library_documents_are_not_hidden(
    name: str, function: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = next(solver for solver in registered_solvers() if solver.name == name)
    if not solver.is_available():
        pytest.skip(f"{name} not installed")
    monkeypatch.setattr(function, Mock(side_effect=error))
    with pytest.raises(type(error), match="out of luck"):
        run(solver, np.eye(2), [[-1.0, -1.0]])


class Scripted:
    """A library that always gives the same answer, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.gramians: list[FloatArray] = []
        self.linears: list[FloatArray] = []

    def set_up(self, gramian: FloatArray) -> SolveOne:
        self.gramians.append(gramian)
        return self.solve_one

    def solve_one(self, linear: FloatArray) -> Answer:
        self.linears.append(linear)
        return self.answer

    def solve(self, gramian: Sequence[Sequence[float]] | FloatArray, linear: Sequence[float]) -> RawSolution:
        solver = Solver("scripted", rowwise(self.set_up), "", kkt_tolerance=0.0)
        return RawSolution(*(array[0] for array in run(solver, gramian, [linear])))


def test_a_gramian_is_set_up_once_for_all_its_right_hand_sides() -> None:
    library = Scripted(Answer(unknown(3), MAX_ITER))
    solve = rowwise(library.set_up)
    solve(np.stack([np.eye(3)] * 2), np.ones((2, 5, 3)), 1, FLOAT64_PRECISION)
    assert len(library.gramians) == 2
    assert len(library.linears) == 10


def test_libraries_see_scaled_problems() -> None:
    library = Scripted(Answer(unknown(2), MAX_ITER))
    library.solve([[3e40, 1e10], [1e10, 5e-20]], [-3e-100, 1e-130])
    assert ((np.diagonal(library.gramians[0]) >= 0.5) & (np.diagonal(library.gramians[0]) < 2)).all()
    assert 0.5 <= np.abs(library.linears[0]).max() < 1


def test_equilibration_is_exact() -> None:
    gramian = np.array([[3e-300, 1e-150], [1e-150, 7e299]])
    scaled, scale = equilibrate(gramian)
    assert (np.frexp(scale)[0] == 0.5).all()
    assert np.array_equal(scaled / scale[:, None] / scale, gramian)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(np.array([0.75, 0.75]), OPTIMAL), OPTIMAL),
        (Answer(np.array([0.75 + 1e-6, 0.75]), OPTIMAL), OPTIMAL),
        (Answer(np.array([0.85, 0.75]), OPTIMAL), MAX_ITER),
        (Answer(np.array([np.nan, 0.75]), OPTIMAL), MAX_ITER),
        (Answer(np.array([np.inf, 0.75]), OPTIMAL), MAX_ITER),
        (Answer(np.array([0.75, 0.75]), MAX_ITER), MAX_ITER),
        (Answer(np.array([0.75, 0.75]), INFEASIBLE), MAX_ITER),
        (Answer(np.array([0.0, 0.0]), INFEASIBLE), MAX_ITER),
        (Answer(unknown(2), INFEASIBLE), INFEASIBLE),
    ],
)
def test_answers_are_not_taken_on_trust(answer: Answer, status: int) -> None:
    # The problem is in its scaled form as it stands; its solution is (0.75, 0.75).
    assert Scripted(answer).solve(np.eye(2), [-0.75, -0.75]).status == status


def test_rounding_below_zero_is_cut_off() -> None:
    raw = Scripted(Answer(np.array([-1e-9, 0.5]), OPTIMAL)).solve(np.eye(2), [0.25, -0.5])
    assert raw.status == OPTIMAL
    assert raw.x.tolist() == [0.0, 0.5]


def test_rays_are_normalised_and_scaled_back() -> None:
    raw = Scripted(Answer(np.array([1e30, 1e30]), INFEASIBLE)).solve([[16.0, -4.0], [-4.0, 1.0]], [0.0, -1.0])
    assert raw.status == INFEASIBLE
    assert raw.x.tolist() == [0.25, 1.0]
