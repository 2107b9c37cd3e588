"""GradVac: each gradient is turned until its cosines with the others are no less than usual."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd import GradVacState
from mojd.weightings._draws import visiting_orders
from mojd.weightings._shared import view
from tests.reference.families import FAMILIES, Floats, symmetric_gramian

COUNTEREXAMPLE = np.array([[1.0, 0.0], [0.0, 1.0], [-0.5, -1.0]])


def orders_of(gramian: Any, seed: Any) -> Any:
    """The orders that gradvac draws for a seed."""
    matrix = view(gramian)
    return visiting_orders(seed, matrix.batch_shape, matrix)


def vaccinate(rows: Floats, targets: Floats, orders: Any, beta: float) -> tuple[Floats, Floats]:
    """Algorithm 1 on the gradients themselves, with angles: the direction and the new averages.

    A g'_i at an angle θ from g_j goes to the angle θ̂ by adding ‖g'_i‖·sin(θ − θ̂)/sin θ̂ of g_j/‖g_j‖.
    """
    targets, total = targets.copy(), np.zeros(rows.shape[1])
    for i, order in enumerate(orders):
        current = rows[i].copy()
        for j in order:
            lengths = math.hypot(*current), math.hypot(*rows[j])
            cosine = float(current @ rows[j]) / lengths[0] / lengths[1]
            angle, aim = math.acos(max(-1.0, min(1.0, cosine))), math.acos(targets[i, j])
            if cosine < targets[i, j]:
                current += lengths[0] * math.sin(angle - aim) / math.sin(aim) * rows[j] / lengths[1]
            targets[i, j] = (1 - beta) * targets[i, j] + beta * cosine
        total += current
    return total, targets


class TestWorkedValues:
    def test_orthogonal_gradients_are_turned_to_their_target(self) -> None:
        """Norms 1 and 2, targets ½: (1/2)·½/√¾ = 1/(2√3) of g₂, and 2·½/√¾ = 2/√3 of g₁."""
        state = GradVacState(np.array([[0.0, 0.5], [0.5, 0.0]]))
        weights, after = mojd.gradvac(state, [[1.0, 0.0], [0.0, 4.0]], seed=0, beta=0.25)
        np.testing.assert_allclose(weights, [1 + 2 / 3**0.5, 1 + 0.5 / 3**0.5], rtol=1e-15)
        assert after.cosines.tolist() == [[0.0, 0.375], [0.375, 0.0]]

    def test_what_is_better_than_usual_is_left_alone(self) -> None:
        state = GradVacState(np.array([[0.0, -0.5], [-0.5, 0.0]]))
        weights, after = mojd.gradvac(state, [[1.0, -0.4], [-0.4, 1.0]], seed=0)
        assert weights.tolist() == [1.0, 1.0]
        np.testing.assert_allclose(after.cosines[0, 1], -0.45, rtol=1e-15)

    def test_the_example_of_the_jacobian_descent_paper(self) -> None:
        """A first step is PCGrad's; the cosine of −22/√684 goes into the averages."""
        weights, state = mojd.gradvac(mojd.init_gradvac(2), [[18.0, -22.0], [-22.0, 38.0]], seed=0)
        np.testing.assert_allclose(weights, [20 / 9, 30 / 19], rtol=1e-15)
        np.testing.assert_allclose(state.cosines[0, 1], -11 / 684**0.5, rtol=1e-15)

    def test_one_objective(self) -> None:
        weights, state = mojd.gradvac(mojd.init_gradvac(1), [[5.0]], seed=0)
        assert weights.tolist() == [1.0]
        assert state.cosines.tolist() == [[0.0]]


