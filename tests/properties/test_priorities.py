"""PCD's guarantees: they hold for mojd's PCD, and the checks see when they don't."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mojd
from mojd.properties import check, contradiction_error, is_feasible, missing_progress
from mojd.properties.published import PRIORITIES, REFUTED

SYMMETRIC = sorted({method for methods in REFUTED.values() for method in methods})


def pcd(gramian: Any, tau: float, scales: Any = None) -> Any:
    return mojd.pcd(gramian, tau, scales=scales)


@pytest.mark.parametrize("name", [*PRIORITIES, "certified_feasibility"])
def test_mojds_pcd_has_it(name: str) -> None:
    assert check(mojd.pcd, name, examples=300)[name].holds


@pytest.mark.parametrize("name", PRIORITIES)
def test_symmetric_methods_lack_what_the_paper_says(name: str) -> None:
    for method in REFUTED.get(name, ()):
        finding = check(method, name, examples=300, raises=False)[name]
        assert finding.holds is False, method
        assert finding.counterexample is not None
        assert len(finding.counterexample.jacobian) <= 3


class TestFaultsThatMustBeSeen:
    """A PCD with one fault each."""

    def see(self, name: str, method: Any) -> bool:
        return check(method, name, examples=300, raises=False)[name].holds is False

    def test_too_little_progress(self) -> None:
        def slack(gramian: Any, tau: float) -> Any:
            return mojd.pcd(gramian, (1 - 1e-6) * tau)

        assert self.see("secondary_progress", slack)
        assert self.see("certified_feasibility", slack)

    def test_secondaries_that_always_count_a_little(self) -> None:
        def eager(gramian: Any, tau: float) -> Any:
            return mojd.pcd(gramian, tau) + 1e-6 * (np.arange(len(gramian)) > 0)

        assert self.see("fallback_to_primary", eager)

    def test_no_normaliser(self) -> None:
        def raw(gramian: Any, tau: float) -> Any:
            return mojd.pcd(gramian, tau)

        assert self.see("normalised_scale_invariance", raw)
        assert not self.see("normalised_scale_invariance", pcd)

    def test_a_stop_at_pareto_stationary_points(self) -> None:
        def cautious(gramian: Any, tau: float) -> Any:
            pareto = mojd.mgda(gramian)
            return 0.0 * pareto if pareto @ gramian @ pareto <= 1e-14 else mojd.pcd(gramian, tau)

        assert self.see("composite_stationarity", cautious)

    def test_a_dial_with_a_jump(self) -> None:
        def stepped(gramian: Any, tau: float) -> Any:
            return mojd.pcd(gramian, tau if tau < 0.6 else min(1.0, tau + 0.01))

        assert self.see("one_dial", stepped)

    def test_a_dial_that_turns_back(self) -> None:
        def reversed_dial(gramian: Any, tau: float) -> Any:
            return mojd.pcd(gramian, 1.0 - tau)

        assert self.see("one_dial", reversed_dial)


class TestFeasibility:
    def test_1785_random_problems(self) -> None:
        """Secondaries from 1 to 15, seven numbers of parameters, 17 τ from 0.02 to 1: 1785, all feasible.

        The paper reports 0 of 1785 synthetic checks to be infeasible, and calls infeasibility an event of
        measure zero in high dimensions; how it drew them is not in its page. Gaussian secondaries are
        dependent with probability 0 while there are no more of them than parameters, which is as few as
        there are here.
        """
        rng = np.random.default_rng(0)
        infeasible = checked = 0
        for secondaries in range(1, 16):
            least = secondaries
            for n in (least, least + 1, least + 2, 2 * least, 4 * least, 16 * least, 512):
                rows = rng.standard_normal((17, secondaries + 1, n))
                gramians = rows @ rows.swapaxes(1, 2)
                tau = np.linspace(0.02, 1.0, 17)[:, None] * np.ones(secondaries)
                solution = mojd.solve(mojd.pcd_problem(gramians, tau))
                infeasible += int((solution.status == mojd.Status.INFEASIBLE).sum())
                checked += len(solution.status)
                assert (solution.status == mojd.Status.OPTIMAL).all()
                # As many rows as parameters make Gramians with condition numbers up to 1e6.
                assert solution.kkt_residual.max() <= (1e-9 if n < least + 3 else 1e-12)
                for jacobian, weights, fraction in zip(rows, mojd.pcd(gramians, tau), tau[:, 0], strict=True):
                    assert missing_progress(jacobian, weights @ jacobian, fraction) <= 1e-9
        assert (checked, infeasible) == (1785, 0)

    def test_more_secondaries_than_parameters_can_hold(self) -> None:
        """The count above would see infeasible problems: here are some, each with its proof."""
        rng = np.random.default_rng(0)
        infeasible = 0
        for _ in range(200):
            jacobian = rng.standard_normal((6, 2))
            solution = mojd.solve(mojd.pcd_problem(mojd.gramian(jacobian), 0.5))
            if solution.status is mojd.Status.INFEASIBLE:
                infeasible += 1
                assert contradiction_error(jacobian, solution.ray, 0.5) <= 1e-7
        # Five directions in the plane lie in a half plane with probability 5/16.
        assert 200 * 11 / 16 - 30 < infeasible < 200 * 11 / 16 + 30

    @pytest.mark.parametrize("tau", [1e-6, 0.02, 0.5, 1.0])
    @pytest.mark.parametrize("factor", [1.0, 3.0, 0.1, 1e6])
    def test_antiparallel_secondaries(self, tau: float, factor: float) -> None:
        rng = np.random.default_rng(0)
        for n in (1, 2, 7):
            row = rng.integers(-4, 5, n) + 0.5
            jacobian = np.stack([rng.standard_normal(n), row, -factor * row])
            solution = mojd.solve(mojd.pcd_problem(mojd.gramian(jacobian), tau))
            assert solution.status is mojd.Status.INFEASIBLE
            assert contradiction_error(jacobian, solution.ray, tau) <= 1e-12
            assert not is_feasible(jacobian, tau)
            assert is_feasible(jacobian, 0.0)
            # Algorithm 1 drops the constraints for such a step.
            assert mojd.pcd(mojd.gramian(jacobian), tau).tolist() == [1.0, 0.0, 0.0]

    def test_what_is_no_proof(self) -> None:
        jacobian = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -2.0]])
        assert contradiction_error(jacobian, np.array([2.0, 1.0]), 0.1) == 0.0
        assert contradiction_error(jacobian, np.array([1.0, 1.0]), 0.1) == pytest.approx(1 / 3)
        assert contradiction_error(jacobian, np.array([2.0, 1.0]), 0.0) == 1.0
        assert contradiction_error(jacobian, np.array([-2.0, -1.0]), 0.1) == 1.0
        assert contradiction_error(jacobian, np.array([np.nan, 1.0]), 0.1) == 1.0
        assert contradiction_error(jacobian, np.zeros(2), 0.1) == 1.0


class TestMissingProgress:
    def test_by_hand(self) -> None:
        jacobian = np.array([[1.0, 0.0], [-1.0, 1.0]])
        # g₁·d = −1, ‖g₁‖² = 2, the longest vector is √2.
        assert missing_progress(jacobian, jacobian[0], 0.0) == pytest.approx(0.5)
        assert missing_progress(jacobian, jacobian[0], 1.0) == pytest.approx(1.5)
        assert missing_progress(jacobian, 1.5 * jacobian[1], 1.0) == 0.0
        assert missing_progress(jacobian[:1], jacobian[0], 1.0) == 0.0
        assert missing_progress(jacobian, jacobian[0], 0.0, size=2.0) == pytest.approx(0.5 / np.sqrt(2))
