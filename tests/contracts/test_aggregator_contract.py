"""What every registered method from Jacobians to directions must do. A new method file joins by existing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import mojd
from mojd.weightings import Aggregator, registered_methods
from tests.contracts.documentation import assert_it_says_what_it_is
from tests.contracts.test_array_libraries import Maker, cases, imported
from tests.reference.families import FAMILIES, Floats

METHODS = tuple(method for method in registered_methods() if isinstance(method, Aggregator))
STOCHASTIC = tuple(method for method in METHODS if method.is_stochastic)


def named(item: Any) -> str:
    return str(item.name)


each_method = pytest.mark.parametrize("method", METHODS, ids=named)


def direction_of(method: Aggregator) -> Callable[..., Any]:
    """The method's function, with values for options that have no default."""
    return partial(method.direction, **method.example_options)


def sizes(method: Aggregator) -> list[int]:
    return [k for k in (1, 2, 3, 4, 7) if k >= method.min_size]


def random_jacobians(*shape: int) -> Floats:
    return np.random.default_rng(0).standard_normal(shape)


@pytest.fixture(params=cases())
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """Each kind of array whose library is installed."""
    yield from imported(request.param)


@each_method
class TestRegistration:
    def test_it_is_public_under_its_name(self, method: Aggregator) -> None:
        assert method.name in mojd.__all__
        assert method.is_stateful or getattr(mojd, method.name) is method.direction

    def test_it_says_what_it_is(self, method: Aggregator) -> None:
        assert_it_says_what_it_is(method, getattr(mojd, method.name))

    def test_it_takes_the_options_that_all_take(self, method: Aggregator) -> None:
        parameters = inspect.signature(method.direction).parameters
        assert parameters["nonfinite"].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters["nonfinite"].default == "raise"
        assert ("seed" in parameters) == method.is_stochastic
        required = {
            name for name, each in parameters.items() if each.default is inspect.Parameter.empty
        } - set(list(parameters)[:1])
        assert required <= set(method.example_options) <= set(parameters)


@each_method
class TestLibraries:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_the_same_numbers_in_the_same_kind_of_array(
        self, make: Maker, method: Aggregator, dtype: str
    ) -> None:
        precision = max(2 * float(np.finfo(dtype).eps), 1e-12 if make.library.on_device else 1e-14)
        for k in sizes(method):
            jacobians = random_jacobians(3, k, 6).astype(dtype)
            for rows in (jacobians, jacobians[0]):
                like = make(rows, dtype)
                direction = make.assert_like(direction_of(method)(like), like)
                expected = direction_of(method)(rows)
                assert direction.shape == rows.shape[:-2] + (6,)
                np.testing.assert_allclose(direction, expected, rtol=precision, atol=precision)

    def test_through_aggregate(self, make: Maker, method: Aggregator) -> None:
        if method.is_stateful:
            pytest.skip("called by itself")
        like = make(random_jacobians(2, max(method.min_size, 4), 5))
        by_name = make.assert_like(mojd.aggregate(like, method.name, **method.example_options), like)
        assert np.array_equal(by_name, make.read(direction_of(method)(like)))

    def test_nan(self, make: Maker, method: Aggregator) -> None:
        jacobians = random_jacobians(3, max(method.min_size, 4), 5)
        expected = direction_of(method)(jacobians)
        jacobians[1, 0, 2] = np.nan
        direction = make.read(direction_of(method)(make(jacobians), nonfinite="propagate"))
        assert np.isnan(direction[1]).all()
        np.testing.assert_allclose(direction[[0, 2]], expected[[0, 2]], rtol=1e-12)
        if make.library.on_device:
            assert np.isnan(make.read(direction_of(method)(make(jacobians)))[1]).all()
        else:
            with pytest.raises(
                mojd.NonFiniteError, match=r"jacobian of shape \(3, .*nan at index \(1, 0, 2\)"
            ):
                direction_of(method)(make(jacobians))

    def test_nothing_at_all(self, make: Maker, method: Aggregator) -> None:
        if make.library.name.startswith("strict"):
            pytest.skip("a list of nothing has no shape to give to array_api_strict")
        k = max(method.min_size, 4)
        for shape in ((0, k, 3), (2, k, 0), (k, 0), (2, 0, k, 3)):
            like = make(np.zeros(shape))
            assert make.assert_like(direction_of(method)(like), like).shape == shape[:-2] + shape[-1:]


