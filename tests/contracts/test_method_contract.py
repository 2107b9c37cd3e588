"""What every registered method from Gramians to weights must do that is no quadratic programme.

A new method file joins by existing. What its weights are is tested beside the method; here is how it
behaves: what it takes, what it returns, and how it says no.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import mojd
from mojd.weightings import QuadraticWeighting, Weighting, registered_weightings
from tests.contracts.documentation import assert_it_says_what_it_is
from tests.reference.bounds import stored_gramian
from tests.reference.families import FAMILIES, Floats, symmetric_gramian

METHODS = tuple(method for method in registered_weightings() if not isinstance(method, QuadraticWeighting))
STOCHASTIC = tuple(method for method in METHODS if method.is_stochastic)
STATEFUL = tuple(method for method in METHODS if method.is_stateful)
STATELESS = tuple(method for method in METHODS if not method.is_stateful)
# Iterations end within their tolerance, which a batch reaches together.
ONE_BY_ONE = 1e-9


def named(item: Any) -> str:
    return str(item.name)


each_method = pytest.mark.parametrize("method", METHODS, ids=named)


def weights_of(method: Weighting) -> Callable[..., Any]:
    """The method's function, with values for options that have no default."""
    return partial(method.weights, **method.example_options)


def public(method: Weighting) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(mojd, method.name)
    return function


def sizes(method: Weighting) -> list[int]:
    return [k for k in (1, 2, 3, 4, 5, 8) if k >= method.min_size]


def random_gramians(count: int, k: int, seed: int = 0) -> Floats:
    rows = np.random.default_rng(seed).standard_normal((count, k, 3 * k))
    return np.stack([symmetric_gramian(jacobian) for jacobian in rows])


@each_method
class TestRegistration:
    def test_it_is_public_under_its_name(self, method: Weighting) -> None:
        assert method.name in mojd.__all__
        assert method.is_stateful or public(method) is method.weights

    def test_it_says_what_it_is(self, method: Weighting) -> None:
        assert_it_says_what_it_is(method, public(method))

    def test_every_option_is_documented(self, method: Weighting) -> None:
        documentation = inspect.getdoc(public(method)) or ""
        for name in inspect.signature(public(method)).parameters:
            assert re.search(rf"^(\w+, )*{name}(, \w+)*( :|$)", documentation, re.MULTILINE), name

    def test_it_takes_the_options_that_all_take(self, method: Weighting) -> None:
        for function in (public(method), method.weights):
            parameters = inspect.signature(function).parameters
            assert parameters["nonfinite"].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters["nonfinite"].default == "raise"
            assert ("seed" in parameters) == method.is_stochastic
            if method.is_stochastic:
                assert parameters["seed"].kind is inspect.Parameter.KEYWORD_ONLY
                assert parameters["seed"].default is inspect.Parameter.empty

    def test_options_without_a_default_have_an_example(self, method: Weighting) -> None:
        parameters = list(inspect.signature(method.weights).parameters.values())[1:]
        required = {each.name for each in parameters if each.default is inspect.Parameter.empty}
        assert required <= set(method.example_options) <= {each.name for each in parameters}


