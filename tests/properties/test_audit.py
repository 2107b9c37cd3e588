"""Audits of steps: every verdict on numbers worked out by hand, invariances, real optimisers, bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd.properties import audit_step
from mojd.properties.step_audit._geometry import cone_distance, measure
from mojd.properties.step_audit.report import StepAudit, Verdict
from mojd.weightings import Aggregator, LossWeighting, Method
from mojd.weightings._registry import _METHODS

KEPT, LOST, NOT_PROMISED = Verdict.KEPT, Verdict.LOST, Verdict.NOT_PROMISED
# Gradients of length 5 at a cosine of −7/25.
CONFLICT = [[3.0, 4.0, 0.0], [3.0, -4.0, 0.0]]


def random_case(seed: int, k: int, n: int) -> tuple[Any, Any]:
    """Gradients that don't depend on each other if n >= k, so that d is not 0, and any update."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((k, n)), rng.standard_normal(n)


def guarantee(audit: StepAudit, name: str) -> Any:
    return next(g for g in audit.guarantees if g.name == name)


class TestWorkedValues:
    def test_one_step_in_full(self) -> None:
        """d = (6, 0, 0), update = (−1, −2, 0): a cosine of 6/(6·√5), and g·update = −11 and 5."""
        audit = audit_step(CONFLICT, [-1.0, -2.0, 0.0], weights=[1, 1])
        root = math.sqrt(5)
        assert audit.method == "given weights"
        assert (audit.size, audit.parameters) == (2, 3)
        assert audit.cosine == pytest.approx(1 / root, rel=1e-15)
        assert audit.angle == pytest.approx(math.degrees(math.atan(2)), rel=1e-15)
        assert audit.step_size == pytest.approx(1 / 6, rel=1e-15)
        assert audit.outside == pytest.approx(0, abs=1e-15)
        assert audit.update_norm == pytest.approx(root, rel=1e-15)
        assert audit.direction_norm == 6.0
        assert audit.weights == (1.0, 1.0)
        # 3(a + b) = 1 and 4(a − b) = 2.
        assert audit.update_weights == pytest.approx((5 / 12, -1 / 12), rel=1e-14)
        first, second = audit.objectives
        assert (first.change, second.change) == (-11.0, 5.0)
        assert (first.rate, second.rate) == pytest.approx((11 / (5 * root), -1 / root), rel=1e-15)
        assert (first.promised_rate, second.promised_rate) == (0.6, 0.6)
        assert first.promised_change == pytest.approx(-3 * root, rel=1e-15)
        assert (first.rises, first.broken, second.rises, second.broken) == (False, False, True, True)
        assert audit.verdicts == {
            "non-conflicting": LOST,
            "descent": KEPT,
            "progress": NOT_PROMISED,
            "fallback": NOT_PROMISED,
            "weighted": KEPT,
            "positive weights": LOST,
        }
        conflict = guarantee(audit, "non-conflicting")
        assert conflict.value == second.rate
        assert conflict.promised_value == 0.6
        assert conflict.worst == 1
        assert guarantee(audit, "descent").value == pytest.approx(1 / root, rel=1e-15)
        # The nearest ray of the cone is that of (3, 4): √5 · sin of the angle to it, over √5.
        cosine = 11 / (5 * root)
        expected = math.sqrt(1 - cosine**2)
        assert guarantee(audit, "positive weights").value == pytest.approx(expected, rel=1e-13)

    def test_plain_descent_keeps_everything(self) -> None:
        for name in ("upgrad", "dualproj", "mgda", "pcd"):
            direction = mojd.aggregate(np.asarray(CONFLICT), name)
            audit = audit_step(CONFLICT, -0.25 * direction, name)
            assert not audit.lost, audit
            assert audit.step_size == pytest.approx(0.25, rel=1e-14)
            assert audit.angle == pytest.approx(0, abs=1e-12)

    def test_a_step_out_of_the_row_space(self) -> None:
        audit = audit_step(CONFLICT, [-3.0, 0.0, 4.0], weights=[1, 1])
        assert audit.outside == pytest.approx(0.8, rel=1e-15)
        assert audit.lost == ("weighted", "positive weights")
        assert audit.update_weights == pytest.approx((0.5, 0.5), rel=1e-14)

    def test_a_right_angle_has_no_descent(self) -> None:
        audit = audit_step([[1.0, 0.0]], [0.0, 2.0], weights=[1.0])
        assert audit.angle == pytest.approx(90.0, rel=1e-15)
        assert audit.objectives[0].rate == 0.0
        assert audit.kept == ("non-conflicting",)
        assert audit.lost == ("descent", "weighted", "positive weights")

    def test_what_the_direction_had_not_is_not_lost(self) -> None:
        """The mean of (4, 0) and (−1, 1) opposes the second, and so may the step."""
        audit = audit_step([[4.0, 0.0], [-1.0, 1.0]], [-3.0, -1.0], weights=[0.5, 0.5])
        assert audit.verdicts["non-conflicting"] is NOT_PROMISED
        assert audit.objectives[1].rises
        assert not audit.objectives[1].broken
        assert not audit.lost

    def test_negative_weights_are_not_promised(self) -> None:
        audit = audit_step([[1.0, 0.0], [0.0, 1.0]], [-1.0, 1.0], weights=[1.0, -1.0])
        assert audit.verdicts["positive weights"] is NOT_PROMISED
        assert audit.verdicts["weighted"] is KEPT

    def test_negative_weights_of_a_positive_combination(self) -> None:
        """Weights are not unique where gradients depend on each other: (2, 0) − (1, 0) is in the cone."""
        audit = audit_step([[2.0, 0.0], [1.0, 0.0]], [-1.0, 0.0], weights=[1.0, -1.0])
        assert audit.verdicts["positive weights"] is KEPT

    def test_least_weights_of_dependent_gradients(self) -> None:
        """(1, 0) from (1, 0) and (2, 0) with the least a² + (2b)²: a + 2b = 1 in halves."""
        audit = audit_step([[1.0, 0.0], [2.0, 0.0]], [-1.0, 0.0], weights=[1.0, 1.0])
        assert audit.update_weights == pytest.approx((0.5, 0.25), rel=1e-14)


