"""What every registered solver must do. A new solver file joins by existing.

Each solver is held to what its registration says of it: `kkt_tolerance`, `rank_deficient`, `max_size`,
`any_device` and `exact`. Solvers that claim to be exact must also get through the hard families. The CUDA
kernels take part as solver 'cuda' where there is a GPU, and everywhere compiled for the CPU.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import mojd
from mojd import NNQP, Status
from mojd.solvers import Solver, _registry, get_solver, register, registered_solvers
from tests.cuda.on_host import host_solver
from tests.reference import certify, exact
from tests.reference.bounds import WELL_POSED, residual_bound, stored_gramian
from tests.reference.families import FAMILIES, Floats, linear_terms, power_of_two_scales, symmetric_gramian

ON_HOST = host_solver()
ALL = (*registered_solvers(), ON_HOST)
EXACT = tuple(solver for solver in ALL if solver.exact)
WELL_POSED_FAMILIES = [name for name, family in FAMILIES.items() if family.well_posed]
SINGULAR_FAMILIES = [
    "integers_rank_deficient",
    "antiparallel_grid",
    "duplicates_grid",
    "ties",
    "zero_rows_grid",
]
# Once scaled, these overflow, or are no longer what float32 holds.
OUT_OF_RANGE = ("random_tiny", "random_huge", "float32_low_rank")
SIZES = (1, 2, 3, 4, 7, 16)
# Fast enough for all sizes of the hard families; other exact solvers get fewer.
COMPILED = {"active_set", "closed_form", "cuda", ON_HOST.name}


@pytest.fixture(autouse=True, scope="module")
def kernels_on_host() -> Iterator[None]:
    """Let the CUDA kernels on the CPU be solved with by name, in here alone."""
    register(ON_HOST)
    yield
    del _registry._SOLVERS[ON_HOST.name]


def named(solver: Solver) -> str:
    return solver.name


def skip_unless_available(solver: Solver) -> Solver:
    if not solver.is_available():
        pytest.skip(f"{', '.join(solver.requires)} not installed")
    return solver


@pytest.fixture(params=ALL, ids=named)
def solver(request: pytest.FixtureRequest) -> Solver:
    """Each solver that is installed."""
    return skip_unless_available(request.param)


@pytest.fixture(params=EXACT, ids=named)
def exact_solver(request: pytest.FixtureRequest) -> Solver:
    """Each solver that claims to solve the hard families."""
    return skip_unless_available(request.param)


def sizes(solver: Solver, *wanted: int) -> list[int]:
    return [k for k in wanted if solver.max_size is None or k <= solver.max_size]


def random_gramians(count: int, k: int, seed: int = 0) -> Floats:
    """Well-conditioned Gramians: K objectives, 3K parameters."""
    rows = np.random.default_rng(seed).standard_normal((count, k, 3 * k))
    return np.stack([symmetric_gramian(jacobian) for jacobian in rows])


def digits(solver: Solver) -> float:
    """How far two answers of a solver to one well-conditioned problem may lie apart, relatively."""
    return max(1e-13, 100 * solver.kkt_tolerance if not solver.exact else 0.0)


def assert_same(solver: Solver, actual: Any, expected: Any) -> None:
    scale = float(np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=digits(solver) * (scale or 1.0))


def assert_repeated(solver: Solver, actual: Any, expected: Any) -> None:
    """The same problem again: the same bits, but for libraries that round by where their arrays lie."""
    assert actual.dtype == expected.dtype
    if solver.exact:
        assert np.array_equal(actual, expected)
    else:
        precision = max(digits(solver), 2 * float(np.finfo(actual.dtype).eps))
        np.testing.assert_allclose(actual, expected, rtol=precision, atol=precision)


class TestRegistration:
    def test_names_are_unique_and_known(self) -> None:
        names = [solver.name for solver in ALL]
        assert len(names) == len(set(names))
        assert "auto" not in names
        assert set(mojd.available_solvers()) <= set(names)

    @pytest.mark.parametrize("solver", ALL, ids=named)
    def test_what_a_solver_says_of_itself(self, solver: Solver) -> None:
        assert solver.name.isidentifier()
        assert solver.summary
        assert "\n" not in solver.summary
        assert 0 < solver.kkt_tolerance <= 1e-4
        assert bool(solver.requires) == bool(solver.extra)
        if solver.exact:
            assert solver.kkt_tolerance <= WELL_POSED
            assert solver.rank_deficient

    @pytest.mark.parametrize("solver", [s for s in ALL if s.requires], ids=named)
    def test_its_extra_installs_what_it_needs(self, solver: Solver) -> None:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        listed = [line.split(">")[0] for line in project["optional-dependencies"][solver.extra]]
        # Wheels of CuPy are named by the CUDA that they are for.
        assert set(solver.requires) <= {name.split("-cuda")[0] for name in listed}

    @pytest.mark.parametrize("solver", [s for s in ALL if s.requires], ids=named)
    def test_a_missing_package_names_the_extra(self, solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _module: None)
        assert solver.name not in mojd.available_solvers()
        with pytest.raises(mojd.MissingDependencyError) as caught:
            mojd.solve(NNQP(np.eye(2), -np.ones(2)), solver.name)
        for part in (solver.name, *solver.requires, f"pip install 'mojd[{solver.extra}]'"):
            assert part in str(caught.value)

    def test_more_than_the_largest_size_is_refused(self, solver: Solver) -> None:
        if solver.max_size is None:
            return
        size = solver.max_size + 1
        with pytest.raises(mojd.InvalidInputError, match=f"K <= {solver.max_size}.*{size} x {size}.*auto"):
            mojd.solve(NNQP(np.eye(size), np.ones(size)), solver.name)


class TestAnswers:
    @pytest.mark.parametrize("family", WELL_POSED_FAMILIES)
    def test_well_posed_problems(self, solver: Solver, family: str) -> None:
        for k in sizes(solver, *SIZES):
            rng = np.random.default_rng(k)
            sample = FAMILIES[family].sample(k, rng)
            linear = np.array([q for _, q in linear_terms(sample, rng)])
            solution = mojd.solve(NNQP(sample.gramian, linear), solver.name)
            assert (solution.status == Status.OPTIMAL).all()
            assert (solution.x >= 0).all()
            worst = certify.worst_kkt_residual(sample.gramian, linear, solution.x, range(len(linear)))
            assert worst <= solver.kkt_tolerance, k

    @pytest.mark.parametrize("family", SINGULAR_FAMILIES)
    def test_singular_problems_against_exact_enumeration(self, solver: Solver, family: str) -> None:
        """No solver may call a wrong answer optimal, or a bounded problem infeasible."""
        for k in sizes(solver, 2, 3, 4):
            rng = np.random.default_rng(10 + k)
            sample = FAMILIES[family].sample(k, rng)
            linear = np.array([*(q for _, q in linear_terms(sample, rng)), -np.ones(k)])
            solution = mojd.solve(NNQP(sample.gramian, linear), solver.name)
            for i, q in enumerate(linear):
                truth = exact.solve_nnqp(sample.gramian, q)
                status, x = solution.status[i], solution.x[i]
                if solver.exact:
                    assert status == (Status.OPTIMAL if truth.status == "optimal" else Status.INFEASIBLE)
                if status == Status.OPTIMAL:
                    assert truth.status == "optimal"
                    distance = float(truth.squared_distance(x)) ** 0.5
                    assert distance <= solution.direction_error_bound[i]
                    # An interior point stops where x's is about its tolerance.
                    assert distance <= 1e3 * solver.kkt_tolerance**0.5 * float(np.abs(q).max())
                elif status == Status.INFEASIBLE:
                    assert truth.status == "infeasible"
                    ray = solution.ray[i]
                    assert np.isnan(ray).all() or certify.is_ray(sample.gramian, q, ray, tolerance=1e-3)
                else:
                    assert status == Status.MAX_ITER

    def test_unbounded_problems(self, solver: Solver) -> None:
        """The objective falls along (1, 1), (2, 1) and a zero row: never an answer, exact solvers a ray."""
        cases = [
            ([[1.0, -1.0], [-1.0, 1.0]], [-1.0, -1.0]),
            ([[1.0, -2.0], [-2.0, 4.0]], [-1.0, 1.0]),
            ([[1.0, 0.0], [0.0, 0.0]], [1.0, -1.0]),
        ]
        for gramian, linear in cases:
            solution = mojd.solve(NNQP(gramian, linear), solver.name)
            assert solution.status in (Status.INFEASIBLE, Status.MAX_ITER)
            if solver.exact:
                assert solution.status == Status.INFEASIBLE
                assert certify.is_ray(gramian, linear, solution.ray)
                assert np.isnan(solution.x).all()

    def test_no_linear_term_needs_no_weights(self, solver: Solver) -> None:
        for k in sizes(solver, 1, 3, 5):
            solution = mojd.solve(NNQP(random_gramians(1, k)[0], np.zeros(k)), solver.name)
            assert solution.status == Status.OPTIMAL
            assert solution.x.tolist() == [0.0] * k
            assert solution.kkt_residual == 0.0


class TestBatches:
    def test_right_hand_sides_that_share_a_gramian(self, solver: Solver) -> None:
        for k in sizes(solver, *((1, 2, 3, 5, 9) if solver.exact else (1, 4))):
            gramian = random_gramians(1, k)[0]
            linear = np.random.default_rng(k).standard_normal((11, k))
            together = mojd.solve(NNQP(gramian, linear), solver.name)
            alone = [mojd.solve(NNQP(gramian, q), solver.name) for q in linear]
            assert together.x.shape == (11, k)
            assert_same(solver, together.x, [one.x for one in alone])
            assert together.status.tolist() == [one.status for one in alone]

    def test_a_batch_is_its_problems_one_by_one(self, solver: Solver) -> None:
        for k in sizes(solver, *((1, 2, 3, 4, 8, 13) if solver.exact else (1, 4))):
            gramian = random_gramians(19, k)
            linear = np.random.default_rng(k).standard_normal((19, k))
            together = mojd.solve(NNQP(gramian, linear), solver.name)
            alone = [mojd.solve(NNQP(g, q), solver.name).x for g, q in zip(gramian, linear, strict=True)]
            assert_same(solver, together.x, alone)

    @pytest.mark.parametrize(
        ("gramians", "linears"),
        [
            ((3, 1), (4,)),
            ((), (2, 3)),
            ((2,), ()),
            ((2, 1), (1, 3)),
            ((3,), (2, 3)),
            ((1, 2), (3, 1)),
            ((1,), (5,)),
        ],
    )
    def test_leading_axes_broadcast(
        self, solver: Solver, gramians: tuple[int, ...], linears: tuple[int, ...]
    ) -> None:
        k = 3
        rng = np.random.default_rng(1)
        gramian = random_gramians(int(np.prod(gramians)), k).reshape(*gramians, k, k)
        linear = rng.standard_normal((*linears, k))
        solution = mojd.solve(NNQP(gramian, linear), solver.name)
        shape = np.broadcast_shapes(gramians, linears)
        assert solution.x.shape == (*shape, k)
        assert solution.status.shape == solution.iterations.shape == solution.kkt_residual.shape == shape
        matrices = np.broadcast_to(gramian, (*shape, k, k))
        vectors = np.broadcast_to(linear, (*shape, k))
        for index in np.ndindex(shape):
            alone = mojd.solve(NNQP(matrices[index], vectors[index]), solver.name)
            assert_same(solver, solution.x[index], alone.x)

    @pytest.mark.parametrize(
        ("gramians", "linears"), [((0,), (0,)), ((), (0,)), ((0,), ()), ((2, 0), (2, 0)), ((2, 1), (2, 0))]
    )
    @pytest.mark.parametrize("k", [2, 5])
    def test_empty_batches(
        self, solver: Solver, gramians: tuple[int, ...], linears: tuple[int, ...], k: int
    ) -> None:
        if k not in sizes(solver, k):
            return
        problem = NNQP(np.zeros((*gramians, k, k)), np.zeros((*linears, k)))
        solution = mojd.solve(problem, solver.name)
        shape = np.broadcast_shapes(gramians, linears)
        for array in (solution.x, solution.active, solution.slack, solution.ray):
            assert array.shape == (*shape, k)
        for array in (
            solution.status,
            solution.iterations,
            solution.kkt_residual,
            solution.gap,
            solution.direction_error_bound,
        ):
            assert array.shape == shape

    @pytest.mark.parametrize("own", [True, False], ids=["own Gramians", "shared Gramian"])
    def test_nan_in_one_problem_leaves_the_others_alone(self, solver: Solver, own: bool) -> None:
        for k in sizes(solver, *((2, 3, 5, 12) if solver.exact else (4,))):
            gramian = random_gramians(17, k) if own else random_gramians(1, k)[0]
            linear = np.random.default_rng(2).standard_normal((17, k))
            clean = mojd.solve(NNQP(gramian, linear), solver.name)
            spoilt_gramian, spoilt_linear, bad = gramian.copy(), linear.copy(), {4, 9}
            spoilt_linear[4, k - 1] = np.nan
            spoilt_linear[9, 0] = np.inf
            if own:
                spoilt_gramian[11, 0, 1] = spoilt_gramian[13, 1, 1] = np.nan
                spoilt_gramian[16, 1, 0] = -np.inf
                bad |= {11, 13, 16}
            problem = NNQP(spoilt_gramian, spoilt_linear)
            solution = mojd.solve(problem, solver.name, nonfinite="propagate")
            for i in range(17):
                if i in bad:
                    assert solution.status[i] == Status.NONFINITE
                    assert np.isnan(solution.x[i]).all()
                    assert np.isnan(solution.kkt_residual[i])
                else:
                    assert solution.status[i] == Status.OPTIMAL
                    # Which problems share a SIMD register may depend on the spoilt ones.
                    assert_same(solver, solution.x[i], clean.x[i])
            with pytest.raises(mojd.NonFiniteError, match="propagate"):
                mojd.solve(problem, solver.name)

    @pytest.mark.parametrize("threads", [2, 3, 64])
    def test_threads_change_nothing(self, solver: Solver, threads: int) -> None:
        rng = np.random.default_rng(3)
        for k in sizes(solver, *((2, 3, 6, 11) if solver.exact else (4,))):
            for gramian, linear in (
                (random_gramians(21, k), rng.standard_normal((21, k))),
                (random_gramians(1, k)[0], rng.standard_normal((21, k))),
                (random_gramians(5, k)[:, None], rng.standard_normal((5, 9, k))),
            ):
                one = mojd.solve(NNQP(gramian, linear), solver.name)
                many = mojd.solve(NNQP(gramian, linear), solver.name, threads=threads)
                assert np.array_equal(one.status, many.status)
                assert_repeated(solver, many.x, one.x)
                if solver.exact:
                    assert np.array_equal(one.iterations, many.iterations)

    def test_callers_in_many_threads_do_not_disturb_each_other(self, exact_solver: Solver) -> None:
        problems = [
            NNQP(gramian, linear)
            for k in sizes(exact_solver, 2, 3, 5, 24)
            for gramian, linear in zip(
                random_gramians(8, k), np.random.default_rng(k).standard_normal((8, k)), strict=True
            )
        ]

        def answer(problem: NNQP) -> Any:
            return mojd.solve(problem, exact_solver.name).x.copy()

        expected = [answer(problem) for problem in problems]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                for actual, wanted in zip(pool.map(answer, problems), expected, strict=True):
                    assert np.array_equal(actual, wanted)

    def test_an_answer_is_not_overwritten_by_the_next(self, solver: Solver) -> None:
        gramian = random_gramians(2, 3)
        first = mojd.solve(NNQP(gramian[0], [-1.0, -2.0, -3.0]), solver.name)
        x = first.x
        before = x.copy()
        mojd.solve(NNQP(gramian[1], [-3.0, 1.0, -2.0]), solver.name)
        assert np.array_equal(x, before)
        assert first.kkt_residual <= solver.kkt_tolerance


class TestArrays:
    def test_inputs_are_read_only(self, solver: Solver) -> None:
        linear = np.random.default_rng(4).standard_normal((4, 3))
        for gramian, q in ((random_gramians(1, 3)[0], linear[0]), (random_gramians(4, 3), linear)):
            expected = mojd.solve(NNQP(gramian, q), solver.name)
            gramian.flags.writeable = q.flags.writeable = False
            solution = mojd.solve(NNQP(gramian, q), solver.name)
            assert_repeated(solver, solution.x, expected.x)

    def test_inputs_are_not_written_to(self, solver: Solver) -> None:
        """For a single problem, a batch, and where the caller's memory is used as it is."""
        for k in sizes(solver, 2, 3, 6):
            for gramian, linear in (
                (random_gramians(1, k)[0], -np.ones(k)),
                (random_gramians(10, k), np.random.default_rng(0).standard_normal((10, k))),
                (random_gramians(1, k)[0], np.random.default_rng(0).standard_normal((10, k))),
            ):
                before = gramian.copy(), linear.copy()
                mojd.solve(NNQP(gramian, linear), solver.name)
                assert np.array_equal(gramian, before[0])
                assert np.array_equal(linear, before[1])

    def test_inputs_need_not_be_contiguous(self, solver: Solver) -> None:
        k = 3
        gramian = random_gramians(5, k)
        linear = np.random.default_rng(5).standard_normal((5, k))
        expected = mojd.solve(NNQP(gramian, linear), solver.name).x
        spread = np.zeros((10, 2 * k, 3 * k))[::2, ::2, ::3]
        spread[...] = gramian
        fortran = np.asfortranarray(linear)
        backwards = linear[::-1].copy()[::-1]
        for one, other in ((spread, linear), (np.asfortranarray(gramian), fortran), (gramian, backwards)):
            assert_repeated(solver, mojd.solve(NNQP(one, other), solver.name).x, expected)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_of_any_size(self, solver: Solver, dtype: type[np.floating[Any]]) -> None:
        """These numbers are exact in half precision; only the answer is rounded to the input's dtype."""
        gramian = np.array([[4.0, -2.0, 1.0], [-2.0, 8.0, 3.0], [1.0, 3.0, 6.0]])
        linear = np.array([[-3.0, 1.0, 2.0], [-1.0, -1.0, -1.0]])
        expected = mojd.solve(NNQP(gramian, linear), solver.name)
        solution = mojd.solve(NNQP(gramian.astype(dtype), linear.astype(dtype)), solver.name)
        assert solution.x.dtype == solution.slack.dtype == dtype
        assert_repeated(solver, solution.x, expected.x.astype(dtype))
        # Certificates are about the float64 answer, and are not rounded with it.
        assert solution.kkt_residual.dtype == np.float64
        assert (solution.kkt_residual <= solver.kkt_tolerance).all()

    @pytest.mark.parametrize("kind", [list, tuple, np.int8, np.int32, np.int64])
    def test_numbers_that_are_no_float_arrays(self, solver: Solver, kind: Any) -> None:
        gramian, linear = [[4, -2], [-2, 8]], [-3, -1]
        expected = mojd.solve(NNQP(np.array(gramian, float), np.array(linear, float)), solver.name)
        convert = kind if kind in (list, tuple) else (lambda values: np.array(values, dtype=kind))
        solution = mojd.solve(NNQP(convert(gramian), convert(linear)), solver.name)
        assert_repeated(solver, solution.x, expected.x)