@each_method
class TestArrays:
    def test_from_the_least_size_on(self, method: Weighting) -> None:
        for k in [method.min_size, *sizes(method)]:
            weights = weights_of(method)(random_gramians(1, k)[0])
            assert type(weights) is np.ndarray
            assert weights.shape == (k,)
            assert weights.dtype == np.float64
            assert np.isfinite(weights).all()

    def test_below_the_least_size_an_error_says_so(self, method: Weighting) -> None:
        for k in range(1, method.min_size):
            with pytest.raises(mojd.InvalidInputError, match=rf"\({k}, {k}\)"):
                weights_of(method)(np.eye(k))

    @pytest.mark.parametrize("shape", [(1,), (4,), (2, 3), (2, 1, 2)])
    def test_leading_axes(self, method: Weighting, shape: tuple[int, ...]) -> None:
        for k in sizes(method):
            gramians = random_gramians(int(np.prod(shape)), k).reshape(*shape, k, k)
            weights = weights_of(method)(gramians)
            assert weights.shape == (*shape, k)
            assert np.isfinite(weights).all()
            if method.is_stochastic:
                continue
            for index in np.ndindex(shape):
                alone = weights_of(method)(gramians[index])
                np.testing.assert_allclose(weights[index], alone, rtol=ONE_BY_ONE, atol=ONE_BY_ONE)

    def test_empty_batches(self, method: Weighting) -> None:
        for shape in ((0,), (3, 0)):
            for k in sizes(method):
                assert weights_of(method)(np.zeros((*shape, k, k))).shape == (*shape, k)

    def test_lists_and_integers(self, method: Weighting) -> None:
        gramian = [[18, -22, 1, 0, 2], [-22, 38, 2, 0, 1], [1, 2, 9, 3, 0], [0, 0, 3, 8, 1], [2, 1, 0, 1, 7]]
        expected = weights_of(method)(np.array(gramian, float))
        for form in (gramian, tuple(map(tuple, gramian)), np.array(gramian), np.array(gramian, np.int16)):
            weights = weights_of(method)(form)
            assert weights.dtype == np.float64
            assert np.array_equal(weights, expected)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_floats_of_any_size(self, method: Weighting, dtype: Any) -> None:
        for k in sizes(method):
            gramians = random_gramians(3, k).astype(dtype)
            # Exactly symmetric, but of the rounding errors of its dtype.
            weights = weights_of(method)(gramians)
            assert weights.dtype == dtype
            assert np.isfinite(weights).all()

    def test_memory_of_any_layout(self, method: Weighting) -> None:
        for k in sizes(method):
            gramians = random_gramians(4, k)
            before = gramians.copy()
            expected = weights_of(method)(gramians)
            assert np.array_equal(gramians, before)
            spread = np.zeros((8, 2 * k, 3 * k))[::2, ::2, ::3]
            spread[...] = gramians
            read_only = gramians.copy()
            read_only.flags.writeable = False
            for array in (spread, np.asfortranarray(gramians), read_only, gramians[::-1].copy()[::-1]):
                weights = weights_of(method)(array)
                np.testing.assert_allclose(weights, expected, rtol=1e-13, atol=1e-13)

    def test_results_can_be_kept_and_written_to(self, method: Weighting) -> None:
        k = max(method.min_size, 4)
        gramians = random_gramians(2, k)
        first = weights_of(method)(gramians[0])
        kept = first.copy()
        weights_of(method)(gramians[1])
        assert np.array_equal(first, kept)
        first[0] = 7.0
        assert np.array_equal(weights_of(method)(gramians[0]), kept)

    def test_broadcast_views(self, method: Weighting) -> None:
        for k in sizes(method):
            gramian = random_gramians(1, k)[0]
            weights = weights_of(method)(np.broadcast_to(gramian, (6, k, k)))
            assert weights.shape == (6, k)
            if not method.is_stochastic:
                expected = np.broadcast_to(weights_of(method)(gramian), (6, k))
                np.testing.assert_allclose(weights, expected, rtol=ONE_BY_ONE, atol=ONE_BY_ONE)


@each_method
class TestFiniteWeights:
    def test_of_zero_gramians(self, method: Weighting) -> None:
        for k in [method.min_size, *sizes(method)]:
            assert np.isfinite(weights_of(method)(np.zeros((k, k)))).all()
            assert np.isfinite(weights_of(method)(np.zeros((2, k, k), np.float32))).all()

    def test_of_gramians_with_a_zero_row(self, method: Weighting) -> None:
        for k in [size for size in sizes(method) if size > 1]:
            gramian = random_gramians(1, k)[0]
            gramian[0], gramian[:, 0] = 0.0, 0.0
            assert np.isfinite(weights_of(method)(gramian)).all()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_of_any_finite_gramian(self, method: Weighting, family: str) -> None:
        for k in (2, 3, 5, 12):
            if k < max(FAMILIES[family].min_size, method.min_size):
                continue
            sample = FAMILIES[family].sample(k, np.random.default_rng(k))
            gramian = stored_gramian(family, sample)
            assert np.isfinite(weights_of(method)(gramian)).all()
            assert np.isfinite(weights_of(method)(np.stack([gramian] * 3))).all()


