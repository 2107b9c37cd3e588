"""What every registered method that is a quadratic programme must do. A new method file joins by existing.

A method is a function from Gramians to weights, and the problem that it solves together with the lift
from the problem's minimisers to weights. The contract: both say the same, for every exact solver, and the
exact answer is theirs, where tests/reference has the method.
"""

from __future__ import annotations

import inspect
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd.solvers import registered_solvers
from mojd.weightings import QuadraticWeighting, registered_programmes
from mojd.weightings._shared import view
from tests.reference import exact
from tests.reference import rational as ra
from tests.reference.bounds import direction_error, stored_gramian
from tests.reference.families import FAMILIES, Floats, symmetric_gramian

WEIGHTINGS = registered_programmes()
EXACT_SOLVERS = tuple(solver for solver in registered_solvers() if solver.exact and solver.is_available())
EXACT_FAMILIES = [name for name, family in FAMILIES.items() if family.exact]
# The largest problem of a method is as large as its Gramian.
ANY_SIZE = tuple(solver for solver in EXACT_SOLVERS if solver.max_size is None)


def named(item: Any) -> str:
    return str(item.name)


@pytest.fixture(params=WEIGHTINGS, ids=named)
def weighting(request: pytest.FixtureRequest) -> QuadraticWeighting:
    """Each weighting."""
    found: QuadraticWeighting = request.param
    return found


def random_gramians(count: int, k: int, seed: int = 0) -> Floats:
    rows = np.random.default_rng(seed).standard_normal((count, k, 3 * k))
    return np.stack([symmetric_gramian(jacobian) for jacobian in rows])


def by_problem(weighting: QuadraticWeighting, gramian: Floats, solver: str) -> Floats:
    """Compute the weights through the method's own problem and lift."""
    solution = mojd.solve(weighting.problem(gramian), solver)
    weights: Floats = weighting.lift(solution.x_float64, view(gramian))
    return weights


def exact_weights(weighting: QuadraticWeighting, gramian: Floats) -> list[Fraction]:
    """Enumerate; skip a method for which there is no reference."""
    reference = getattr(exact, weighting.name, None)
    if reference is None:
        pytest.skip(f"tests/reference/exact.py has no {weighting.name}")
    default = inspect.signature(weighting.weights).parameters.get("tau")
    found = reference(gramian) if default is None else reference(gramian, default.default).weights
    return list(found)


def direction_errors(weighting: QuadraticWeighting, gramian: Floats, weights: Floats) -> tuple[float, float]:
    """Return the relative error of the direction, and the error that rounding exact weights makes."""
    truth = exact_weights(weighting, gramian)
    return direction_error(weights, truth, gramian), exact.rounding_floor(truth, gramian)


class TestRegistration:
    def test_names_are_unique(self) -> None:
        names = [weighting.name for weighting in WEIGHTINGS]
        assert len(names) == len(set(names))

    def test_it_is_public_under_its_name(self, weighting: QuadraticWeighting) -> None:
        assert getattr(mojd, weighting.name) is weighting.weights
        assert getattr(mojd, f"{weighting.name}_problem") is weighting.problem
        assert {weighting.name, f"{weighting.name}_problem"} <= set(mojd.__all__)

    def test_it_says_what_it_is(self, weighting: QuadraticWeighting) -> None:
        for text in (weighting.summary, weighting.source):
            assert text
            assert "\n" not in text
        documentation = inspect.getdoc(weighting.weights)
        assert documentation is not None
        for part in (r"\operatorname*{arg\,min}", "Parameters", "Returns", "Raises", "References", ">>>"):
            assert part in documentation

    def test_it_takes_the_options_that_all_take(self, weighting: QuadraticWeighting) -> None:
        parameters = inspect.signature(weighting.weights).parameters
        for name, default in (("solver", "auto"), ("threads", 1), ("nonfinite", "raise")):
            assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters[name].default == default


