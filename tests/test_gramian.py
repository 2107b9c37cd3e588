"""Gramians of Jacobians, and the moving average that makes PCD scale-free."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd import NormaliserState


class TestGramian:
    @pytest.mark.parametrize("shape", [(3, 5), (1, 4), (4, 1), (2, 3, 5), (2, 1, 3, 5), (0, 3, 5), (3, 0)])
    def test_inner_products_of_rows(self, shape: tuple[int, ...]) -> None:
        jacobian = np.random.default_rng(0).standard_normal(shape)
        gramian = mojd.gramian(jacobian)
        assert gramian.shape == (*shape[:-1], shape[-2])
        np.testing.assert_allclose(
            gramian, np.einsum("...in,...jn->...ij", jacobian, jacobian), rtol=1e-13, atol=1e-13
        )

    def test_worked_value(self) -> None:
        assert mojd.gramian([[-4, 1, 1], [6, 1, 1]]).tolist() == [[18.0, -22.0], [-22.0, 38.0]]

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
    def test_integers_do_not_overflow(self, dtype: Any) -> None:
        gramian = mojd.gramian(np.full((2, 3), 100, dtype=dtype))
        assert gramian.dtype == np.float64
        assert (gramian == 30000).all()

    def test_half_precision_is_summed_in_single(self) -> None:
        """4096 ones: a sum in float16 would stop at 2048."""
        jacobian = np.ones((2, 4096), dtype=np.float16)
        gramian = mojd.gramian(jacobian)
        assert gramian.dtype == np.float16
        assert (gramian == 4096).all()

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_dtype_stays(self, dtype: Any) -> None:
        assert mojd.gramian(np.ones((2, 3), dtype=dtype)).dtype == dtype

    def test_memory_of_any_layout(self) -> None:
        jacobian = np.random.default_rng(0).standard_normal((4, 6))
        read_only = jacobian.copy()
        read_only.flags.writeable = False
        for array in (np.asfortranarray(jacobian), read_only, np.repeat(jacobian, 2, axis=1)[:, ::2]):
            np.testing.assert_allclose(mojd.gramian(array), jacobian @ jacobian.T, rtol=1e-14)

    def test_nan_is_kept(self) -> None:
        gramian = mojd.gramian([[np.nan, 1.0], [1.0, 1.0]])
        assert np.isnan(gramian).tolist() == [[True, True], [True, False]]


def reference_scales(squares: list[float], beta: float, eps: float) -> float:
    """Algorithm 1 for one objective, in rational arithmetic up to the last square root."""
    v, decay = Fraction(0), Fraction(beta)
    for square in squares:
        v = decay * v + (1 - decay) * Fraction(square)
    corrected = v / (1 - decay ** len(squares)) + Fraction(eps)
    return 1 / math.sqrt(corrected)


class TestNormaliser:
    def test_the_start(self) -> None:
        state = mojd.init_normaliser(3)
        assert isinstance(state, NormaliserState)
        assert state.mean_square.tolist() == [0.0, 0.0, 0.0]
        assert state.steps == 0

    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_the_first_step_knows_the_norms(self, k: int) -> None:
        """The correction of the bias makes v̂ the first square, whatever beta is."""
        gramian = np.diag(4.0 ** np.arange(k))
        for beta in (0.0, 0.9, 0.999):
            scales, state = mojd.normalise(mojd.init_normaliser(k), gramian, beta=beta, eps=0.0)
            np.testing.assert_allclose(scales, 2.0 ** -np.arange(k), rtol=1e-13)
            assert state.steps == 1

    @given(
        squares=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6),
        beta=st.sampled_from([0.0, 0.5, 0.9, 0.999]),
        eps=st.sampled_from([0.0, 1e-8, 1.0]),
    )
    def test_any_sequence(self, squares: list[float], beta: float, eps: float) -> None:
        state = mojd.init_normaliser(1)
        for i, square in enumerate(squares):
            scales, state = mojd.normalise(state, [[square]], beta=beta, eps=eps)
            assert scales[0] == pytest.approx(reference_scales(squares[: i + 1], beta, eps), rel=1e-10)
            assert state.steps == i + 1

    def test_defaults_are_those_of_the_paper(self) -> None:
        scales, state = mojd.normalise(mojd.init_normaliser(1), [[4.0]])
        assert scales[0] == pytest.approx(reference_scales([4.0], 0.999, 1e-8), rel=1e-12)
        assert state.mean_square[0] == pytest.approx(0.001 * 4.0)

    def test_it_is_pure(self) -> None:
        start = mojd.init_normaliser(2)
        gramian = np.diag([1.0, 9.0])
        first, state = mojd.normalise(start, gramian)
        again, other = mojd.normalise(start, gramian)
        assert np.array_equal(first, again)
        assert np.array_equal(state.mean_square, other.mean_square)
        assert start.mean_square.tolist() == [0.0, 0.0]
        assert start.steps == 0
        kept = state.mean_square.copy()
        mojd.normalise(state, gramian)
        assert np.array_equal(state.mean_square, kept)

    def test_a_state_of_any_layout(self) -> None:
        """The kernel reads a plain average as it lies in memory; all others must be copied first."""
        gramian, average = np.diag([4.0, 9.0, 16.0]), np.array([1.0, 2.0, 3.0])
        scales, after = mojd.normalise(NormaliserState(average, 2), gramian, beta=0.5)
        spread = np.full(6, np.nan)
        spread[::2] = average
        read_only = average.copy()
        read_only.flags.writeable = False
        for other in (spread[::2], average[::-1].copy()[::-1], read_only, average.astype(np.float32)):
            before = other.copy()
            same, state = mojd.normalise(NormaliserState(other, 2), gramian, beta=0.5)
            np.testing.assert_allclose(same, scales, rtol=1e-15)
            np.testing.assert_allclose(state.mean_square, after.mean_square, rtol=1e-15)
            assert np.array_equal(other, before)

    def test_only_the_diagonal_counts(self) -> None:
        state = mojd.init_normaliser(2)
        one, _ = mojd.normalise(state, [[4.0, 1.0], [1.0, 9.0]])
        other, _ = mojd.normalise(state, [[4.0, -5.0], [-5.0, 9.0]])
        assert np.array_equal(one, other)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("index", [(0, 0), (0, 1), (1, 1)])
    def test_a_step_that_overflowed_leaves_no_trace(self, bad: float, index: tuple[int, int]) -> None:
        """AMP's loss scaler skips such steps; the average must not remember them."""
        scales, state = mojd.normalise(mojd.init_normaliser(2), np.diag([4.0, 9.0]))
        gramian = np.eye(2)
        gramian[index] = bad
        same, after = mojd.normalise(state, gramian)
        assert after is state
        assert np.array_equal(same, scales)

    def test_nan_before_the_first_step(self) -> None:
        scales, state = mojd.normalise(mojd.init_normaliser(1), [[np.nan]], eps=0.25)
        assert state.steps == 0
        assert scales.tolist() == [2.0]

    def test_a_gradient_that_was_always_zero(self) -> None:
        """1/√0 would be infinite; a scale of 0 leaves the objective out. No warning either way."""
        scales, state = mojd.normalise(mojd.init_normaliser(2), np.diag([0.0, 1.0]), eps=0.0)
        assert scales.tolist() == [0.0, 1.0]
        assert mojd.pcd(np.diag([0.0, 1.0]), scales=scales).tolist() == [0.0, 0.02]
        scales, _ = mojd.normalise(state, np.diag([4.0, 1.0]), beta=0.0, eps=0.0)
        assert scales.tolist() == [0.5, 1.0]

    def test_eps_keeps_scales_finite(self) -> None:
        scales, _ = mojd.normalise(mojd.init_normaliser(1), [[0.0]])
        assert scales[0] == pytest.approx(1e4)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
    def test_scales_are_float64(self, dtype: Any) -> None:
        scales, state = mojd.normalise(
            mojd.init_normaliser(2), np.array([[4, 0], [0, 16]], dtype=dtype), eps=0.0
        )
        assert scales.dtype == state.mean_square.dtype == np.float64
        np.testing.assert_allclose(scales, [0.5, 0.25], rtol=1e-12)

    def test_a_batch(self) -> None:
        gramians = np.stack([np.diag([1.0, 4.0]), np.diag([16.0, 64.0])])
        scales, state = mojd.normalise(mojd.init_normaliser(2), gramians, eps=0.0)
        np.testing.assert_allclose(scales, [[1.0, 0.5], [0.25, 0.125]], rtol=1e-12)
        scales, state = mojd.normalise(state, gramians, eps=0.0)
        assert scales.shape == state.mean_square.shape == (2, 2)
        assert state.steps == 2

    def test_it_makes_pcd_forget_the_units_of_each_loss(self) -> None:
        """Multiply a loss by a constant, and d changes by the primary's factor at most."""
        rng = np.random.default_rng(0)
        jacobians = rng.standard_normal((5, 3, 7))

        def direction(units: list[float]) -> Any:
            state = mojd.init_normaliser(3)
            for jacobian in jacobians:
                scaled = jacobian * np.array(units)[:, None]
                scales, state = mojd.normalise(state, scaled @ scaled.T, eps=0.0)
            return scaled.T @ mojd.pcd(scaled @ scaled.T, 0.3, scales=scales)

        base = direction([1.0, 1.0, 1.0])
        for units in ([1.0, 1e3, 1e-5], [1e4, 1.0, 1e6]):
            np.testing.assert_allclose(direction(units), base, rtol=1e-9)
