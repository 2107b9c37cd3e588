"""FAMO: weights from losses, logits learnt from their changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd


def slow_weights(logits: list[float], losses: list[float], minimum: float = 0.0) -> list[float]:
    """The formulas of Algorithm 1, number by number."""
    powers = [math.exp(x) for x in logits]
    ratios = [p / sum(powers) / (loss - minimum) for p, loss in zip(powers, losses, strict=True)]
    return [ratio / sum(ratios) for ratio in ratios]


def slow_update(
    logits: list[float], before: list[float], after: list[float], lr: float, decay: float
) -> list[float]:
    powers = [math.exp(x) for x in logits]
    z = [p / sum(powers) for p in powers]
    change = [math.log(b) - math.log(a) for b, a in zip(before, after, strict=True)]
    size = range(len(z))
    updated = []
    for i in size:
        slope = sum((z[i] * (i == j) - z[i] * z[j]) * change[j] for j in size)
        updated.append(logits[i] - lr * (slope + decay * logits[i]))
    return updated


class TestWorkedValues:
    def test_first_weights_are_reciprocal_losses(self) -> None:
        state = mojd.init_famo(3)
        np.testing.assert_allclose(mojd.famo(state, [1.0, 2.0, 4.0]), [4 / 7, 2 / 7, 1 / 7], rtol=1e-15)
        np.testing.assert_allclose(
            mojd.famo(state, [2.0, 3.0, 5.0], minimum=1.0), [4 / 7, 2 / 7, 1 / 7], rtol=1e-15
        )
        np.testing.assert_allclose(
            mojd.famo(state, [2.0, 2.0, 9.0], minimum=[1.0, 0.0, 5.0]), [4 / 7, 2 / 7, 1 / 7], rtol=1e-15
        )

    def test_one_update(self) -> None:
        """z = (1/2, 1/2), change = (log 2, 0): the slope is (1/4, -1/4)·log 2."""
        state = mojd.update_famo(mojd.init_famo(2), [1.0, 3.0], [0.5, 3.0], learning_rate=0.1)
        np.testing.assert_allclose(state.logits, [-0.025 * math.log(2), 0.025 * math.log(2)], rtol=1e-14)

    def test_decay(self) -> None:
        """Losses that don't change leave the decay alone at work."""
        start = mojd.FamoState(np.array([2.0, -1.0]))
        state = mojd.update_famo(start, [1.0, 3.0], [1.0, 3.0], learning_rate=0.5, decay=0.1)
        np.testing.assert_allclose(state.logits, [1.9, -0.95], rtol=1e-15)
        assert start.logits.tolist() == [2.0, -1.0]

    def test_the_logits_count(self) -> None:
        state = mojd.FamoState(np.log([3.0, 1.0]))
        np.testing.assert_allclose(mojd.famo(state, [1.0, 1.0]), [0.75, 0.25], rtol=1e-15)


@given(data=st.data(), size=st.integers(1, 6))
def test_against_the_formulas(data: st.DataObject, size: int) -> None:
    def draw(low: float, high: float) -> list[float]:
        return data.draw(st.lists(st.floats(low, high), min_size=size, max_size=size))

    logits, before, after = draw(-5, 5), draw(1e-3, 1e3), draw(1e-3, 1e3)
    state = mojd.FamoState(np.array(logits))
    np.testing.assert_allclose(mojd.famo(state, before), slow_weights(logits, before), rtol=1e-12)
    updated = mojd.update_famo(state, before, after, learning_rate=0.3, decay=0.2)
    np.testing.assert_allclose(
        updated.logits, slow_update(logits, before, after, 0.3, 0.2), rtol=1e-12, atol=1e-12
    )