class TestOneAnswer:
    @pytest.mark.parametrize("solver", ANY_SIZE, ids=named)
    def test_weights_are_the_lifted_minimisers(self, weighting: QuadraticWeighting, solver: Any) -> None:
        for k in (2, 3, 4, 5, 8, 13):
            gramians = random_gramians(12, k)
            together = weighting.weights(gramians)
            lifted = by_problem(weighting, gramians, solver.name)
            np.testing.assert_allclose(together, lifted, rtol=1e-12, atol=1e-13)
            for gramian, weights in zip(gramians, together, strict=True):
                np.testing.assert_allclose(weighting.weights(gramian), weights, rtol=1e-12, atol=1e-13)
                chosen = weighting.weights(gramian, solver=solver.name)
                np.testing.assert_allclose(chosen, weights, rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("family", [*EXACT_FAMILIES, "rank_half", "row_scales_low_rank", "clustered"])
    def test_directions_agree_where_weights_need_not(
        self, weighting: QuadraticWeighting, family: str
    ) -> None:
        """Dependent gradients have many weights for one direction: compare d in units of the gradients."""
        for k in (4, 9, 17):
            gramian = FAMILIES[family].sample(k, np.random.default_rng(k)).gramian
            fused = weighting.weights(gramian)
            norms = np.sqrt(np.diagonal(gramian))
            for solver in ANY_SIZE:
                difference = fused - by_problem(weighting, gramian, solver.name)
                distance = max(0.0, float(difference @ gramian @ difference)) ** 0.5
                # The square root of what rounding leaves of d'd is the resolution of this test.
                allowed = 1e-7 * float(np.abs(fused) @ norms) + 1e-12 * float(norms.max())
                assert distance <= allowed, solver.name

    @pytest.mark.parametrize("family", FAMILIES)
    def test_finite_gramians_have_finite_weights(self, weighting: QuadraticWeighting, family: str) -> None:
        """On whatever path: alone, in a batch, in float32, by any exact solver that takes it."""
        for k in (2, 3, 5, 12):
            if k < FAMILIES[family].min_size:
                continue
            sample = FAMILIES[family].sample(k, np.random.default_rng(k))
            gramian = stored_gramian(family, sample)
            assert np.isfinite(weighting.weights(gramian)).all()
            assert np.isfinite(weighting.weights(np.stack([gramian] * 3))).all()
            for solver in EXACT_SOLVERS:
                if solver.max_size is None or solver.max_size >= k:
                    assert np.isfinite(weighting.weights(gramian, solver=solver.name)).all(), solver.name
            if family not in ("random_tiny", "random_huge", "row_scales", "row_scales_low_rank"):
                assert np.isfinite(weighting.weights(gramian.astype(np.float32))).all()

    @pytest.mark.parametrize("threads", [2, 5])
    def test_threads_change_nothing(self, weighting: QuadraticWeighting, threads: int) -> None:
        for count, k in ((1, 5), (1, 20), (2, 9), (23, 2), (23, 3), (23, 4), (23, 7)):
            gramians = random_gramians(count, k)
            expected = weighting.weights(gramians)
            assert np.array_equal(weighting.weights(gramians, threads=threads), expected)
            if count == 1:
                assert np.array_equal(weighting.weights(gramians[0], threads=threads), expected[0])

    def test_calling_again_changes_nothing(self, weighting: QuadraticWeighting) -> None:
        for k in (2, 3, 8):
            gramians = random_gramians(3, k)
            before = gramians.copy()
            first = weighting.weights(gramians[0])
            kept = first.copy()
            weighting.weights(gramians[1])
            assert np.array_equal(first, kept)
            assert np.array_equal(weighting.weights(gramians[0]), kept)
            assert np.array_equal(gramians, before)


class TestExactness:
    @pytest.mark.parametrize("family", EXACT_FAMILIES)
    def test_directions_match_enumeration(self, weighting: QuadraticWeighting, family: str) -> None:
        for k in (1, 2, 3, 4, 5):
            if k < FAMILIES[family].min_size:
                continue
            for seed in range(3):
                gramian = FAMILIES[family].sample(k, np.random.default_rng(seed)).gramian
                error, floor = direction_errors(weighting, gramian, weighting.weights(gramian))
                assert error <= 1e-12 + 10 * floor, (k, seed)

    @pytest.mark.parametrize("solver", ANY_SIZE, ids=named)
    def test_directions_of_every_exact_solver_match_enumeration(
        self, weighting: QuadraticWeighting, solver: Any
    ) -> None:
        for family in ("integers", "integers_rank_deficient", "duplicates_grid", "antiparallel_grid", "ties"):
            gramian = FAMILIES[family].sample(4, np.random.default_rng(7)).gramian
            weights = weighting.weights(gramian, solver=solver.name)
            error, floor = direction_errors(weighting, gramian, weights)
            assert error <= 1e-12 + 10 * floor, family

    @pytest.mark.parametrize("weighting", WEIGHTINGS, ids=named)
    @given(data=st.data())
    def test_any_jacobian_of_integers(self, weighting: QuadraticWeighting, data: st.DataObject) -> None:
        """Any number of objectives and parameters, any rank, rows scaled by powers of two, any batch."""
        k, n = data.draw(st.integers(1, 4), label="K"), data.draw(st.integers(1, 5), label="n")
        count = data.draw(st.integers(1, 3), label="batch")
        entries = st.lists(st.integers(-3, 3), min_size=count * k * n, max_size=count * k * n)
        jacobian = np.array(data.draw(entries, label="J"), float).reshape(count, k, n)
        exponents = data.draw(st.lists(st.integers(-12, 12), min_size=k, max_size=k), label="log D")
        jacobian *= (2.0 ** np.array(exponents))[:, None]
        gramian = mojd.gramian(jacobian)
        weights = weighting.weights(gramian)
        assert weights.shape == (count, k)
        for one, answer in zip(gramian, weights, strict=True):
            error, floor = direction_errors(weighting, one, answer)
            assert error <= 1e-12 + 10 * floor


class TestArrays:
    @pytest.mark.parametrize("k", [1, 2, 3, 5])
    def test_one_objective_or_more(self, weighting: QuadraticWeighting, k: int) -> None:
        weights = weighting.weights(random_gramians(1, k)[0])
        assert weights.shape == (k,)
        assert weights.dtype == np.float64
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    @pytest.mark.parametrize("shape", [(1,), (4,), (2, 3), (2, 1, 2)])
    def test_leading_axes(self, weighting: QuadraticWeighting, shape: tuple[int, ...]) -> None:
        for k in (1, 2, 3, 5):
            gramians = random_gramians(int(np.prod(shape)), k).reshape(*shape, k, k)
            weights = weighting.weights(gramians)
            assert weights.shape == (*shape, k)
            for index in np.ndindex(shape):
                alone = weighting.weights(gramians[index])
                np.testing.assert_allclose(weights[index], alone, rtol=1e-13, atol=1e-14)

    @pytest.mark.parametrize("k", [1, 2, 3, 6])
    def test_empty_batches(self, weighting: QuadraticWeighting, k: int) -> None:
        for shape in ((0,), (3, 0)):
            assert weighting.weights(np.zeros((*shape, k, k))).shape == (*shape, k)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_floats_of_any_size(self, weighting: QuadraticWeighting, dtype: Any) -> None:
        """These Gramians are exact in half precision: the answer is float64's, rounded once."""
        small = np.array([[4.0, -2.0, 1.0], [-2.0, 8.0, -3.0], [1.0, -3.0, 6.0]])
        large = np.kron(np.eye(2), small)
        for gramian in (small[:1, :1], small[:2, :2], small, large, np.stack([small] * 3)):
            weights = weighting.weights(gramian.astype(dtype))
            assert weights.dtype == dtype
            assert np.array_equal(weights, weighting.weights(gramian).astype(dtype))

    def test_lists_and_integers(self, weighting: QuadraticWeighting) -> None:
        gramian = [[18, -22], [-22, 38]]
        expected = weighting.weights(np.array(gramian, float))
        for given_gramian in (
            gramian,
            tuple(map(tuple, gramian)),
            np.array(gramian),
            np.array(gramian, np.int16),
        ):
            weights = weighting.weights(given_gramian)
            assert weights.dtype == np.float64
            assert np.array_equal(weights, expected)

    def test_memory_of_any_layout(self, weighting: QuadraticWeighting) -> None:
        for k in (2, 3, 6):
            gramians = random_gramians(4, k)
            expected = weighting.weights(gramians)
            spread = np.zeros((8, 2 * k, 3 * k))[::2, ::2, ::3]
            spread[...] = gramians
            read_only = gramians.copy()
            read_only.flags.writeable = False
            for array in (spread, np.asfortranarray(gramians), read_only, gramians[::-1].copy()[::-1]):
                assert np.array_equal(weighting.weights(array), expected)
                np.testing.assert_allclose(weighting.weights(array[1]), expected[1], rtol=1e-13)

    def test_broadcast_views(self, weighting: QuadraticWeighting) -> None:
        for k in (2, 3, 5):
            gramian = random_gramians(1, k)[0]
            weights = weighting.weights(np.broadcast_to(gramian, (6, k, k)))
            expected = weighting.weights(gramian)
            np.testing.assert_allclose(weights, np.broadcast_to(expected, (6, k)), rtol=1e-13)


class TestNonfinite:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_an_error_says_where(self, weighting: QuadraticWeighting, bad: float) -> None:
        for k, index in itertools.product((2, 3, 5), ((0, 0), (0, 1), (1, 1))):
            gramian = random_gramians(1, k)[0]
            gramian[index] = bad
            with pytest.raises(
                mojd.NonFiniteError, match=rf"gramian of shape \({k}, {k}\).*{bad}.*\({index[0]}, "
            ):
                weighting.weights(gramian)

    def test_propagation_spoils_one_problem_only(self, weighting: QuadraticWeighting) -> None:
        for k in (2, 3, 5, 9):
            gramians = random_gramians(19, k)
            expected = weighting.weights(gramians)
            gramians[3, 0, 1] = gramians[7, 1, 1] = np.nan
            gramians[18, 1, 0] = np.inf
            weights = weighting.weights(gramians, nonfinite="propagate")
            spoilt = np.isin(np.arange(19), (3, 7, 18))
            assert np.isnan(weights[spoilt]).all()
            np.testing.assert_allclose(weights[~spoilt], expected[~spoilt], rtol=1e-12, atol=1e-13)
            assert np.isnan(weighting.weights(gramians[3], nonfinite="propagate")).all()

    def test_a_lone_objective_may_not_be_a_number(self, weighting: QuadraticWeighting) -> None:
        with pytest.raises(mojd.NonFiniteError, match="gramian"):
            weighting.weights([[np.nan]])
        assert np.isnan(weighting.weights([[np.nan]], nonfinite="propagate")).all()


class TestAggregate:
    def test_by_name_and_by_function(self, weighting: QuadraticWeighting) -> None:
        jacobian = np.random.default_rng(0).standard_normal((4, 7))
        weights = weighting.weights(jacobian @ jacobian.T)
        for given_weighting in (weighting.name, weighting.weights, getattr(mojd, weighting.name)):
            direction = mojd.aggregate(jacobian, given_weighting)
            np.testing.assert_allclose(direction, jacobian.T @ weights, rtol=1e-12)

    def test_a_batch(self, weighting: QuadraticWeighting) -> None:
        jacobian = np.random.default_rng(0).standard_normal((2, 3, 4, 7))
        directions = mojd.aggregate(jacobian, weighting.name)
        assert directions.shape == (2, 3, 7)
        for index in np.ndindex(2, 3):
            alone = mojd.aggregate(jacobian[index], weighting.name)
            np.testing.assert_allclose(directions[index], alone, rtol=1e-12, atol=1e-13)


def test_every_reference_is_exact_for_the_default_options() -> None:
    """The enumeration above and the library must mean the same by a default."""
    gramian = [[4, -2], [-2, 3]]
    assert exact.upgrad(gramian) == exact.upgrad(gramian, [Fraction(1, 2)] * 2)
    assert inspect.signature(mojd.pcd).parameters["tau"].default == 0.02
    assert ra.exact(0.02) != Fraction(1, 50)