class TestPCD:
    """Primary (1, 0), secondary (−1, 1): n = 2, so μ = τ + ½ and d = (½ − τ, ½ + τ)."""

    J = ((1.0, 0.0), (-1.0, 1.0))

    def test_progress_kept_to_the_letter(self) -> None:
        audit = audit_step(self.J, [-0.25, -0.75], "pcd", tau=0.25)
        assert audit.weights == (1.0, 0.75)
        assert not audit.lost
        secondary = audit.objectives[1]
        assert secondary.tau == 0.25
        assert secondary.delivered_tau == pytest.approx(0.25, rel=1e-14)
        assert audit.objectives[0].tau is None
        assert guarantee(audit, "progress").worst == 1
        assert guarantee(audit, "progress").value == pytest.approx(0, abs=1e-15)

    @pytest.mark.parametrize(("update", "verdict"), [([-0.26, -0.75], LOST), ([-0.24, -0.75], KEPT)])
    def test_progress_on_either_side(self, update: list[float], verdict: Verdict) -> None:
        """η = (x + 3y)/(4·0.625) for −update = (x, y), and y − x has to be at least η/2."""
        audit = audit_step(self.J, update, "pcd", tau=0.25)
        assert audit.verdicts["progress"] is verdict
        x, y = -np.array(update)
        step = (0.25 * x + 0.75 * y) / 0.625
        assert audit.step_size == pytest.approx(step, rel=1e-14)
        assert audit.objectives[1].delivered_tau == pytest.approx((y - x) / (2 * step), rel=1e-13)
        surplus = (y - x - 0.5 * step) / (math.sqrt(2) * math.hypot(x, y))
        assert guarantee(audit, "progress").value == pytest.approx(surplus, rel=1e-12)

    def test_the_default_tau_is_that_of_the_method(self) -> None:
        assert audit_step(self.J, [-0.48, -0.52], "pcd").objectives[1].tau == 0.02
        assert audit_step(self.J, [-0.48, -0.52], mojd.pcd).lost == ()

    def test_rescaling_leaves_the_promise(self) -> None:
        options: dict[str, Any] = {"tau": 0.25, "scales": np.array([0.5, 4.0])}
        for rescale in (False, True):
            d = mojd.aggregate(np.asarray(self.J), "pcd", rescale=rescale, **options)
            audit = audit_step(self.J, -0.3 * d, "pcd", rescale=rescale, **options)
            assert not audit.lost
            assert audit.objectives[1].delivered_tau == pytest.approx(0.25, rel=1e-13)

    def test_scales_count(self) -> None:
        """g̃ = (1, 0) and (−2, 2): g̃·d ≥ τ·8 asks for twice as much as without."""
        d = mojd.aggregate(np.asarray(self.J), "pcd", tau=0.25, scales=[1.0, 1.0])
        assert audit_step(self.J, -d, "pcd", tau=0.25, scales=[1.0, 2.0]).lost == ("progress",)

    def test_descent_is_that_of_the_primary(self) -> None:
        """At τ = ¾ the direction itself opposes the primary."""
        audit = audit_step(self.J, [0.25, -1.25], "pcd", tau=0.75)
        assert guarantee(audit, "descent").measures == "rate of the primary"
        assert audit.verdicts["descent"] is NOT_PROMISED
        assert audit.verdicts["non-conflicting"] is NOT_PROMISED
        assert audit.verdicts["progress"] is KEPT

    def test_fallback(self) -> None:
        jacobian = [[1.0, 0.0], [1.0, 1.0]]
        assert audit_step(jacobian, [-2.0, 0.0], "pcd").verdicts["fallback"] is KEPT
        turned = audit_step(jacobian, [-4.0, -3.0], "pcd")
        assert turned.lost == ("fallback",)
        assert guarantee(turned, "fallback").value == pytest.approx(0.6, rel=1e-15)
        assert audit_step(self.J, [-0.48, -0.52], "pcd").verdicts["fallback"] is NOT_PROMISED

    def test_contradicting_constraints(self) -> None:
        audit = audit_step([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], [-1.0, -1.0], "pcd", tau=0.5)
        assert audit.verdicts["progress"] is NOT_PROMISED
        assert audit.verdicts["fallback"] is KEPT
        assert any("contradict" in note for note in audit.notes)

    def test_going_backwards_is_no_progress(self) -> None:
        """η is never negative, or a rise would be progress times a negative step."""
        audit = audit_step(self.J, [0.25, 0.75], "pcd", tau=0.25)
        assert audit.verdicts["progress"] is LOST
        assert audit.objectives[1].delivered_tau is None

    def test_a_tau_for_each(self) -> None:
        jacobian = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        # Swapped, what they get would do.
        audit = audit_step(jacobian, [-1.0, -0.5, -0.25], "pcd", tau=[0.25, 0.5])
        assert audit.verdicts["progress"] is LOST
        assert guarantee(audit, "progress").worst == 2

    def test_no_secondary_and_no_primary(self) -> None:
        assert audit_step([[1.0, 2.0]], [-1.0, -2.0], "pcd").verdicts["progress"] is NOT_PROMISED
        halted = audit_step([[0.0, 0.0], [0.0, 1.0]], [0.0, -1.0], "pcd", tau=0.5, rescale=True)
        assert halted.verdicts["progress"] is NOT_PROMISED
        assert halted.verdicts["fallback"] is NOT_PROMISED
        assert any(note.startswith("d is 0") for note in halted.notes)

    def test_a_zero_secondary_asks_for_nothing(self) -> None:
        audit = audit_step([[1.0, 0.0], [0.0, 0.0]], [-1.0, 0.0], "pcd", tau=0.5)
        assert not audit.lost
        assert audit.verdicts["progress"] is KEPT
        assert audit.objectives[1].tau is None