class TestAlgorithm:
    @given(k=st.integers(2, 5), n=st.integers(2, 5), beta=st.floats(0.0, 0.9), seed=st.integers(0, 2**32 - 1))
    def test_vectors_and_angles(self, k: int, n: int, beta: float, seed: int) -> None:
        """Some steps of training, in which gradients of different lengths change slowly."""
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((k, n)) * 10.0 ** rng.uniform(-3, 3, (k, 1))
        state = mojd.init_gradvac(k)
        for step in range(5):
            rows = rows * (1 + 0.5 * rng.standard_normal((k, n)))
            gramian = symmetric_gramian(rows)
            expected, targets = vaccinate(rows, np.array(state.cosines), orders_of(gramian, step), beta)
            if np.abs(targets).max() > 0.999:
                return  # sin θ̂ is near 0 from here on, and both computations lose digits.
            weights, state = mojd.gradvac(state, gramian, seed=step, beta=beta)
            size = weights @ np.linalg.norm(rows, axis=1)
            # An angle near 0 or π is known to 1e-8 only, and sin θ̂ may be as small as 0.04.
            np.testing.assert_allclose(weights @ rows, expected, rtol=0, atol=1e-6 * size)
            np.testing.assert_allclose(state.cosines, targets, rtol=0, atol=1e-6)

    def test_torchjd_agrees(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With its eps of 1e-8 in the denominators set to 0 it differs by rounding, given the orders."""
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        for seed in range(40):
            k = seed % 4 + 2
            rng = np.random.default_rng(seed)
            theirs, state = aggregation.GradVac(beta=0.3, eps=0.0), mojd.init_gradvac(k)
            rows = rng.standard_normal((k, 6)) * 10.0 ** rng.uniform(-2, 2, (k, 1))
            for _ in range(4):
                rows = rows * (1 + 0.3 * rng.standard_normal((k, 6)))
                gramian = symmetric_gramian(rows)
                orders = orders_of(gramian, seed)
                places = iter((orders - (orders > np.arange(k)[:, None])).tolist())
                monkeypatch.setattr(torch, "randperm", lambda _n, left=places: torch.tensor(next(left)))
                expected = theirs(torch.tensor(rows)).numpy()
                weights, state = mojd.gradvac(state, gramian, seed=seed, beta=0.3)
                size = weights @ np.linalg.norm(rows, axis=1)
                np.testing.assert_allclose(weights @ rows, expected, rtol=0, atol=1e-12 * size)

    def test_torchjds_eps_is_seen_in_short_gradients(self) -> None:
        """Norms of 1e-5: its 1e-8 is large beside products of 1e-10, and it is 44 % off."""
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        rows = 1e-5 * np.array([[1.0, 0.0], [-1.0, 1.0]])
        weights = mojd.gradvac(mojd.init_gradvac(2), mojd.gramian(rows), seed=0)[0]
        np.testing.assert_allclose(weights, [2.0, 1.5], rtol=1e-14)
        theirs = aggregation.GradVac()(torch.tensor(rows)).numpy()
        assert np.linalg.norm(theirs - weights @ rows) > 0.4 * np.linalg.norm(weights @ rows)

    @given(k=st.integers(1, 6), n=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
    def test_a_first_step_is_pcgrads(self, k: int, n: int, seed: int) -> None:
        gramian = symmetric_gramian(np.random.default_rng(seed).standard_normal((k, n)))
        for state, beta in ((mojd.init_gradvac(k), 0.5), (mojd.init_gradvac(k), 0.0)):
            weights, _ = mojd.gradvac(state, gramian, seed=seed, beta=beta)
            np.testing.assert_allclose(weights, mojd.pcgrad(gramian, seed=seed), rtol=1e-10)

    def test_corrected_gradients_have_the_cosines_that_were_aimed_at(self) -> None:
        """For two objectives nothing comes after the one correction: g₁' = d − g₂' lies at φ̂ from g₂."""
        rng = np.random.default_rng(0)
        for _ in range(50):
            rows, target = rng.standard_normal((2, 4)), rng.uniform(-0.9, 0.9)
            state = GradVacState(np.array([[0.0, target], [-1.0, 0.0]]))
            weights, _ = mojd.gradvac(state, mojd.gramian(rows), seed=0)
            corrected = rows[0] + (weights[1] - 1.0) * rows[1]
            norms = np.linalg.norm(rows, axis=1)
            cosine = rows[0] @ rows[1] / norms[0] / norms[1]
            found = corrected @ rows[1] / np.linalg.norm(corrected) / norms[1]
            assert found == pytest.approx(max(cosine, target), abs=1e-12)
            assert weights[0] == 1.0


class TestTheory:
    @given(k=st.integers(1, 5), n=st.integers(2, 6), seed=st.integers(0, 2**32 - 1))
    def test_linear_under_scaling(self, k: int, n: int, seed: int) -> None:
        """The lengths of the gradients move neither the targets nor the choice of what is corrected."""
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((k, n))
        targets = rng.uniform(-0.9, 0.9, (k, k))
        np.fill_diagonal(targets, 0.0)
        a, b = rng.uniform(0.1, 10.0, (2, k, 1))
        steps = [
            mojd.gradvac(GradVacState(targets), mojd.gramian(scale * rows), seed=seed)
            for scale in (a, b, a + b)
        ]
        parts = [weights @ (c * rows) for (weights, _), c in zip(steps, (a, b, a + b), strict=True)]
        size = float(np.abs(parts[2]).max() + steps[2][0] @ np.linalg.norm((a + b) * rows, axis=1))
        np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=0, atol=1e-7 * size)
        np.testing.assert_allclose(steps[0][1].cosines, steps[1][1].cosines, rtol=0, atol=1e-6)

    def test_it_may_conflict(self) -> None:
        """PCGrad's counterexample in the paper on Jacobian descent is one here too."""
        for seed in range(20):
            weights, _ = mojd.gradvac(mojd.init_gradvac(3), mojd.gramian(COUNTEREXAMPLE), seed=seed)
            assert (COUNTEREXAMPLE @ (weights @ COUNTEREXAMPLE) < -0.05).any()


class TestSpecialCases:
    def test_zero_gradients_have_no_cosine(self) -> None:
        """Neither corrected nor averaged: their targets stay as they are."""
        state = GradVacState(np.full((3, 3), 0.25) - 0.25 * np.eye(3))
        gramian = [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 4.0]]
        weights, after = mojd.gradvac(state, gramian, seed=0)
        assert weights[1] == 1.0
        assert (weights[[0, 2]] > 1.0).all()
        assert after.cosines[1].tolist() == [0.25, 0.0, 0.25]
        assert after.cosines[:, 1].tolist() == [0.25, 0.0, 0.25]
        assert after.cosines[0, 2] == after.cosines[2, 0] == -0.125

    def test_what_has_cancelled_has_no_cosine(self) -> None:
        """g₁ + g₂ = 0 after the first correction, whatever rounding leaves of it."""
        for seed in range(20):
            rows = np.random.default_rng(seed).standard_normal((3, 4))
            rows[1] = -rows[0] / 3.0
            weights, state = mojd.gradvac(mojd.init_gradvac(3), mojd.gramian(rows), seed=seed)
            orders = orders_of(mojd.gramian(rows), seed)
            for i, j in ((0, 1), (1, 0)):
                if orders[i, 0] == j:
                    assert state.cosines[i, 2] == 0.0
            assert np.isfinite(weights).all()
            assert (weights < 100.0).all()

    def test_a_target_of_one_is_out_of_reach(self) -> None:
        """Copies for sixty steps bring the average to 1 in float64; then the two part."""
        state = mojd.init_gradvac(2)
        for _ in range(60):
            weights, state = mojd.gradvac(state, [[3.0, 3.0], [3.0, 3.0]], seed=0)
            assert weights.tolist() == [1.0, 1.0]
        assert state.cosines.tolist() == [[0.0, 1.0], [1.0, 0.0]]
        weights, state = mojd.gradvac(state, [[3.0, 0.0], [0.0, 3.0]], seed=0)
        assert weights.tolist() == [1.0, 1.0]
        assert state.cosines[0, 1] == 0.5
        weights, _ = mojd.gradvac(GradVacState(np.array([[0.0, -1.0], [-1.0, 0.0]])), np.eye(2), seed=0)
        assert weights.tolist() == [1.0, 1.0]

    def test_parallel_gradients_are_no_conflict(self) -> None:
        """Their cosines are 1 up to rounding, and so are the averages: no difference is seen in that."""
        rng, state = np.random.default_rng(0), mojd.init_gradvac(3)
        for _ in range(300):
            row = rng.standard_normal(5)
            gramian = mojd.gramian(np.stack([row, row / 3.0, row * 7.1]))
            weights, state = mojd.gradvac(state, gramian, seed=0)
            assert weights.tolist() == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("scale", [1e-150, 1e150])
    def test_extreme_scales(self, scale: float) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((4, 3)))
        first, after = mojd.gradvac(mojd.init_gradvac(4), gramian, seed=0)
        second, scaled = mojd.gradvac(mojd.init_gradvac(4), scale * gramian, seed=0)
        np.testing.assert_allclose(second, first, rtol=1e-11)
        np.testing.assert_allclose(scaled.cosines, after.cosines, rtol=0, atol=1e-12)

    def test_float32(self) -> None:
        gramian = symmetric_gramian(np.random.default_rng(0).standard_normal((4, 6))).astype(np.float32)
        weights, state = mojd.gradvac(mojd.init_gradvac(4), gramian, seed=0)
        expected, _ = mojd.gradvac(mojd.init_gradvac(4), gramian.astype(float), seed=0)
        assert weights.dtype == np.float32
        assert state.cosines.dtype == np.float64
        assert np.array_equal(weights, expected.astype(np.float32))