def hard_families(solver: Solver) -> list[str]:
    return [name for name, family in FAMILIES.items() if sizes(solver, family.min_size)]


HARD_CASES = [
    pytest.param(solver, family, id=f"{solver.name}-{family}")
    for solver in EXACT
    for family in hard_families(solver)
]


def check_family(solver: Solver, family: str, k: int, seed: int, columns: int) -> None:
    """Solve one member of a family for its linear terms, and check statuses and residuals."""
    rng = np.random.default_rng(k + 1000 * seed)
    sample = FAMILIES[family].sample(k, rng)
    linear = np.array([q for _, q in linear_terms(sample, rng, upgrad=columns)])
    solution = mojd.solve(NNQP(stored_gramian(family, sample), linear), solver.name)
    for i, q in enumerate(linear):
        label = f"{family}, K={k}, seed {seed}, term {i}"
        if solution.status[i] == Status.INFEASIBLE:
            assert certify.is_ray(sample.gramian, q, solution.ray[i]), f"{label}: no ray"
            continue
        assert solution.status[i] == Status.OPTIMAL, label
        x = solution.x_float64[i]
        assert (x >= 0).all(), label
        residual = certify.kkt_residual(sample.gramian, q, x)
        assert residual <= residual_bound(family, sample.gramian, q, x), label


