"""The registry of weightings: what a method file says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mojd.errors import InvalidInputError
from mojd.qp import NNQP


@dataclass(frozen=True, slots=True)
class Weighting:
    """One method of multi-objective descent.

    Parameters
    ----------
    name : str
        The name of the function in :mod:`mojd`.
    weights : callable
        ``weights(gramian (..., K, K), **options) -> (..., K)``.
    problem : callable
        ``problem(gramian, **options) -> NNQP``.
    lift : callable
        ``lift(x, gramian, **options) -> weights``, on float64 NumPy arrays: what turns the problem's
        minimisers into weights.
    summary, source : str
        One line for tables, and the paper.
    """

    name: str
    weights: Callable[..., Any]
    problem: Callable[..., NNQP]
    lift: Callable[..., Any]
    summary: str
    source: str


_WEIGHTINGS: dict[str, Weighting] = {}


def register(weighting: Weighting) -> Weighting:
    """Add `weighting` to the registry under its name, once."""
    if weighting.name in _WEIGHTINGS:
        raise InvalidInputError(f"a weighting named {weighting.name!r} is already registered")
    _WEIGHTINGS[weighting.name] = weighting
    return weighting


def registered_weightings() -> tuple[Weighting, ...]:
    """Return all registered weightings in the order of registration."""
    return tuple(_WEIGHTINGS.values())


def get_weighting(name: str) -> Weighting:
    """Return the weighting called `name`."""
    try:
        return _WEIGHTINGS[name]
    except KeyError:
        known = ", ".join(_WEIGHTINGS)
        raise InvalidInputError(f"weighting={name!r} is not known; choose one of: {known}") from None