@each_method
class TestArrays:
    @pytest.mark.parametrize("shape", [(1,), (4,), (2, 3), (2, 1, 2)])
    def test_leading_axes(self, method: Aggregator, shape: tuple[int, ...]) -> None:
        for k in sizes(method):
            jacobians = random_jacobians(*shape, k, 5)
            directions = direction_of(method)(jacobians)
            assert directions.shape == (*shape, 5)
            if method.is_stochastic:
                continue
            for index in np.ndindex(shape):
                alone = direction_of(method)(jacobians[index])
                np.testing.assert_allclose(directions[index], alone, rtol=1e-12, atol=1e-13)

    def test_lists_and_integers(self, method: Aggregator) -> None:
        rows = [[-4, 1, 1], [6, 1, 1], [0, 2, -3], [1, 1, 0], [5, 0, -1]]
        expected = direction_of(method)(np.array(rows, float))
        for form in (rows, tuple(map(tuple, rows)), np.array(rows), np.array(rows, np.int8)):
            direction = direction_of(method)(form)
            assert direction.dtype == np.float64
            assert np.array_equal(direction, expected)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_is_rounded_once(self, method: Aggregator, dtype: str) -> None:
        torch = pytest.importorskip("torch")
        jacobian = torch.tensor(random_jacobians(max(method.min_size, 5), 9), dtype=getattr(torch, dtype))
        direction = direction_of(method)(jacobian)
        assert direction.dtype == jacobian.dtype
        assert torch.equal(direction, direction_of(method)(jacobian.double()).to(jacobian.dtype))

    def test_memory_of_any_layout(self, method: Aggregator) -> None:
        for k in sizes(method):
            jacobians = random_jacobians(4, k, 5)
            before = jacobians.copy()
            expected = direction_of(method)(jacobians)
            assert np.array_equal(jacobians, before)
            spread = np.zeros((8, 2 * k, 15))[::2, ::2, ::3]
            spread[...] = jacobians
            read_only = jacobians.copy()
            read_only.flags.writeable = False
            for array in (spread, np.asfortranarray(jacobians), read_only, jacobians[::-1].copy()[::-1]):
                np.testing.assert_allclose(direction_of(method)(array), expected, rtol=1e-13, atol=1e-14)

    def test_nothing_leads_nowhere(self, method: Aggregator) -> None:
        for k in sizes(method):
            assert np.array_equal(direction_of(method)(np.zeros((k, 3))), np.zeros(3))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_finite_gradients_have_finite_directions(self, method: Aggregator, family: str) -> None:
        for k in (3, 5, 12):
            if k < max(FAMILIES[family].min_size, method.min_size):
                continue
            jacobian = FAMILIES[family].sample(k, np.random.default_rng(k)).jacobian
            if jacobian is not None:
                assert np.isfinite(direction_of(method)(np.asarray(jacobian, float))).all()

    @pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
    def test_scales(self, method: Aggregator, scale: float) -> None:
        """One factor for all gradients is a factor of the direction, or nothing."""
        jacobian = random_jacobians(max(method.min_size, 5), 6)
        direction = direction_of(method)(scale * jacobian)
        assert np.isfinite(direction).all()
        assert (direction != 0).any()


@each_method
class TestErrors:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_named(self, method: Aggregator, bad: float) -> None:
        for k in sizes(method):
            jacobian = random_jacobians(k, 4)
            jacobian[k - 1, 2] = bad
            message = rf"jacobian of shape \({k}, 4\).*{bad} at index \({k - 1}, 2\)"
            with pytest.raises(mojd.NonFiniteError, match=message):
                direction_of(method)(jacobian)
            assert np.isnan(direction_of(method)(jacobian, nonfinite="propagate")).all()

    def test_below_the_least_size_an_error_says_so(self, method: Aggregator) -> None:
        for k in range(1, method.min_size):
            with pytest.raises(mojd.InvalidInputError, match=rf"\({k}, 4\)"):
                direction_of(method)(np.ones((k, 4)))

    def test_bad_shapes_types_and_policies(self, method: Aggregator) -> None:
        for shape in ((3,), (), (0, 3)):
            with pytest.raises(mojd.InvalidInputError, match=r"jacobian must have shape \(\.\.\., K, n\)"):
                direction_of(method)(np.zeros(shape))
        rows = np.ones((max(method.min_size, 4), 3))
        with pytest.raises(mojd.InvalidTypeError, match="jacobian must hold real numbers"):
            direction_of(method)(rows * 1j)
        with pytest.raises(mojd.InvalidInputError, match="nonfinite='ignore'"):
            direction_of(method)(rows, nonfinite="ignore")


@pytest.mark.parametrize("method", STOCHASTIC, ids=named)
class TestSeeds:
    def seeded(self, method: Aggregator, jacobian: Floats, seed: Any) -> Floats:
        direction: Floats = method.direction(jacobian, **{**method.example_options, "seed": seed})
        return direction

    def test_the_same_seed_gives_the_same_direction(self, method: Aggregator) -> None:
        jacobians = random_jacobians(20, max(method.min_size, 6), 9)
        first = self.seeded(method, jacobians, 3)
        assert np.array_equal(self.seeded(method, jacobians, 3), first)
        assert np.array_equal(self.seeded(method, jacobians, np.random.default_rng(3)), first)
        for seed in (0, 4):
            assert not np.allclose(self.seeded(method, jacobians, seed), first, rtol=1e-3)

    def test_a_generator_moves_on(self, method: Aggregator) -> None:
        jacobians = random_jacobians(20, max(method.min_size, 6), 9)
        generator = np.random.default_rng(3)
        first, second = (self.seeded(method, jacobians, generator) for _ in range(2))
        assert not np.allclose(first, second, rtol=1e-3)

    def test_every_problem_has_draws_of_its_own(self, method: Aggregator) -> None:
        jacobian = random_jacobians(max(method.min_size, 6), 9)
        directions = self.seeded(method, np.broadcast_to(jacobian, (40, *jacobian.shape)), 0)
        assert not np.allclose(directions, directions[0], rtol=1e-3)

    @pytest.mark.parametrize("bad", [None, 0.5, "0", True], ids=repr)
    def test_what_is_no_seed(self, method: Aggregator, bad: Any) -> None:
        jacobian = random_jacobians(max(method.min_size, 4), 3)
        with pytest.raises(
            mojd.InvalidTypeError, match=r"seed must be an integer or a numpy.random.Generator"
        ):
            self.seeded(method, jacobian, bad)
        with pytest.raises(mojd.InvalidInputError, match="seed must be a non-negative integer, got -1"):
            self.seeded(method, jacobian, -1)


def test_there_is_something_to_test() -> None:
    assert {"graddrop", "trimmed_mean"} <= {method.name for method in METHODS}
    assert STOCHASTIC