class TestSpecialCases:
    def test_no_update(self) -> None:
        audit = audit_step(CONFLICT, [0.0, 0.0, 0.0], "upgrad")
        assert math.isnan(audit.cosine)
        assert math.isnan(audit.angle)
        assert audit.step_size == 0.0
        assert audit.lost == ("descent",)
        assert any("update is 0" in note for note in audit.notes)

    def test_no_direction(self) -> None:
        """(1, 0) and (−1, 0) cancel: staying put is the promise, and a step along the axis breaks it."""
        opposite = [[1.0, 0.0], [-1.0, 0.0]]
        along = audit_step(opposite, [-1.0, 0.0], "mgda")
        assert math.isnan(along.angle)
        assert math.isnan(along.step_size)
        assert along.verdicts["non-conflicting"] is LOST
        assert along.verdicts["descent"] is NOT_PROMISED
        assert any("d is 0" in note for note in along.notes)
        assert audit_step(opposite, [0.0, 1.0], "mgda").verdicts["non-conflicting"] is KEPT

    def test_a_zero_gradient(self) -> None:
        audit = audit_step([[3.0, 4.0], [0.0, 0.0]], [-3.0, -4.0], "upgrad")
        assert not audit.lost
        assert audit.objectives[1].rate == 0.0
        assert audit.update_weights == pytest.approx((1.0, 0.0), rel=1e-15)
        assert audit.notes == ("the gradient of loss 1 is 0: no step changes it to first order",)

    def test_nothing_but_zeros(self) -> None:
        audit = audit_step(np.zeros((2, 3)), np.zeros(3), "upgrad")
        assert not audit.lost
        assert "descent" not in audit.kept

    def test_the_wrong_sign(self) -> None:
        audit = audit_step(CONFLICT, [6.0, 0.0, 0.0], weights=[1, 1])
        assert audit.cosine == -1.0
        assert audit.angle == 180.0
        assert any("theta_before - theta_after?" in note for note in audit.notes)
        assert not audit_step(CONFLICT, [1.0, 5.0, 0.0], weights=[1, 1]).notes

    def test_an_update_below_its_rounding(self) -> None:
        audit = audit_step(CONFLICT, [6.0, 0.0, 0.0], weights=[1, 1], rounding=7.0)
        assert any("nothing can be told" in note for note in audit.notes)
        assert audit.verdicts["non-conflicting"] is KEPT

    def test_nan_in_the_update_keeps_nothing(self) -> None:
        audit = audit_step(CONFLICT, [math.nan, 0.0, 0.0], "upgrad", nonfinite="propagate")
        assert not audit.kept
        assert audit.lost == ("non-conflicting", "descent", "weighted", "positive weights")
        assert any("NaN" in note for note in audit.notes)
        infinite = audit_step(CONFLICT, [math.inf, 0.0, 0.0], "upgrad", nonfinite="propagate")
        assert infinite.verdicts == audit.verdicts

    @pytest.mark.parametrize("options", [{"weighting": "upgrad"}, {"weighting": "pcd"}, {"weights": [1, 1]}])
    def test_nan_in_the_jacobian_promises_nothing(self, options: dict[str, Any]) -> None:
        audit = audit_step([[math.nan, 1.0], [1.0, 0.0]], [0.0, -1.0], nonfinite="propagate", **options)
        assert not audit.kept
        assert not audit.lost
        assert math.isnan(audit.outside)
        json.dumps(audit.to_dict(), allow_nan=False)

    @pytest.mark.parametrize("exponent", [-700, 700])
    def test_extreme_lengths(self, exponent: int) -> None:
        """Squares of these over- and underflow; nothing else does."""
        plain = audit_step(CONFLICT, [-1.0, -2.0, 0.0], weights=[1, 1])
        size = 2.0**exponent
        for jacobian, update, weights in (
            (size * np.array(CONFLICT), [-1.0, -2.0, 0.0], [1, 1]),
            (CONFLICT, size * np.array([-1.0, -2.0, 0.0]), [1, 1]),
            (np.array([[size], [1.0]]) * CONFLICT, [-1.0, -2.0, 0.0], [1 / size, 1]),
        ):
            audit = audit_step(jacobian, update, weights=weights)
            assert audit.angle == plain.angle
            assert audit.outside == plain.outside
            assert [o.rate for o in audit.objectives] == [o.rate for o in plain.objectives]
            assert audit.verdicts == plain.verdicts | {"descent": audit.verdicts["descent"]}