@each_method
class TestErrors:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_named(self, method: Weighting, bad: float) -> None:
        for k in sizes(method):
            for index in ((0, 0), (0, k - 1), (k - 1, k - 1)):
                gramian = random_gramians(1, k)[0]
                gramian[index] = bad
                message = rf"gramian of shape \({k}, {k}\).*{bad}.*\({index[0]}, {index[1]}\)"
                with pytest.raises(mojd.NonFiniteError, match=message):
                    weights_of(method)(gramian)

    def test_propagation_spoils_one_problem_only(self, method: Weighting) -> None:
        for k in [size for size in sizes(method) if size > 1]:
            gramians = random_gramians(9, k)
            expected = weights_of(method)(gramians)
            gramians[3, 0, 1] = gramians[7, 1, 1] = np.nan
            gramians[8, 1, 0] = np.inf
            weights = weights_of(method)(gramians, nonfinite="propagate")
            spoilt = np.isin(np.arange(9), (3, 7, 8))
            assert np.isnan(weights[spoilt]).all()
            np.testing.assert_allclose(weights[~spoilt], expected[~spoilt], rtol=ONE_BY_ONE, atol=ONE_BY_ONE)
            assert np.isnan(weights_of(method)(gramians[3], nonfinite="propagate")).all()

    def test_what_is_no_gramian_is_refused(self, method: Weighting) -> None:
        k = max(method.min_size, 3)
        asymmetric, negative, excessive = np.eye(k), np.eye(k), np.eye(k)
        asymmetric[0, 1] = 0.5
        negative[1, 1] = -1.0
        excessive[0, 1] = excessive[1, 0] = 2.0
        for gramian, message in (
            (asymmetric, "gramian .*not symmetric"),
            (negative, "gramian .*negative diagonal entry"),
            (excessive, "gramian .*not positive semi-definite"),
            (np.ones((k, k + 1)), r"gramian must have shape \(\.\.\., K, K\)"),
            (np.ones(k), r"gramian must have shape \(\.\.\., K, K\)"),
            (np.ones((0, 0)), r"gramian must have shape \(\.\.\., K, K\)"),
        ):
            with pytest.raises(mojd.InvalidInputError, match=message):
                weights_of(method)(gramian)

    def test_bad_types_and_policies(self, method: Weighting) -> None:
        k = max(method.min_size, 3)
        with pytest.raises(mojd.InvalidTypeError, match="gramian must hold real numbers"):
            weights_of(method)(np.eye(k) * 1j)
        with pytest.raises(mojd.InvalidInputError, match="nonfinite='ignore'"):
            weights_of(method)(np.eye(k), nonfinite="ignore")


