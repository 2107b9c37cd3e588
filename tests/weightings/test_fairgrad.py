"""FairGrad: the direction with alpha-fair gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference.families import Floats, symmetric_gramian


def random_gramian(k: int, seed: int) -> Floats:
    return symmetric_gramian(np.random.default_rng(seed).standard_normal((k, 2 * k)))


class TestWorkedValues:
    @pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0, 2.0, 7.0])
    def test_one_objective(self, alpha: float) -> None:
        """w^(1 + 1/α)·‖g‖² = 1."""
        np.testing.assert_allclose(mojd.fairgrad([[9.0]], alpha), [9.0 ** (-alpha / (1 + alpha))], rtol=1e-14)

    @pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0, 2.0, 7.0])
    def test_equicorrelated(self, alpha: float) -> None:
        """All weights are equal: w^(1 + 1/α)·(1 + (K−1)·ρ) = 1."""
        gramian = 1.25 * np.eye(4) - 0.25
        np.testing.assert_allclose(mojd.fairgrad(gramian, alpha), 0.25 ** (-alpha / (1 + alpha)), rtol=1e-12)

    def test_two_objectives(self) -> None:
        """By bisection for the second weight with 50 digits, for α = 2."""
        weights = mojd.fairgrad([[18.0, -22.0], [-22.0, 38.0]])
        np.testing.assert_allclose(weights, [0.4713629223235375, 0.3194542281854952], rtol=1e-13)

    def test_alpha_of_one_is_nash_mtl(self) -> None:
        for k in (1, 2, 5, 9):
            gramian = random_gramian(k, k)
            assert np.array_equal(mojd.fairgrad(gramian, 1.0), mojd.nash_mtl(gramian))
            np.testing.assert_allclose(mojd.fairgrad(gramian, 1 + 1e-9), mojd.nash_mtl(gramian), rtol=1e-7)

    @pytest.mark.parametrize("alpha", [0.5, 2.0, 4.0])
    def test_against_a_conic_solver(self, alpha: float) -> None:
        cvxpy = pytest.importorskip("cvxpy")
        for seed in range(6):
            k = 2 + seed % 4
            jacobian = np.random.default_rng(seed).standard_normal((k, k + 1))
            x = cvxpy.Variable(k, pos=True)
            fair = cvxpy.sum(cvxpy.power(x, 1 - 1 / alpha)) / (1 - 1 / alpha)
            problem = cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(jacobian.T @ x) - fair))
            problem.solve(solver="CLARABEL")
            # The root of the conic solver's gap of 1e-8 is 1e-4 of a weight of 1, more of a smaller one.
            np.testing.assert_allclose(mojd.fairgrad(symmetric_gramian(jacobian), alpha), x.value, rtol=1e-3)


class TestTheory:
    @given(k=st.integers(1, 5), seed=st.integers(0, 2**32 - 1), alpha=st.floats(0.2, 8.0))
    def test_gains_are_powers_of_the_weights(self, k: int, seed: int, alpha: float) -> None:
        gramian = random_gramian(k, seed)
        weights = mojd.fairgrad(gramian, alpha)
        terms = (abs(gramian) @ weights) * weights ** (1 / alpha)
        error = abs((gramian @ weights) * weights ** (1 / alpha) - 1)
        assert (error <= 1e-12 + 1e-14 * terms).all()

    def test_towards_infinity_the_gains_become_equal(self) -> None:
        gramian = random_gramian(4, 1) + 3.0
        gains = gramian @ mojd.fairgrad(gramian, 400.0)
        assert gains.max() / gains.min() < 1.05
        assert np.ptp(gramian @ mojd.fairgrad(gramian, 1.0)) > 0.05

    def test_towards_zero_the_weights_become_equal(self) -> None:
        """Where the sum of the gradients opposes none of them: w = (Gw)^−α."""
        gramian = random_gramian(4, 1) + 3.0
        assert (gramian.sum(axis=0) > 0).all()
        np.testing.assert_allclose(mojd.fairgrad(gramian, 0.005), 1.0, atol=0.03)

    def test_it_is_not_linear_under_scaling(self) -> None:
        """Twice the gradient 1, and d = 2^((1−α)/(1+α)) of it, not twice."""
        assert 2.0 * mojd.fairgrad([[4.0]])[0] == pytest.approx(2.0 ** (-1 / 3))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, True, "2"])
def test_other_alphas_are_refused(bad: Any) -> None:
    with pytest.raises(mojd.InvalidInputError, match="alpha must be a positive number"):
        mojd.fairgrad(np.eye(2), bad)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_torchjd_where_it_converged(alpha: float) -> None:
    """TorchJD minimises |Gw − w^(−1/α)|² with SciPy's default of 1e-8 on changes: no ridge, no floor."""
    torch = pytest.importorskip("torch")
    aggregation = pytest.importorskip("torchjd.aggregation")
    compared = 0
    for seed in range(40):
        gramian = random_gramian(2 + seed % 5, seed)
        theirs = aggregation.FairGradWeighting(alpha=alpha)(torch.tensor(gramian)).numpy()
        if abs(gramian @ theirs - theirs ** (-1 / alpha)).max() < 1e-5:
            np.testing.assert_allclose(theirs, mojd.fairgrad(gramian, alpha), rtol=1e-4)
            compared += 1
    assert compared >= 30


def test_no_counterexample() -> None:
    """`make properties` goes on to 1000 examples, of which these are the first."""
    names = ["non_conflicting", "permutation_equivariant", "optimal", "stops_if_weakly_stationary"]
    mojd.check("fairgrad", names, examples=200)