class TestTolerance:
    def test_limits(self) -> None:
        """16·… + √ε of the update's dtype, unless rounding says otherwise."""
        amplification = 10 / 6
        own = 4 * 10 * 2.0**-52 * amplification
        update = np.array([-1.0, 0.0, 0.0])
        assert audit_step(CONFLICT, update, weights=[1, 1]).tolerance == pytest.approx(
            2.0**-26 + own, rel=1e-7
        )
        exact = audit_step(CONFLICT, update, weights=[1, 1], rounding=0.0)
        assert exact.tolerance == pytest.approx(own, rel=0.1)
        assert not exact.lost
        single = audit_step(CONFLICT, update.astype(np.float32), weights=[1, 1])
        assert single.tolerance == pytest.approx(2.0**-11.5, rel=1e-6)
        loose = audit_step(CONFLICT, update, weights=[1, 1], rounding=0.0, tolerance=0.5)
        assert loose.tolerance == pytest.approx(0.5, rel=1e-12)

    @pytest.mark.parametrize(("height", "verdict"), [(0.9e-3, KEPT), (1.1e-3, LOST)])
    def test_rounding_is_in_units_of_the_parameters(self, height: float, verdict: Verdict) -> None:
        """Along the axis, loss 0 rises at a rate of height / ‖update‖."""
        audit = audit_step([[0.0, 1.0], [2.0, 0.0]], [-1.0, height], weights=[0.0, 1.0], rounding=1e-3)
        assert audit.verdicts["non-conflicting"] is verdict

    @pytest.mark.parametrize("k", [2, 3, 5, 9, 17])
    @pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcd"])
    def test_float32_differences_of_parameters_lose_nothing(self, name: str, k: int) -> None:
        """UPGrad's active constraints are exactly 0: every bit of rounding goes one way or the other."""
        rng = np.random.default_rng(k)
        for _ in range(20):
            jacobian = rng.standard_normal((k, 3 * k)).astype(np.float32)
            before = (10 * rng.standard_normal(3 * k)).astype(np.float32)
            after = before - np.float32(1e-2) * mojd.aggregate(jacobian, name)
            rounding = 2.0**-23 * float(np.linalg.norm(before))
            audit = audit_step(jacobian, after - before, name, rounding=rounding)
            assert audit.tolerance < 0.1
            assert not audit.lost, audit

    @given(k=st.integers(1, 8), n=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
    def test_exact_steps_lose_nothing(self, k: int, n: int, seed: int) -> None:
        """Small integers are full of ties and dependencies."""
        rng = np.random.default_rng(seed)
        jacobian = rng.integers(-3, 4, (k, n)).astype(float)
        for name in ("upgrad", "dualproj", "mgda", "pcd"):
            step = 2.0 ** int(rng.integers(-20, 20))
            audit = audit_step(jacobian, -step * mojd.aggregate(jacobian, name), name, rounding=0.0)
            if audit.direction_norm > 0:
                assert not audit.lost, audit


class TestInvariance:
    """Random steps, neither good nor bad; their numbers are far from every limit."""

    @given(
        seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6), extra=st.integers(1, 4), e=st.integers(-60, 60)
    )
    def test_scale_of_the_update(self, seed: int, k: int, extra: int, e: int) -> None:
        jacobian, update = random_case(seed, k, k + extra)
        for name in ("upgrad", "pcd"):
            plain, scaled = (audit_step(jacobian, s * update, name) for s in (1.0, 2.0**e))
            assert scaled.verdicts == plain.verdicts
            assert scaled.angle == plain.angle
            assert scaled.step_size == pytest.approx(2.0**e * plain.step_size, rel=1e-14)
            assert [g.value for g in scaled.guarantees] == pytest.approx(
                [g.value for g in plain.guarantees], rel=1e-12, nan_ok=True
            )

    @given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 6), extra=st.integers(1, 4))
    def test_order_of_the_losses(self, seed: int, k: int, extra: int) -> None:
        jacobian, update = random_case(seed, k, k + extra)
        order = np.random.default_rng(seed).permutation(k)
        plain, permuted = (
            audit_step(jacobian, update, "upgrad"),
            audit_step(jacobian[order], update, "upgrad"),
        )
        assert permuted.verdicts == plain.verdicts
        assert permuted.angle == pytest.approx(plain.angle, rel=1e-9)
        for position, index in enumerate(order):
            assert permuted.objectives[position].rate == pytest.approx(plain.objectives[index].rate, rel=1e-9)
            assert permuted.objectives[position].broken == plain.objectives[index].broken

    @given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6), extra=st.integers(1, 4))
    def test_rotation_of_the_parameters(self, seed: int, k: int, extra: int) -> None:
        jacobian, update = random_case(seed, k, k + extra)
        turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((k + extra, k + extra)))[0]
        for name in ("upgrad", "pcd"):
            plain = audit_step(jacobian, update, name)
            turned = audit_step(jacobian @ turn, update @ turn, name)
            assert turned.verdicts == plain.verdicts
            assert turned.cosine == pytest.approx(plain.cosine, abs=1e-9)
            assert turned.outside == pytest.approx(plain.outside, abs=1e-9)

    @given(degrees=st.floats(0, 180), seed=st.integers(0, 2**32 - 1), n=st.integers(3, 9))
    def test_a_known_turn(self, degrees: float, seed: int, n: int) -> None:
        jacobian, other = random_case(seed, 2, n)
        d = mojd.aggregate(jacobian, "upgrad")
        d = d / np.linalg.norm(d)
        other -= d * (d @ other)
        other /= np.linalg.norm(other)
        turn = math.radians(degrees)
        audit = audit_step(jacobian, -math.cos(turn) * d - math.sin(turn) * other, "upgrad")
        assert audit.angle == pytest.approx(degrees, abs=1e-10)
        assert audit.cosine == pytest.approx(math.cos(turn), abs=1e-12)

    def test_size_of_a_loss(self) -> None:
        """PCD with the normaliser's scales doesn't see units, and neither does the audit."""
        jacobian, update = random_case(0, 3, 5)
        sizes = np.array([1.0, 1e-6, 1e6])
        plain = audit_step(jacobian, update, "pcd", scales=np.ones(3))
        scaled = audit_step(sizes[:, None] * jacobian, update, "pcd", scales=1 / sizes)
        assert scaled.verdicts == plain.verdicts
        assert scaled.angle == pytest.approx(plain.angle, rel=1e-9)