class TestPeers:
    def test_the_gradient_of_torchjd(self) -> None:
        """Its scalarised loss has our weights for gradient, up to the 1e-8 that it adds to the losses."""
        torch = pytest.importorskip("torch")
        scalarization = pytest.importorskip("torchjd.scalarization")
        rng = np.random.default_rng(0)
        for k in (1, 2, 5):
            losses = torch.tensor(rng.uniform(0.1, 4.0, k), requires_grad=True)
            scalarization.FAMO(k)(losses).backward()
            assert losses.grad is not None
            ours = mojd.famo(mojd.init_famo(k), losses)
            # 1e-8 / 0.1, and its logits are float32.
            np.testing.assert_allclose(ours, losses.grad, rtol=1e-6)

    def test_the_slope_is_that_of_autograd(self) -> None:
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(1)
        for k in (2, 4, 7):
            logits = torch.tensor(rng.standard_normal(k), requires_grad=True)
            before, after = rng.uniform(0.1, 4.0, (2, k))
            torch.softmax(logits, -1).backward(torch.tensor(np.log(before / after)))
            state = mojd.FamoState(logits.detach().numpy().copy())
            updated = mojd.update_famo(state, before, after, learning_rate=1.0, decay=0.0)
            assert logits.grad is not None
            np.testing.assert_allclose(
                state.logits - updated.logits, logits.grad.numpy(), rtol=1e-9, atol=1e-12
            )


class TestTheory:
    def test_a_loss_that_falls_faster_loses_weight(self) -> None:
        state = mojd.init_famo(2)
        for _ in range(20):
            state = mojd.update_famo(state, [1.0, 1.0], [0.5, 0.9])
        weights = mojd.famo(state, [1.0, 1.0])
        assert weights[0] < 0.5 < weights[1]

    def test_units_of_the_losses_drop_out(self) -> None:
        rng = np.random.default_rng(0)
        before, after = rng.uniform(0.1, 4.0, (2, 5))
        state = mojd.FamoState(rng.standard_normal(5))
        units = 10.0 ** rng.integers(-9, 9, 5)
        plain = mojd.update_famo(state, before, after).logits
        scaled = mojd.update_famo(state, units * before, units * after).logits
        np.testing.assert_allclose(scaled, plain, rtol=1e-12)
        np.testing.assert_allclose(mojd.famo(state, 7.0 * before), mojd.famo(state, before), rtol=1e-14)

    def test_permutation(self) -> None:
        rng = np.random.default_rng(0)
        losses, order = rng.uniform(0.1, 4.0, 6), rng.permutation(6)
        state = mojd.FamoState(rng.standard_normal(6))
        swapped = mojd.FamoState(state.logits[order])
        np.testing.assert_allclose(
            mojd.famo(swapped, losses[order]), mojd.famo(state, losses)[order], rtol=1e-14
        )


class TestSpecialCases:
    def test_losses_at_their_minimum_share_all_weight(self) -> None:
        state = mojd.FamoState(np.log([1.0, 3.0, 5.0]))
        np.testing.assert_allclose(mojd.famo(state, [0.0, 0.0, 1.0]), [0.25, 0.75, 0.0], rtol=1e-15)
        near = mojd.famo(state, [1e-300, 1e-300, 1.0])
        np.testing.assert_allclose(near, [0.25, 0.75, 0.0], atol=1e-15)

    def test_a_loss_that_reaches_its_minimum_does_not_count(self) -> None:
        for before, after in (([1.0, 1.0], [0.0, 0.5]), ([0.0, 1.0], [1.0, 0.5]), ([0.0, 1.0], [0.0, 0.5])):
            state = mojd.update_famo(mojd.init_famo(2), before, after)
            expected = mojd.update_famo(mojd.init_famo(2), [1.0, 1.0], [1.0, 0.5])
            assert np.array_equal(state.logits, expected.logits)

    def test_extreme_logits(self) -> None:
        state = mojd.FamoState(np.array([1e6, 0.0]))
        assert mojd.famo(state, [1.0, 1.0]).tolist() == [1.0, 0.0]

    def test_batches(self) -> None:
        rng = np.random.default_rng(0)
        before, after = rng.uniform(0.1, 4.0, (2, 3, 4, 5))
        state = mojd.update_famo(mojd.init_famo(5, (3, 4)), before, after)
        shared = mojd.update_famo(mojd.init_famo(5), before, after)
        assert state.logits.shape == shared.logits.shape == (3, 4, 5)
        for index in np.ndindex(3, 4):
            alone = mojd.update_famo(mojd.init_famo(5), before[index], after[index])
            assert np.array_equal(state.logits[index], alone.logits)
        assert np.array_equal(state.logits, shared.logits)

    def test_nan_leaves_the_logits(self) -> None:
        start = mojd.FamoState(np.array([[0.5, 1.0], [0.5, 1.0]]))
        before = np.array([[1.0, np.nan], [1.0, 2.0]])
        state = mojd.update_famo(start, before, np.ones((2, 2)), nonfinite="propagate")
        assert state.logits[0].tolist() == [0.5, 1.0]
        assert state.logits[1, 0] != 0.5

    def test_a_device(self) -> None:
        xp = pytest.importorskip("array_api_strict")
        device = xp.Device("device1")
        before = xp.asarray([1.0, 3.0], dtype=xp.float64, device=device)
        after = xp.asarray([0.5, 3.0], dtype=xp.float64, device=device)
        state = mojd.init_famo(2)
        for _ in range(2):
            state = mojd.update_famo(state, before, after)
        assert state.logits.device == device
        expected = mojd.init_famo(2)
        for _ in range(2):
            expected = mojd.update_famo(expected, [1.0, 3.0], [0.5, 3.0])
        on_cpu = np.from_dlpack(xp.asarray(state.logits, device=xp.Device("CPU_DEVICE")))
        np.testing.assert_allclose(on_cpu, expected.logits, rtol=1e-14)
        below = mojd.famo(mojd.init_famo(2), before, minimum=2.0)
        assert np.isnan(np.from_dlpack(xp.asarray(below, device=xp.Device("CPU_DEVICE")))).any()

    def test_float32_losses_and_float64_logits(self) -> None:
        losses = np.array([1.0, 3.0], np.float32)
        state = mojd.update_famo(mojd.init_famo(2), losses, losses)
        assert state.logits.dtype == np.float64
        assert mojd.famo(state, losses).dtype == np.float32


