"""The registry of methods: what a method file says about itself.

Three kinds, by what they take. A :class:`Weighting` needs nothing but the Gramian, and is a
:class:`QuadraticWeighting` if a quadratic programme is behind it. An :class:`Aggregator` needs the
gradients themselves. A :class:`LossWeighting` needs only the values of the losses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from mojd._checks import did_you_mean
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.qp import NNQP


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What all methods say of themselves.

    Parameters
    ----------
    name : str
        The name of the function in :mod:`mojd`.
    title : str
        The name of the method in the papers.
    summary, source : str
        One line for tables, and the paper with its equation or algorithm.
    is_stochastic : bool
        Whether it takes ``seed=``.
    is_stateful : bool
        Whether the public function takes and returns a state. The callable below is then its first
        step, without the state.
    min_size : int
        The smallest K that the method takes.
    example_options : mapping
        Values for options that have no default, for checks and contract tests.
    """

    name: str
    title: str
    summary: str
    source: str
    is_stochastic: bool = False
    is_stateful: bool = False
    min_size: int = 1
    example_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighting(Method):
    """A method from Gramians to weights.

    Parameters
    ----------
    weights : callable
        ``weights(gramian (..., K, K), **options) -> (..., K)``.
    residual : callable, optional
        ``residual(weights (..., K), gramian (..., K, K), **options) -> (...)``, on float64 NumPy
        arrays: by how much weights miss the optimality conditions of the method's own problem, in
        terms without a scale.
    """

    weights: Callable[..., Any]
    residual: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadraticWeighting(Weighting):
    """A method whose weights are the solution of quadratic programmes.

    Parameters
    ----------
    problem : callable
        ``problem(gramian, **options) -> NNQP``.
    lift : callable
        ``lift(x, gramian, **options) -> weights``, on float64 NumPy arrays: what turns the problem's
        minimisers into weights.
    """

    problem: Callable[..., NNQP]
    lift: Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregator(Method):
    """A method from Jacobians to directions, which the Gramian does not determine.

    Parameters
    ----------
    direction : callable
        ``direction(jacobian (..., K, n), **options) -> (..., n)``.
    """

    direction: Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeighting(Method):
    """A method from the values of losses to weights; it sees no gradient.

    Parameters
    ----------
    weights : callable
        ``weights(losses (..., K), **options) -> (..., K)``.
    """

    weights: Callable[..., Any]


_METHODS: dict[str, Method] = {}
AnyMethod = TypeVar("AnyMethod", bound=Method)


def register(method: AnyMethod) -> AnyMethod:
    """Add `method` to the registry under its name, once."""
    if method.name in _METHODS:
        raise InvalidInputError(f"a method named {method.name!r} is already registered")
    _METHODS[method.name] = method
    return method


def registered_methods() -> tuple[Method, ...]:
    """Return all registered methods in the order of registration."""
    return tuple(_METHODS.values())


def registered_weightings() -> tuple[Weighting, ...]:
    """Return the registered methods from Gramians to weights, in the order of registration."""
    return tuple(method for method in _METHODS.values() if isinstance(method, Weighting))


def registered_programmes() -> tuple[QuadraticWeighting, ...]:
    """Return the registered methods that solvers can be compared on, in the order of registration."""
    return tuple(method for method in _METHODS.values() if isinstance(method, QuadraticWeighting))


def get_method(name: str) -> Method:
    """Return the method called `name`.

    Raises
    ------
    InvalidInputError
        If there is no such method; the error shows the names that there are.
    InvalidTypeError
        If `name` is no string.
    """
    if not isinstance(name, str):
        method = method_of(name)
        instead = "" if method is None else f": {method.name!r} is the name of this function"
        raise InvalidTypeError(
            f"the name of a method must be a string such as 'upgrad', got {type(name).__name__}{instead}"
        )
    if name not in _METHODS:
        known = sorted(_METHODS)
        hint = did_you_mean(name, known)
        raise InvalidInputError(f"method {name!r} is not known; choose one of: {', '.join(known)}{hint}")
    return _METHODS[name]


def accepted_options(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that a function takes: problems know nothing of solvers or of rescaling."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


def method_of(function: Any) -> Method | None:
    """Return the method whose public function `function` is, or a partial of it; None for anything else.

    That is the function which has the name of the method and comes from the module that registered it. For
    stateful methods it is not the registered callable.
    """
    while isinstance(function, partial):
        function = function.func
    method = _METHODS.get(str(getattr(function, "__name__", "")))
    if isinstance(method, Weighting | LossWeighting):
        registered = method.weights
    elif isinstance(method, Aggregator):
        registered = method.direction
    else:
        return None
    same = getattr(function, "__module__", None) == getattr(registered, "__module__", None)
    return method if same else None