class TestCone:
    def test_against_brute_force(self) -> None:
        """The nearest point lies in the span of some gradients, with weights ≥ 0."""
        rng = np.random.default_rng(0)
        for _ in range(100):
            k, n = int(rng.integers(1, 5)), int(rng.integers(1, 5))
            rows, target = rng.standard_normal((k, n)), rng.standard_normal(n)
            target /= np.linalg.norm(target)
            best = 1.0
            for bits in range(1, 2**k):
                chosen = rows[[i for i in range(k) if bits >> i & 1]]
                weights = np.linalg.lstsq(chosen.T, target, rcond=None)[0]
                if (weights >= 0).all():
                    best = min(best, float(np.linalg.norm(target - weights @ chosen)))
            assert cone_distance(measure(rows), target) == pytest.approx(best, abs=1e-12)

    def test_gradients_that_nearly_depend_on_each_other(self) -> None:
        """In a Gramian, a difference of 1e-9 is none."""
        rows = np.array([[1.0, 0.0], [1.0, 1e-9]])
        target = np.array([2.0, 1e-9]) / math.hypot(2.0, 1e-9)
        assert cone_distance(measure(rows), target) < 1e-15


class TestSources:
    """Where the direction may come from."""

    def test_functions(self) -> None:
        jacobian, update = random_case(0, 3, 5)
        named = audit_step(jacobian, update, "upgrad", pref_vector=[1.0, 2.0, 3.0])
        function = audit_step(jacobian, update, mojd.upgrad, pref_vector=[1.0, 2.0, 3.0])
        assert named == function
        own = audit_step(jacobian, update, partial(mojd.upgrad, pref_vector=[1.0, 2.0, 3.0]))
        assert own.method == "upgrad"
        assert own.weights == named.weights
        assert own.weights is not None
        assert audit_step(jacobian, update, weights=own.weights).verdicts == named.verdicts

    def test_a_method_without_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its direction, (1, 1, 1), is none of the gradients' combinations, and promises none."""
        method = Aggregator(name="signs", title="", summary="", source="", direction=lambda J: np.sign(J[0]))
        monkeypatch.setitem(_METHODS, "signs", method)
        audit = audit_step([[1.0, 2.0, 2.0]], [-1.0, -1.0, -1.0], "signs")
        assert audit.weights is None
        assert audit.verdicts["weighted"] is NOT_PROMISED
        assert audit.verdicts["non-conflicting"] is KEPT
        assert audit.angle == 0.0
        assert "weights of d         none" in str(audit)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_torch(self, dtype: str) -> None:
        torch = pytest.importorskip("torch")
        jacobian = torch.tensor(CONFLICT, dtype=getattr(torch, dtype), requires_grad=True)
        update = torch.tensor([-0.5, -1.0, 0.0], dtype=getattr(torch, dtype))
        for weighting in ("upgrad", lambda G: torch.ones(len(G), dtype=G.dtype)):
            audit = audit_step(jacobian, update, weighting)
            assert audit.lost == ("non-conflicting", "positive weights")
            assert audit.objectives[1].change == 2.5

    def test_jax_and_strict_arrays(self) -> None:
        jnp = pytest.importorskip("jax.numpy")
        strict = pytest.importorskip("array_api_strict")
        wanted = audit_step(CONFLICT, [-1.0, -2.0, 0.0], "upgrad").verdicts
        for make in (jnp.asarray, strict.asarray):
            audit = audit_step(make(CONFLICT), make([-1.0, -2.0, 0.0]), "upgrad")
            assert audit.verdicts == wanted

    @pytest.mark.gpu
    def test_cuda(self) -> None:
        torch = pytest.importorskip("torch")
        jacobian = torch.tensor(CONFLICT, device="cuda")
        audit = audit_step(jacobian, torch.tensor([-1.0, -2.0, 0.0], device="cuda"), "upgrad")
        assert audit.verdicts == audit_step(CONFLICT, [-1.0, -2.0, 0.0], "upgrad").verdicts