class TestExactSolvers:
    @pytest.mark.parametrize(("solver", "family"), HARD_CASES)
    def test_hard_families(self, solver: Solver, family: str) -> None:
        """Sizes on both sides of the edges of eight SIMD lanes; slow solvers stop earlier."""
        skip_unless_available(solver)
        wanted = (1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 32, 65) if solver.name in COMPILED else (2, 3, 5, 8, 13, 24)
        for k in sizes(solver, *wanted):
            if k < FAMILIES[family].min_size:
                continue
            for seed in range(3 if k <= 17 else 1):
                check_family(solver, family, k, seed, columns=8 if k < 17 else 4)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize(("name", "k"), [("active_set", 150), ("active_set", 512), (ON_HOST.name, 150)])
    def test_hard_families_at_large_sizes(self, family: str, name: str, k: int) -> None:
        check_family(get_solver(name), family, k, seed=0, columns=2 if k == 512 else 4)

    @pytest.mark.parametrize("family", [name for name in FAMILIES if name not in OUT_OF_RANGE])
    @pytest.mark.parametrize("span", [20, 100, 200])
    def test_powers_of_two_only_move_the_exponents(
        self, exact_solver: Solver, family: str, span: int
    ) -> None:
        for k in sizes(exact_solver, 1, 2, 3, 5, 10):
            if k < FAMILIES[family].min_size:
                continue
            rng = np.random.default_rng(k)
            sample = FAMILIES[family].sample(k, rng)
            linear = np.array([*(q for _, q in linear_terms(sample, rng, upgrad=4)), -np.ones(k)])
            scale = power_of_two_scales(k, rng, span)
            gramian = sample.gramian * scale[:, None] * scale
            plain = mojd.solve(NNQP(sample.gramian, linear), exact_solver.name)
            scaled = mojd.solve(NNQP(gramian, linear * scale), exact_solver.name)
            assert np.array_equal(scaled.status, plain.status)
            assert np.array_equal(scaled.x, plain.x / scale, equal_nan=True)
            # The length of a ray means nothing, and a zero row takes no part in the scaling.
            directions = [ray / ray.max(axis=1, keepdims=True) for ray in (scaled.ray * scale, plain.ray)]
            assert np.array_equal(directions[0], directions[1], equal_nan=True)

    def test_x_is_homogeneous_in_the_linear_term(self, exact_solver: Solver) -> None:
        for k in sizes(exact_solver, 1, 2, 3, 6, 11):
            gramian = random_gramians(1, k)[0]
            linear = np.random.default_rng(k).standard_normal((9, k))
            x = mojd.solve(NNQP(gramian, linear), exact_solver.name).x
            for factor in (2.0**-80, 2.0**80):
                scaled = mojd.solve(NNQP(gramian, factor * linear), exact_solver.name).x
                assert np.array_equal(scaled, factor * x)
            for factor in (3.0, 1e-30):
                scaled = mojd.solve(NNQP(gramian, factor * linear), exact_solver.name).x
                assert_same(exact_solver, scaled, factor * x)
                both = mojd.solve(NNQP(factor * gramian, factor * linear), exact_solver.name).x
                assert_same(exact_solver, both, x)

    def test_the_order_of_the_objectives_does_not_matter(self, exact_solver: Solver) -> None:
        for k in sizes(exact_solver, 2, 3, 6, 19):
            rng = np.random.default_rng(k)
            gramian, linear, order = random_gramians(1, k)[0], rng.standard_normal((6, k)), rng.permutation(k)
            x = mojd.solve(NNQP(gramian, linear), exact_solver.name).x
            permuted = mojd.solve(NNQP(gramian[np.ix_(order, order)], linear[:, order]), exact_solver.name).x
            assert_same(exact_solver, permuted, x[:, order])

    @pytest.mark.parametrize("scaled", [False, True])
    def test_unbounded_problems_come_with_their_ray(self, exact_solver: Solver, scaled: bool) -> None:
        """Rows that cancel with weights alpha > 0, and a linear term that falls along alpha."""
        for k in sizes(exact_solver, 2, 3, 4, 6, 12):
            rng = np.random.default_rng(k)
            for _ in range(5):
                rows = rng.integers(-9, 10, (k, 2 * k)).astype(float)
                members = rng.permutation(k)[: int(rng.integers(2, k + 1))]
                alpha = np.zeros(k)
                alpha[members] = [*rng.integers(1, 5, len(members) - 1), 1]
                rows[members[-1]] = -(alpha[members[:-1]] @ rows[members[:-1]])
                scale = power_of_two_scales(k, rng) if scaled else np.ones(k)
                gramian = symmetric_gramian(rows * scale[:, None])
                linear = gramian @ (rng.integers(-5, 6, k) / scale) - (alpha > 0) * scale
                solution = mojd.solve(NNQP(gramian, linear), exact_solver.name)
                assert solution.status == Status.INFEASIBLE
                assert certify.is_ray(gramian, linear, solution.ray)
                # The null space has one dimension: the ray is alpha, up to its length.
                ray = solution.ray * scale
                np.testing.assert_allclose(ray / ray.max(), alpha / alpha.max(), atol=1e-9)

    @pytest.mark.parametrize("exact_solver", EXACT, ids=named)
    @given(data=st.data())
    def test_any_gramian_of_integers(self, exact_solver: Solver, data: st.DataObject) -> None:
        """Any shape, rank, scale and batch: true statuses, and the exact direction."""
        skip_unless_available(exact_solver)
        k = data.draw(st.integers(1, min(5, exact_solver.max_size or 5)), label="K")
        n = data.draw(st.integers(1, k + 2), label="n")
        batch = data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]), label="batch")
        entries = st.integers(-4, 4)
        count = int(np.prod(batch))
        rows = np.array(
            data.draw(st.lists(entries, min_size=count * k * n, max_size=count * k * n), label="J"), float
        ).reshape(*batch, k, n)
        scale = 2.0 ** np.array(
            data.draw(st.lists(st.integers(-30, 30), min_size=k, max_size=k), label="log D")
        )
        rows *= scale[:, None]
        gramian = rows @ np.swapaxes(rows, -1, -2)
        coefficients = np.array(data.draw(st.lists(entries, min_size=k, max_size=k), label="q"), float)
        in_range = data.draw(st.booleans(), label="q in the range of G")
        linear = (
            gramian @ (coefficients / scale)
            if in_range
            else np.broadcast_to(coefficients * scale, (*batch, k))
        )
        solution = mojd.solve(NNQP(gramian, linear), exact_solver.name)
        statuses = np.asarray(solution.status)
        for index in np.ndindex(batch):
            truth = exact.solve_nnqp(gramian[index], linear[index])
            if truth.status == "infeasible":
                assert statuses[index] == Status.INFEASIBLE
                assert certify.is_ray(gramian[index], linear[index], solution.ray[index])
                continue
            assert statuses[index] == Status.OPTIMAL
            x = solution.x[index]
            floor = exact.rounding_floor(truth.nearest(x), gramian[index])
            assert exact.direction_error(x, truth.x, gramian[index]) <= 1e-12 + 10 * floor
            distance = float(truth.squared_distance(x)) ** 0.5
            assert distance <= np.asarray(solution.direction_error_bound)[index]

    @pytest.mark.parametrize("exact_solver", EXACT, ids=named)
    @given(
        k=st.integers(1, 12),
        n=st.integers(1, 24),
        log_scale=st.floats(-12, 12),
        spread=st.floats(0, 12),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_any_gramian_of_floats(
        self, exact_solver: Solver, k: int, n: int, log_scale: float, spread: float, seed: int
    ) -> None:
        """Any shape, rank and scale, norms up to 1e12 apart, on UPGrad's own problems."""
        skip_unless_available(exact_solver)
        assume(k in sizes(exact_solver, k))
        rng = np.random.default_rng(seed)
        norms = 10.0 ** (log_scale + spread * rng.uniform(-0.5, 0.5, k))
        gramian = symmetric_gramian(rng.standard_normal((k, n)) * norms[:, None])
        solution = mojd.solve(NNQP(gramian, gramian), exact_solver.name)
        assert (solution.status == Status.OPTIMAL).all()
        assert certify.worst_kkt_residual(gramian, gramian, solution.x, range(k)) <= 1e-9
