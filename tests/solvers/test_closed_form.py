"""The formulas for K <= 3: they agree with pivoting, and know what they can't settle."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd import NNQP, Status
from mojd._arrays import FLOAT64_PRECISION
from mojd.solvers import get_solver
from tests.reference import certify, exact
from tests.reference.families import Floats, symmetric_gramian

SOLVE = get_solver("closed_form").solve


def solve_one(gramian: Floats, linear: Floats) -> Floats:
    raw = SOLVE(np.asarray(gramian, float)[None], np.asarray(linear, float)[None, None], 1, FLOAT64_PRECISION)
    assert raw.status[0, 0] == Status.OPTIMAL
    x: Floats = raw.x[0, 0]
    return x


@pytest.mark.parametrize("gramian", [1.0, 0.1, 7.0, 1e-300, 1e300])
@pytest.mark.parametrize("linear", [-3.0, 0.0, 2.0])
def test_one_objective(gramian: float, linear: float) -> None:
    x = solve_one(np.array([[gramian]]), np.array([linear]))
    np.testing.assert_allclose(x, [max(0.0, -linear / gramian)], rtol=3e-16, atol=0)


def test_two_objectives_in_every_quadrant() -> None:
    for c, p, q in product((-1.9, -0.5, 0.0, 0.5, 1.9), (-2.0, -0.1, 0.0, 1.0), (-2.0, -0.1, 0.0, 1.0)):
        gramian, linear = np.array([[2.0, c], [c, 2.0]]), np.array([p, q])
        truth = exact.solve_nnqp(gramian, linear)
        np.testing.assert_allclose(
            solve_one(gramian, linear), [float(x) for x in truth.x], rtol=1e-14, atol=1e-16
        )


def test_three_objectives_with_every_passive_set() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        gramian, linear = symmetric_gramian(rng.standard_normal((3, 5))), rng.standard_normal(3)
        x = solve_one(gramian, linear)
        seen.add(tuple((x > 0).tolist()))
        assert certify.kkt_residual(gramian, linear, x) <= 1e-13
    assert len(seen) == 8


@given(
    entries=st.lists(st.integers(-3, 3), min_size=9, max_size=9),
    linear=st.lists(st.integers(-3, 3), min_size=3, max_size=3),
    k=st.integers(1, 3),
)
def test_any_integers(entries: list[int], linear: list[int], k: int) -> None:
    """Dependent, parallel and zero rows, ties and unbounded problems."""
    gramian = symmetric_gramian(np.array(entries, float).reshape(3, 3)[:k])
    q = np.array(linear[:k], float)
    truth = exact.solve_nnqp(gramian, q)
    solution = mojd.solve(NNQP(gramian, q), "closed_form")
    if truth.status == "infeasible":
        assert solution.status == Status.INFEASIBLE
        assert certify.is_ray(gramian, q, solution.ray)
    else:
        assert solution.status == Status.OPTIMAL
        assert exact.direction_error(solution.x, truth.x, gramian) <= 1e-13


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_long_batch(k: int) -> None:
    """As the compiled loops run it: some problems by formula, some that formulas leave open."""
    rng = np.random.default_rng(k)
    count = 20_000
    jacobian = rng.standard_normal((count, k, 3))
    jacobian[::97, -1] = -2.0 * jacobian[::97, 0]
    jacobian[::89, 0] = 0.0
    gramian = jacobian @ jacobian.swapaxes(1, 2)
    linear = (gramian @ rng.standard_normal((count, k, 1)))[..., 0]
    formula = mojd.solve(NNQP(gramian, linear), "closed_form")
    pivoting = mojd.solve(NNQP(gramian, linear), "active_set")
    assert np.array_equal(formula.status, pivoting.status)
    solved = formula.status == Status.OPTIMAL
    assert solved.mean() > 0.95
    first, second = (
        (solution.x[..., None, :] @ jacobian)[..., 0, :][solved] for solution in (formula, pivoting)
    )
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert np.nanmax(formula.kkt_residual) <= 1e-9


def test_nearly_parallel_rows_go_to_pivoting() -> None:
    """1 - 1e-13: the determinant has three digits left, and the formula for both is not to be trusted."""
    gramian = np.array([[1.0, 1.0 - 1e-13], [1.0 - 1e-13, 1.0]])
    for linear in ([-1.0, -1.0], [-1.0, -1.0 + 1e-14], [-2.0, -1.0]):
        solution = mojd.solve(NNQP(gramian, linear), "closed_form")
        assert solution.status == Status.OPTIMAL
        assert certify.kkt_residual(gramian, linear, solution.x) <= 1e-12
        assert solution.x.sum() <= 3.0


@pytest.mark.parametrize("exponent", [-1000, -500, -310, 310, 500, 1000])
def test_squares_that_would_overflow(exponent: int) -> None:
    gramian = np.array([[2.0, -1.0, 0.5], [-1.0, 3.0, -1.0], [0.5, -1.0, 1.0]])
    linear = np.array([-1.0, 0.5, -2.0])
    scale = 2.0**exponent
    for k in (1, 2, 3):
        base = mojd.solve(NNQP(gramian[:k, :k], linear[:k]), "closed_form")
        solution = mojd.solve(NNQP(scale * gramian[:k, :k], scale * linear[:k]), "closed_form")
        assert solution.status == Status.OPTIMAL
        np.testing.assert_allclose(solution.x, base.x, rtol=1e-14)


def test_more_than_three_are_refused() -> None:
    with pytest.raises(mojd.InvalidInputError, match="takes K <= 3, but the gramian is 4 x 4"):
        mojd.solve(NNQP(np.eye(4), np.ones(4)), "closed_form")