class TestOptimisers:
    """Steps of PyTorch's own optimisers, in float32."""

    @pytest.fixture
    def steps(self) -> Callable[..., list[StepAudit]]:
        torch = pytest.importorskip("torch")

        def steps(make: Callable[[Any], Any], count: int = 30) -> list[StepAudit]:
            torch.manual_seed(0)
            theta = torch.randn(6, requires_grad=True)
            forms = torch.randn(3, 6, 6)
            centres = torch.randn(3, 6)
            optimizer, audits = make(torch.optim)([theta]), []
            for _ in range(count):
                losses = ((forms @ (theta - centres)[..., None])[..., 0] ** 2).sum(dim=1)
                rows = [torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in losses]
                jacobian = torch.stack(rows)
                theta.grad = mojd.aggregate(jacobian, "upgrad")
                before = theta.detach().clone()
                optimizer.step()
                rounding = torch.finfo(torch.float32).eps * before.norm()
                audits.append(audit_step(jacobian, theta.detach() - before, "upgrad", rounding=rounding))
            return audits

        return steps

    def test_sgd_keeps_everything(self, steps: Callable[..., list[StepAudit]]) -> None:
        audits = steps(lambda optim: partial(optim.SGD, lr=1e-3))
        assert {audit.lost for audit in audits} == {()}
        assert [audit.step_size for audit in audits] == pytest.approx([1e-3] * len(audits), rel=1e-3)
        assert max(audit.angle for audit in audits) < 0.1

    def test_momentum_and_adam_do_not(self, steps: Callable[..., list[StepAudit]]) -> None:
        for make in (
            lambda optim: partial(optim.SGD, lr=1e-3, momentum=0.9),
            lambda optim: partial(optim.Adam, lr=0.05),
        ):
            audits = steps(make, 60)
            assert any("non-conflicting" in audit.lost for audit in audits)
            assert any("weighted" in audit.lost for audit in audits)
            assert all(audit.verdicts["non-conflicting"] is not NOT_PROMISED for audit in audits)

    def test_the_first_step_of_adam_has_nothing_but_signs(
        self, steps: Callable[..., list[StepAudit]]
    ) -> None:
        audit = steps(lambda optim: partial(optim.Adam, lr=0.05), 1)[0]
        assert audit.update_norm == pytest.approx(0.05 * math.sqrt(6), rel=1e-4)


