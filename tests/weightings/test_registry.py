"""Methods are found by name, and by function; what is none says what it may have meant."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import mojd
from mojd.weightings import Method, get_method, method_of, registered_methods

METHODS = registered_methods()
JACOBIAN = np.array([[1.0, 0.0, 0.5], [-1.0, 2.0, 0.0], [0.0, -1.0, 2.0], [1.0, 1.0, -1.0]])


class TestMethodOf:
    @pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
    def test_every_public_function(self, method: Method) -> None:
        """Those with a state too, which register another callable."""
        function = getattr(mojd, method.name)
        assert method_of(function) is method
        assert method_of(partial(partial(function, nonfinite="raise"), nonfinite="propagate")) is method

    @pytest.mark.parametrize(
        "other", [sum, np.mean, mojd.gramian, mojd.pcd_problem, mojd.init_famo, "upgrad", None, 3, int]
    )
    def test_anything_else(self, other: Any) -> None:
        assert method_of(other) is None

    def test_a_namesake(self) -> None:
        def trimmed_mean(gramian: Any) -> Any:
            return np.ones(gramian.shape[-1])

        assert method_of(trimmed_mean) is None
        np.testing.assert_allclose(mojd.aggregate(JACOBIAN, trimmed_mean), JACOBIAN.sum(axis=0))


class TestAggregate:
    @pytest.mark.parametrize("dtype", [np.float64, np.float16])
    @pytest.mark.parametrize(
        ("name", "options"), [("trimmed_mean", {}), ("graddrop", {"seed": 0}), ("krum", {}), ("mgda", {})]
    )
    def test_a_function_does_what_its_name_does(self, name: str, options: dict[str, Any], dtype: Any) -> None:
        """A Jacobian of shape (K, K), whose Gramian an aggregator would take without a word."""
        rows = JACOBIAN[:, [0, 1, 2, 0]].astype(dtype)
        options = {**get_method(name).example_options, **options}
        function = getattr(mojd, name)
        expected = mojd.aggregate(rows, name, **options)
        assert expected.shape == (4,)
        assert np.array_equal(mojd.aggregate(rows, function, **options), expected)
        assert np.array_equal(mojd.aggregate(rows, partial(function, **options)), expected)


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [("UPGrad", "upgrad"), ("upgard", "upgrad"), ("Nash-MTL", "nash_mtl"), ("PCD", "pcd")],
    )
    def test_names_that_are_nearly_right(self, name: str, meant: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=f"{name!r} is not known.*did you mean {meant!r}"):
            get_method(name)

    def test_the_known_ones_are_sorted(self) -> None:
        with pytest.raises(mojd.InvalidInputError) as caught:
            get_method("?")
        names = sorted(method.name for method in METHODS)
        assert str(caught.value) == f"method '?' is not known; choose one of: {', '.join(names)}"

    def test_functions_and_other_things(self) -> None:
        wrong: list[Any] = [mojd.upgrad, mojd.famo, None, 3]
        parts = ["got function: 'upgrad' is the name", "got function: 'famo'", "got NoneType$", "got int$"]
        for value, part in zip(wrong, parts, strict=True):
            with pytest.raises(mojd.InvalidTypeError, match=f"must be a string such as 'upgrad', {part}"):
                get_method(value)
