"""Problems in which most indices are passive: solved with the inverse of G, and checked with G."""

from __future__ import annotations

import numpy as np
import pytest

from mojd import Status
from mojd._arrays import FLOAT64_PRECISION, Precision, precision_of
from mojd.solvers import get_solver
from mojd.solvers._registry import RawSolution
from tests.reference import certify
from tests.reference.families import Floats, symmetric_gramian

SOLVER = get_solver("active_set")
FLOAT32_PRECISION = precision_of(np.zeros(1, dtype=np.float32))
SIZES = [17, 32, 33, 64, 100, 130]


def conflicting(k: int, features: int = 8, classes: int = 10) -> Floats:
    """Gradients of a linear layer, one loss per example: examples of different classes conflict."""
    rng = np.random.default_rng(k)
    inputs = np.hstack([rng.standard_normal((k, features * k)), np.full((k, 1), np.sqrt(features * k))])
    errors = np.eye(classes)[rng.integers(classes, size=k)] - 1 / classes
    lower: Floats = np.tril((inputs @ inputs.T) * (errors @ errors.T) / k)
    gramian: Floats = lower + np.tril(lower, -1).T
    return gramian


def solve(
    gramian: Floats, linear: Floats, threads: int = 1, precision: Precision = FLOAT64_PRECISION
) -> RawSolution:
    """Solve for all linear terms (R, K) of one Gramian at once."""
    return SOLVER.solve(gramian[None], np.ascontiguousarray(linear)[None], threads, precision)


def assert_alike(gramian: Floats, linear: Floats, precision: Precision = FLOAT64_PRECISION) -> RawSolution:
    """Compare with one problem at a time, which knows of no inverse, and with the KKT conditions."""
    together = solve(gramian, linear, precision=precision)
    for q, x, status in zip(linear, together.x[0], together.status[0], strict=True):
        alone = solve(gramian, q[None], precision=precision)
        assert status == alone.status[0, 0]
        if status == Status.OPTIMAL:
            assert certify.kkt_residual(gramian, q, x) <= 1e-13
            np.testing.assert_allclose(x, alone.x[0, 0], rtol=1e-11, atol=1e-13 * np.abs(x).max(initial=0))
    return together


@pytest.mark.parametrize("k", SIZES)
class TestConflicts:
    def test_projections(self, k: int) -> None:
        gramian = conflicting(k)
        found = assert_alike(gramian, gramian)
        assert np.median((found.x[0] > 0).sum(axis=1)) > 0.6 * k
        # What is rejected when it is checked is solved once more, and then takes 2 iterations at least.
        assert found.iterations.min() == 1

    def test_badly_scaled_losses(self, k: int) -> None:
        scales = np.exp2(np.random.default_rng(k).integers(-30, 30, k))
        gramian = conflicting(k)
        plain, scaled = solve(gramian, gramian), solve(gramian * np.outer(scales, scales), gramian * scales)
        np.testing.assert_array_equal(scaled.x * scales, plain.x)

    def test_threads(self, k: int) -> None:
        gramian = conflicting(k)
        alone = solve(gramian, gramian)
        for threads in (2, 3):
            for one, other in zip(alone, solve(gramian, gramian, threads), strict=True):
                np.testing.assert_array_equal(one, other)

    def test_any_linear_terms(self, k: int) -> None:
        """Few, many, all or no indices passive, side by side, and wherever x and s are both 0."""
        rng = np.random.default_rng(k)
        gramian = conflicting(k)
        share = np.linspace(0, 1, k)[:, None]
        passive = rng.random((k, k)) < share
        x = np.where(passive, rng.random((k, k)), 0.0)
        slack = np.where(passive | (rng.random((k, k)) < 0.1), 0.0, rng.random((k, k)))
        linear = slack - x @ gramian
        found = assert_alike(gramian, linear * np.exp2(rng.integers(-40, 40, (k, 1))))
        assert (found.status == Status.OPTIMAL).all()

    def test_gradients_that_vanish(self, k: int) -> None:
        """Their rows are 0: x is 0 there, or anything, or the problem has no minimiser."""
        gramian = conflicting(k)
        gramian[::5] = gramian[:, ::5] = 0.0
        found = assert_alike(gramian, gramian)
        assert (found.x[0, :, ::5] == 0).all()
        linear = gramian.copy()
        linear[1, 5], linear[2, 0], linear[3, 3] = -1.0, 1.0, np.nan
        found = assert_alike(gramian, linear)
        assert found.status[0, :4].tolist() == [
            Status.OPTIMAL,
            Status.INFEASIBLE,
            Status.OPTIMAL,
            Status.NONFINITE,
        ]

    def test_copies(self, k: int) -> None:
        """G has no inverse, exactly or but for one rounding."""
        gramian = conflicting(k)
        order = np.arange(k)
        order[-2:] = 0, 1
        copies = np.ascontiguousarray(gramian[np.ix_(order, order)])
        rounded = copies.copy()
        rounded[-1, -1] *= 1 + 2.0**-52
        for singular in (copies, rounded):
            found = solve(singular, singular)
            assert (found.status == Status.OPTIMAL).all()
            assert max(map(certify.kkt_residual, [singular] * k, singular, found.x[0])) <= 1e-12

    @pytest.mark.parametrize("gap", [2.0**-e for e in (1, 2, 3, 5, 10, 20)])
    def test_up_to_where_the_inverse_is_no_longer_trusted(self, k: int, gap: float) -> None:
        jacobian: Floats = np.linalg.cholesky(conflicting(k)).astype(np.float64)
        jacobian[-1] = jacobian[0] + gap * jacobian[-1]
        gramian = symmetric_gramian(jacobian)
        found = solve(gramian, gramian)
        assert (found.status == Status.OPTIMAL).all()
        assert max(map(certify.kkt_residual, [gramian] * k, gramian, found.x[0])) <= 1e-12

    def test_float32(self, k: int) -> None:
        """Of full rank, and with fewer parameters than gradients, which rounding makes indefinite."""
        gramian = conflicting(k).astype(np.float32).astype(float)
        assert_alike(gramian, gramian, FLOAT32_PRECISION)
        low = np.linalg.cholesky(conflicting(k))[:, : k // 2].astype(np.float32)
        gramian = (low @ low.T).astype(float)
        gramian = np.tril(gramian) + np.tril(gramian, -1).T
        found = solve(gramian, gramian, precision=FLOAT32_PRECISION)
        assert (found.status == Status.OPTIMAL).all()