class TestReport:
    def test_text(self) -> None:
        text = str(audit_step([[1.0, 0.0], [-1.0, 1.0]], [0.25, 0.75], "pcd", tau=0.25))
        for part in (
            "Step of pcd: 2 losses, 2 parameters",
            "180° (cosine -1)",
            "rises, against the promise",
            "lost          progress",
            "Note: -update points away from d",
        ):
            assert part in text
        assert "tau 0.25 of 0.25" in str(audit_step(TestPCD.J, [-0.25, -0.75], "pcd", tau=0.25))
        many = audit_step(np.eye(12), -np.ones(12), "upgrad")
        assert ", ... (12)" in str(many)
        assert max(len(line) for line in str(many).splitlines()) < 110

    def test_repr(self) -> None:
        audit = audit_step(CONFLICT, [-1.0, -2.0, 0.0], "upgrad")
        assert repr(audit) == "<StepAudit of upgrad: 63.4° off d, lost: non-conflicting, positive weights>"
        assert repr(audit_step(CONFLICT, [-6.0, 0.0, 0.0], "upgrad")).endswith("lost: nothing>")

    def test_json(self) -> None:
        content = audit_step(CONFLICT, [-1.0, -2.0, 0.0], "upgrad").to_dict()
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        assert content["lost"] == ["non-conflicting", "positive weights"]
        assert content["guarantees"][0]["verdict"] == "lost"
        assert content["guarantees"][2]["value"] is None
        assert content["objectives"][0]["change"] == -11.0

    def test_it_is_frozen(self) -> None:
        audit = audit_step(CONFLICT, [-1.0, -2.0, 0.0], "upgrad")
        with pytest.raises(AttributeError):
            audit.angle = 0.0  # type: ignore[misc]

    def test_tolerances_of_guarantees(self) -> None:
        audit = audit_step(CONFLICT, [-1.0, -2.0, 0.0], "upgrad")
        assert [g.tolerance for g in audit.guarantees[:2]] == pytest.approx([audit.tolerance] * 2, rel=1e-6)
        assert guarantee(audit, "progress").tolerance == 2 * audit.tolerance


