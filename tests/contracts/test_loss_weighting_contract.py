"""What every registered method that weights losses by their values must do. New ones join by existing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import mojd
from mojd.weightings import LossWeighting, registered_methods
from tests.contracts.documentation import assert_it_says_what_it_is
from tests.contracts.test_array_libraries import LIBRARIES, Maker, double_precision

WEIGHTINGS = tuple(method for method in registered_methods() if isinstance(method, LossWeighting))
LOSSES = np.array([[0.7, 12.0, 1e-3], [1.0, 1.0, 1.0], [3.0, 0.25, 8.0], [1e-6, 5.0, 2.0]])


@pytest.fixture(params=WEIGHTINGS, ids=lambda method: str(method.name))
def weighting(request: pytest.FixtureRequest) -> LossWeighting:
    """Each method from losses to weights."""
    found: LossWeighting = request.param
    return found


@pytest.fixture
def compute(weighting: LossWeighting) -> Callable[..., Any]:
    """Its function, with values for options that have no default."""
    return partial(weighting.weights, **weighting.example_options)


@pytest.fixture(params=[library for library in LIBRARIES if not library.on_gpu], ids=lambda x: x.name)
def maker(request: pytest.FixtureRequest) -> Any:
    """Each kind of array whose library is installed."""
    library = request.param
    module = pytest.importorskip(library.module)
    if library.name != "jax":
        yield Maker(library, module)
        return
    with double_precision(module):
        yield Maker(library, module)


class TestRegistration:
    def test_there_are_some(self) -> None:
        assert {"famo", "weighted_sum"} <= {method.name for method in WEIGHTINGS}

    def test_it_is_public_under_its_name(self, weighting: LossWeighting) -> None:
        public = getattr(mojd, weighting.name)
        assert weighting.name in mojd.__all__
        assert weighting.is_stateful == (public is not weighting.weights)

    def test_it_says_what_it_is(self, weighting: LossWeighting) -> None:
        assert_it_says_what_it_is(weighting, getattr(mojd, weighting.name))

    def test_it_takes_the_option_that_all_take(self, weighting: LossWeighting) -> None:
        parameter = inspect.signature(weighting.weights).parameters["nonfinite"]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default == "raise"

    def test_gradients_are_not_what_it_takes(self, weighting: LossWeighting) -> None:
        with pytest.raises(mojd.InvalidInputError, match=f"'{weighting.name}' weights losses, not gradients"):
            mojd.aggregate(np.eye(2), weighting.name)


class TestArrays:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_of_every_library(self, maker: Maker, compute: Callable[..., Any], dtype: str) -> None:
        like = maker(LOSSES, dtype)
        weights = maker.assert_like(compute(like), like)
        expected = compute(LOSSES.astype(dtype))
        assert expected.dtype == dtype
        # Each library has an exponential and a logarithm of its own, right to a few units in the last place.
        np.testing.assert_allclose(weights, expected, rtol=8 * float(np.finfo(dtype).eps))
        alone = maker.assert_like(compute(maker(LOSSES[0], dtype)), like)
        np.testing.assert_allclose(alone, expected[0], rtol=8 * float(np.finfo(dtype).eps))

    def test_nan_on_any_device(self, maker: Maker, compute: Callable[..., Any]) -> None:
        losses = LOSSES.copy()
        losses[1, 2] = np.nan
        weights = maker.read(compute(maker(losses), nonfinite="propagate"))
        assert np.isnan(weights).any(axis=1).tolist() == [False, True, False, False]
        assert np.isnan(weights).all(axis=1).tolist() == [False, True, False, False]
        if maker.library.on_device:
            assert np.isnan(maker.read(compute(maker(losses)))[1]).all()
        else:
            with pytest.raises(
                mojd.NonFiniteError, match=r"losses of shape \(4, 3\) holds nan at .*\(1, 2\)"
            ):
                compute(maker(losses))

    @pytest.mark.parametrize("shape", [(1,), (4,), (2, 3), (2, 1, 2), (0,), (3, 0)])
    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_leading_axes(self, compute: Callable[..., Any], shape: tuple[int, ...], k: int) -> None:
        losses = np.random.default_rng(k).uniform(0.1, 9.0, (*shape, k))
        weights = compute(losses)
        assert weights.shape == losses.shape
        for index in np.ndindex(shape):
            np.testing.assert_array_equal(weights[index], compute(losses[index]))

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_short_floats_are_rounded_once(self, compute: Callable[..., Any], dtype: Any) -> None:
        losses = np.array([4.0, 0.5, 1.25])
        weights = compute(losses.astype(dtype))
        assert weights.dtype == dtype
        assert np.array_equal(weights, compute(losses).astype(dtype))

    def test_lists_integers_and_any_layout(self, compute: Callable[..., Any]) -> None:
        expected = compute(np.array([3.0, 1.0, 2.0]))
        for given_losses in (
            [3, 1, 2],
            (3.0, 1.0, 2.0),
            np.array([3, 1, 2]),
            np.array([2.0, 1.0, 3.0])[::-1],
        ):
            weights = compute(given_losses)
            assert weights.dtype == np.float64
            assert np.array_equal(weights, expected)

    def test_calling_changes_nothing(self, compute: Callable[..., Any]) -> None:
        losses = LOSSES.copy()
        first = compute(losses)
        assert np.array_equal(compute(losses), first)
        assert np.array_equal(losses, LOSSES)
        assert not np.shares_memory(first, losses)

    @pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e200])
    def test_any_magnitude(self, compute: Callable[..., Any], size: float) -> None:
        assert np.isfinite(compute(size * LOSSES)).all()


class TestErrors:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nonfinite(self, compute: Callable[..., Any], bad: float) -> None:
        with pytest.raises(mojd.NonFiniteError, match=rf"losses of shape \(3,\) holds {bad} at index \(1,\)"):
            compute([1.0, bad, 2.0])
        assert np.isnan(compute([1.0, bad, 2.0], nonfinite="propagate")).all()

    @pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
    def test_shapes(self, compute: Callable[..., Any], shape: tuple[int, ...]) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"losses must have shape \(\.\.\., K\)"):
            compute(np.ones(shape))

    def test_types(self, compute: Callable[..., Any]) -> None:
        with pytest.raises(mojd.InvalidTypeError, match="losses must hold real numbers"):
            compute(np.array([1j, 2.0]))
        with pytest.raises(mojd.InvalidInputError, match="nonfinite='ignore'"):
            compute([1.0, 2.0], nonfinite="ignore")
