"""How weightings are called: names, functions of mojd, pairs with a state, anybody's functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.jax.registered import weighting as by_name
from mojd.jax.stateful import StatefulWeighting
from mojd.weightings import Weighting, get_method, method_of

_WANTED = (
    "weighting must be the name of a method, a function from a Gramian to weights, or a StatefulWeighting"
)


def is_stateful(weighting: Any) -> bool:
    """Whether a weighting is a pair of ``init`` and ``update``."""
    pair = (getattr(weighting, "init", None), getattr(weighting, "update", None))
    return not isinstance(weighting, type) and all(callable(function) for function in pair)


def checked(weighting: Any) -> StatefulWeighting:
    """Return a weighting as one with a state, which is empty for those that have none.

    Raises
    ------
    InvalidInputError
        If a name is unknown, or a method does not weigh Gramians, or has a state or randomness.
    InvalidTypeError
        If it is nothing of the kind.
    """
    if is_stateful(weighting):
        return StatefulWeighting(weighting.init, weighting.update)
    function = _function_of(weighting)
    return StatefulWeighting(lambda size: (), lambda gramian, state: (function(gramian), state))


def _function_of(weighting: Any) -> Callable[..., Any]:
    if isinstance(weighting, str):
        method = get_method(weighting)
        _refuse(method)
        return partial(by_name, method.name)
    if isinstance(weighting, type) or not callable(weighting):
        raise InvalidTypeError(f"{_WANTED}; got {weighting!r}")
    known = method_of(weighting)
    if known is None:
        function: Callable[..., Any] = weighting
        return function
    _refuse(known)
    given = weighting.keywords if isinstance(weighting, partial) else {}
    return weighting if "nonfinite" in given else partial(weighting, nonfinite="propagate")


def _refuse(method: Any) -> None:
    """Raise for methods that are not functions of the Gramian alone."""
    if not isinstance(method, Weighting):
        raise InvalidInputError(
            f"{method.name!r} does not go from a Gramian to weights, which is all that there is here; see "
            f"mojd.{method.name}"
        )
    if method.is_stateful or method.is_stochastic:
        what = "has a state" if method.is_stateful else "draws random numbers"
        raise InvalidInputError(
            f"{method.name!r} {what}, which a compiled step has to carry along: write it as a "
            "mojd.jax.StatefulWeighting of jax.numpy functions"
        )


def weigh(weighting: StatefulWeighting, gramian: Array, state: Any) -> tuple[Array, Any]:
    """Return the weights of a Gramian, NaN if it is not finite, and the new state.

    Raises
    ------
    InvalidInputError
        If the weighting does not return K weights.
    InvalidTypeError
        If it returns no pair, no array, or complex numbers.
    """
    found = weighting.update(gramian, state)
    if not isinstance(found, tuple) or len(found) != 2:
        raise InvalidTypeError(
            f"update(gramian, state) must return (weights, state), and returned {type(found).__name__}"
        )
    try:
        weights = jnp.asarray(found[0])
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"the weighting returned {type(found[0]).__name__}; it must return one weight per objective"
        ) from error
    if weights.shape != gramian.shape[:1]:
        raise InvalidInputError(
            f"the weighting returned weights of shape {weights.shape} for a Gramian of shape "
            f"{gramian.shape}; it must return one weight per objective"
        )
    if jnp.issubdtype(weights.dtype, jnp.complexfloating):
        raise InvalidTypeError(f"the weighting returned weights of dtype {weights.dtype}; they must be real")
    # Fixed weights would drop the NaN of an objective whose weight is 0.
    finite = jnp.isfinite(gramian).all()
    return jnp.where(finite, weights.astype(gramian.dtype), jnp.nan), found[1]