class TestErrors:
    UPDATE = (-1.0, -2.0, 0.0)

    @pytest.mark.parametrize(
        ("jacobian", "update", "options", "kind", "parts"),
        [
            (CONFLICT, UPDATE, {}, mojd.InvalidInputError, ["either weighting", "got neither"]),
            (
                CONFLICT,
                UPDATE,
                {"weighting": "upgrad", "weights": [1, 1]},
                mojd.InvalidInputError,
                ["got both"],
            ),
            (CONFLICT, UPDATE, {"weights": [1, 1], "tau": 0.1}, mojd.InvalidInputError, ["tau", "options"]),
            (CONFLICT, UPDATE, {"weights": [1, 1, 1]}, mojd.InvalidInputError, ["(2,)", "(3,)"]),
            (
                CONFLICT,
                UPDATE,
                {"weighting": lambda G: G},
                mojd.InvalidInputError,
                ["(2,)", "(2, 2)", "<lambda>"],
            ),
            (CONFLICT, UPDATE, {"weighting": [1, 1]}, mojd.InvalidTypeError, ["list", "weights=..."]),
            (CONFLICT, UPDATE, {"weighting": "grad"}, mojd.InvalidInputError, ["'grad' is not known"]),
            (CONFLICT, UPDATE, {"weighting": "pcd", "tau": 2.0}, mojd.InvalidInputError, ["tau must lie in"]),
            (CONFLICT, (1.0, 2.0), {"weights": [1, 1]}, mojd.InvalidInputError, ["update", "(3,)", "(2,)"]),
            (CONFLICT, [UPDATE], {"weights": [1, 1]}, mojd.InvalidInputError, ["update", "(1, 3)"]),
            ([CONFLICT], UPDATE, {"weights": [1, 1]}, mojd.InvalidInputError, ["(1, 2, 3)", "one by one"]),
            (UPDATE, UPDATE, {"weights": [1]}, mojd.InvalidInputError, ["jacobian", "(K, n)", "(3,)"]),
            (np.zeros((0, 3)), UPDATE, {"weights": []}, mojd.InvalidInputError, ["K >= 1", "(0, 3)"]),
            ([["a"]], [1.0], {"weights": [1]}, mojd.InvalidTypeError, ["jacobian", "real numbers"]),
            ([[1.0]], [1j], {"weights": [1]}, mojd.InvalidTypeError, ["update", "real numbers"]),
            (
                CONFLICT,
                UPDATE,
                {"weights": [1, 1], "rounding": -1},
                mojd.InvalidInputError,
                ["rounding", "-1.0"],
            ),
            (
                CONFLICT,
                UPDATE,
                {"weights": [1, 1], "rounding": "a"},
                mojd.InvalidTypeError,
                ["rounding", "str"],
            ),
            (
                CONFLICT,
                UPDATE,
                {"weights": [1, 1], "tolerance": math.nan},
                mojd.InvalidInputError,
                ["tolerance"],
            ),
            (
                CONFLICT,
                UPDATE,
                {"weights": [1, 1], "nonfinite": "x"},
                mojd.InvalidInputError,
                ["nonfinite='x'"],
            ),
            ([[math.nan]], [1.0], {"weights": [1]}, mojd.NonFiniteError, ["jacobian", "(0, 0)", "propagate"]),
            ([[1.0]], [math.inf], {"weights": [1]}, mojd.NonFiniteError, ["update", "(0,)"]),
            ([[1.0]], [1.0], {"weights": [math.nan]}, mojd.NonFiniteError, ["weights", "(0,)"]),
        ],
    )
    def test_bad_input(
        self, jacobian: Any, update: Any, options: dict[str, Any], kind: type[Exception], parts: list[str]
    ) -> None:
        with pytest.raises(kind) as caught:
            audit_step(jacobian, update, **options)
        for part in parts:
            assert part in str(caught.value), str(caught.value)

    @pytest.mark.parametrize(
        ("method", "part"),
        [
            (partial(LossWeighting, weights=lambda losses: losses), "weights losses"),
            (partial(mojd.weightings.Weighting, weights=lambda G: G, is_stateful=True), "has a state"),
        ],
    )
    def test_methods_that_need_more_than_gradients(
        self, method: Callable[..., Method], part: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = method(name="made", title="", summary="", source="")
        monkeypatch.setitem(_METHODS, "made", made)
        with pytest.raises(mojd.InvalidInputError, match=f"'made'.*{part}.*pass weights="):
            audit_step(CONFLICT, self.UPDATE, "made")

    @pytest.mark.parametrize(
        ("function", "part"),
        [
            (mojd.weighted_sum, "'weighted_sum' weights losses"),
            (mojd.famo, "'famo' has a state"),
            (partial(mojd.gradvac, mojd.init_gradvac(2)), "'gradvac' has a state"),
        ],
    )
    def test_their_functions(self, function: Callable[..., Any], part: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=f"{part}.*pass weights="):
            audit_step(CONFLICT, self.UPDATE, function)


class TestFunctionsOfMethods:
    """A function does what its name does."""

    UPDATE = (-1.0, -2.0, 0.0)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("trimmed_mean", {"trim_number": 0}),
            ("graddrop", {"seed": 3}),
            ("pcd", {"tau": 0.3}),
            ("mgda", {}),
        ],
    )
    def test_the_same_report(self, name: str, options: dict[str, Any]) -> None:
        by_name = str(audit_step(CONFLICT, self.UPDATE, name, **options))
        function = getattr(mojd, name)
        assert str(audit_step(CONFLICT, self.UPDATE, function, **options)) == by_name
        assert str(audit_step(CONFLICT, self.UPDATE, partial(function, **options))) == by_name

    def test_options_beside_a_partial_win(self) -> None:
        audit = audit_step(CONFLICT, self.UPDATE, partial(mojd.pcd, tau=0.9, rescale=True), tau=0.3)
        assert str(audit) == str(audit_step(CONFLICT, self.UPDATE, "pcd", tau=0.3, rescale=True))