class TestAggregate:
    @pytest.mark.parametrize("method", STATELESS, ids=named)
    def test_by_name_and_by_function(self, method: Weighting) -> None:
        k = max(method.min_size, 4)
        for shape in ((), (2, 3)):
            jacobian = np.random.default_rng(0).standard_normal((*shape, k, 7))
            weights = weights_of(method)(mojd.gramian(jacobian))
            expected = (weights[..., None] * jacobian).sum(axis=-2)
            for form in (method.name, method.weights):
                direction = mojd.aggregate(jacobian, form, **method.example_options)
                np.testing.assert_allclose(direction, expected, rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("method", STATEFUL, ids=named)
    def test_what_has_a_state_is_not_called_by_name(self, method: Weighting) -> None:
        with pytest.raises(
            mojd.InvalidInputError, match=rf"'{method.name}' has a state.*mojd\.{method.name}"
        ):
            mojd.aggregate(np.eye(4), method.name, **method.example_options)


@pytest.mark.parametrize("method", STATEFUL, ids=named)
class TestStates:
    def test_a_first_step_is_what_is_registered(self, method: Weighting) -> None:
        """State in, state out; the state that went in is as it was."""
        assert f"init_{method.name}" in mojd.__all__
        for k in sizes(method):
            gramian = random_gramians(1, k)[0]
            state = getattr(mojd, f"init_{method.name}")(k)
            before = [np.array(field) for field in state]
            weights, after = public(method)(state, gramian, **method.example_options)
            np.testing.assert_allclose(weights, weights_of(method)(gramian), rtol=1e-13, atol=1e-14)
            assert type(after) is type(state)
            for field, value in zip(state, before, strict=True):
                np.testing.assert_array_equal(field, value)

    def test_states_go_on(self, method: Weighting) -> None:
        for k in sizes(method):
            state = getattr(mojd, f"init_{method.name}")(k)
            for gramian in random_gramians(5, k):
                weights, state = public(method)(state, gramian, **method.example_options)
                assert weights.shape == (k,)
                assert np.isfinite(weights).all()
                for field in state:
                    assert np.isfinite(np.asarray(field, float)).all()

    def test_a_state_comes_first(self, method: Weighting) -> None:
        k = max(method.min_size, 3)
        with pytest.raises(mojd.InvalidTypeError, match=rf"state must come from mojd\.init_{method.name}"):
            public(method)(np.eye(k), np.eye(k), **method.example_options)

    def test_sizes_are_checked(self, method: Weighting) -> None:
        for bad in (0, -1, 1.5, True, "2", None):
            with pytest.raises(mojd.MojdError, match=re.escape(repr(bad))):
                getattr(mojd, f"init_{method.name}")(bad)
        k = max(method.min_size, 3)
        with pytest.raises(mojd.InvalidInputError, match="state"):
            public(method)(getattr(mojd, f"init_{method.name}")(k), np.eye(k + 1), **method.example_options)


@pytest.mark.parametrize("method", STOCHASTIC, ids=named)
class TestSeeds:
    def seeded(self, method: Weighting, gramian: Floats, seed: Any) -> Floats:
        weights: Floats = method.weights(gramian, **{**method.example_options, "seed": seed})
        return weights

    def test_the_same_seed_gives_the_same_weights(self, method: Weighting) -> None:
        gramians = random_gramians(20, max(method.min_size, 6))
        first = self.seeded(method, gramians, 3)
        assert np.array_equal(self.seeded(method, gramians, 3), first)
        assert np.array_equal(self.seeded(method, gramians, np.int64(3)), first)
        assert np.array_equal(self.seeded(method, gramians, np.random.default_rng(3)), first)
        for seed in (0, 4):
            assert not np.allclose(self.seeded(method, gramians, seed), first, rtol=1e-3)

    def test_a_generator_moves_on(self, method: Weighting) -> None:
        gramians = random_gramians(20, max(method.min_size, 6))
        generator = np.random.default_rng(3)
        first, second = (self.seeded(method, gramians, generator) for _ in range(2))
        assert not np.allclose(first, second, rtol=1e-3)

    def test_no_seed_is_taken_from_elsewhere(self, method: Weighting) -> None:
        gramian = random_gramians(1, max(method.min_size, 6))[0]
        state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
        self.seeded(method, gramian, 0)
        assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002

    def test_every_problem_has_draws_of_its_own(self, method: Weighting) -> None:
        k = max(method.min_size, 6)
        for gramian in random_gramians(20, k):
            weights = self.seeded(method, np.broadcast_to(gramian, (40, k, k)), 0)
            if not np.allclose(weights, weights[0], rtol=1e-3):
                return
        pytest.fail("the same Gramian has the same weights everywhere in a batch")

    @pytest.mark.parametrize("bad", [None, 0.5, "0", True, np.array([1, 2])], ids=repr)
    def test_what_is_no_seed(self, method: Weighting, bad: Any) -> None:
        with pytest.raises(
            mojd.InvalidTypeError, match=r"seed must be an integer or a numpy.random.Generator"
        ):
            self.seeded(method, np.eye(max(method.min_size, 3)), bad)

    def test_negative_seeds(self, method: Weighting) -> None:
        with pytest.raises(mojd.InvalidInputError, match="seed must be a non-negative integer, got -1"):
            self.seeded(method, np.eye(max(method.min_size, 3)), -1)


def test_there_is_something_to_test() -> None:
    assert {"mean", "pcgrad", "gradvac"} <= {method.name for method in METHODS}
    assert STOCHASTIC and STATEFUL and STATELESS