class TestState:
    def test_what_is_not_finite_leaves_it_as_it_was(self) -> None:
        gramians = np.stack([np.array([[1.0, -0.5], [-0.5, 1.0]])] * 3)
        gramians[1, 0, 1] = np.nan
        state = GradVacState(np.array([[0.0, 0.2], [0.3, 0.0]]))
        weights, after = mojd.gradvac(state, gramians, seed=0, nonfinite="propagate")
        assert np.isnan(weights).all(axis=-1).tolist() == [False, True, False]
        assert after.cosines.shape == (3, 2, 2)
        assert np.array_equal(after.cosines[1], state.cosines)
        assert (after.cosines[[0, 2], 0, 1] == -0.15).all()

    def test_a_batch_carries_a_state_each(self) -> None:
        rng = np.random.default_rng(0)
        gramians = np.stack([symmetric_gramian(rng.standard_normal((2, 3))) for _ in range(5)])
        together = mojd.init_gradvac(2)
        alone = [mojd.init_gradvac(2)] * 5
        for _ in range(3):
            gramians = gramians[::-1]
            weights, together = mojd.gradvac(together, gramians, seed=0)
            steps = [
                mojd.gradvac(state, gramian, seed=0) for state, gramian in zip(alone, gramians, strict=True)
            ]
            alone = [state for _, state in steps]
            np.testing.assert_allclose(weights, [step[0] for step in steps], rtol=1e-13)
            np.testing.assert_allclose(together.cosines, [state.cosines for state in alone], rtol=1e-13)

    def test_one_gramian_for_many_states(self) -> None:
        state = GradVacState(np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3, 3)))
        weights, after = mojd.gradvac(state, np.eye(3), seed=0)
        assert weights.shape == (4, 3)
        assert after.cosines.shape == (4, 3, 3)
        assert mojd.gradvac(mojd.init_gradvac(3), np.zeros((0, 3, 3)), seed=0)[0].shape == (0, 3)

    def test_it_stays_where_the_gramians_are(self) -> None:
        xp = pytest.importorskip("array_api_strict")
        gramian = symmetric_gramian(np.random.default_rng(1).standard_normal((3, 4)))
        there = xp.asarray(gramian.tolist(), device=xp.Device("device1"))
        state = expected_state = mojd.init_gradvac(3)
        for step in range(3):
            weights, state = mojd.gradvac(state, there, seed=step)
            expected, expected_state = mojd.gradvac(expected_state, gramian, seed=step)
            for actual, wanted in ((weights, expected), (state.cosines, expected_state.cosines)):
                assert actual.device == there.device
                on_host = np.from_dlpack(xp.asarray(actual, device=xp.Device("CPU_DEVICE")))
                np.testing.assert_allclose(on_host, wanted, rtol=1e-12)

    def test_a_state_that_was_a_tensor_for_a_while(self) -> None:
        """As a checkpoint of PyTorch keeps it."""
        torch = pytest.importorskip("torch")
        gramian = symmetric_gramian(np.random.default_rng(1).standard_normal((3, 4)))
        _, state = mojd.gradvac(mojd.init_gradvac(3), gramian, seed=0)
        expected, _ = mojd.gradvac(state, gramian, seed=1)
        loaded = GradVacState(torch.tensor(state.cosines))
        assert np.array_equal(mojd.gradvac(loaded, gramian, seed=1)[0], expected)

    @pytest.mark.parametrize(
        ("cosines", "message"),
        [
            (np.zeros((2, 2)), r"state.cosines must have shape \(\.\.\., 3, 3\).*\(2, 2\)"),
            (np.zeros(3), r"state.cosines must have shape .*\(3,\)"),
            (np.full((3, 3), 1.5), r"numbers in \[-1, 1\]"),
            (np.full((3, 3), np.nan), r"numbers in \[-1, 1\]"),
            (np.zeros((4, 3, 3)), r"gramian and state.cosines.*\(2,\) against \(4,\)"),
        ],
    )
    def test_what_does_not_fit(self, cosines: Floats, message: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=message):
            mojd.gradvac(GradVacState(cosines), np.stack([np.eye(3)] * 2), seed=0)

    @pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan, True, "0.5"])
    def test_beta(self, beta: Any) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"beta must be a number in \[0, 1\]"):
            mojd.gradvac(mojd.init_gradvac(2), np.eye(2), seed=0, beta=beta)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_weights_stay_finite_and_averages_cosines(self, family: str) -> None:
        if FAMILIES[family].min_size > 4:
            pytest.skip("too small for this family")
        gramian = FAMILIES[family].sample(4, np.random.default_rng(4)).gramian
        state = mojd.init_gradvac(4)
        for step in range(30):
            weights, state = mojd.gradvac(state, gramian, seed=step)
            assert np.isfinite(weights).all()
            assert (np.abs(state.cosines) <= 1.0).all()