class TestErrors:
    @pytest.mark.parametrize("size", [0, -1, 2.0, True, None])
    def test_sizes(self, size: Any) -> None:
        with pytest.raises(mojd.InvalidInputError, match="size must be the number of losses"):
            mojd.init_famo(size)

    def test_states(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match="state must come from mojd"):
            mojd.famo([0.0, 0.0], [1.0, 2.0])  # type: ignore[arg-type]
        with pytest.raises(mojd.InvalidInputError, match=r"state.logits must have shape \(\.\.\., 3\)"):
            mojd.famo(mojd.init_famo(2), [1.0, 2.0, 3.0])

    def test_losses_below_their_minimum(self) -> None:
        with pytest.raises(
            mojd.InvalidInputError, match=r"losses .*holds -1.0 at index \(1,\), below its min"
        ):
            mojd.famo(mojd.init_famo(2), [1.0, -1.0])
        with pytest.raises(mojd.InvalidInputError, match=r"losses_after .*index \(0,\).*minimum"):
            mojd.update_famo(mojd.init_famo(2), [1.0, 1.0], [-0.5, 1.0])

    def test_steps(self) -> None:
        for option in ("learning_rate", "decay"):
            for bad in (-1.0, math.inf, math.nan):
                options: dict[str, Any] = {option: bad}
                with pytest.raises(mojd.InvalidInputError, match=f"{option} must be finite"):
                    mojd.update_famo(mojd.init_famo(1), [1.0], [1.0], **options)
            for wrong in ("a", "0.5", None, [0.5], np.ones(1)):
                options = {option: wrong}
                with pytest.raises(mojd.InvalidTypeError, match=f"{option} must be a number, got "):
                    mojd.update_famo(mojd.init_famo(1), [1.0], [1.0], **options)

    def test_shapes_and_nan(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match="the same losses at two times"):
            mojd.update_famo(mojd.init_famo(2), [1.0, 2.0], [[1.0, 2.0]])
        with pytest.raises(mojd.NonFiniteError, match="losses_after"):
            mojd.update_famo(mojd.init_famo(2), [1.0, 2.0], [1.0, np.nan])
        with pytest.raises(mojd.InvalidInputError, match=r"minimum must have shape \(\.\.\., 2\)"):
            mojd.famo(mojd.init_famo(2), [1.0, 2.0], minimum=[0.0] * 3)
