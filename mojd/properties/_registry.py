"""The registry of properties: what each says about itself, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mojd._checks import did_you_mean
from mojd.errors import InvalidInputError
from mojd.properties._subject import Subject

Group = Literal["jacobian descent", "general", "priorities"]


def no_extras(subject: Subject, K: int) -> Mapping[str, Any]:
    """Return the strategies of a property that needs nothing beside a Jacobian."""
    del subject, K
    return {}


def always(subject: Subject) -> str:
    """Return why a property does not apply: it does."""
    del subject
    return ""


@dataclass(frozen=True, kw_only=True)
class Property:
    """Something that a method does for every Jacobian, or does not.

    Parameters
    ----------
    name : str
        As in ``mojd.check(method, name)``.
    title : str
        For the head of a column.
    summary, source : str
        One line for tables, and the paper. The definition, with its measure, is a page of the
        documentation: docs/properties/<name>.md.
    group : {'jacobian descent', 'general', 'priorities'}
        Table 1 of the Jacobian-descent paper; other properties of any method; what PCD guarantees.
    tolerance : float
        The largest violation that counts as rounding.
    measure : callable
        ``measure(subject, jacobian, seed, **extras) -> float or None``, the violation: 0 if the property
        holds, without a unit; None if the example is not what the property speaks about.
    extras : callable
        ``extras(subject, K)``: names and hypothesis strategies of what else an example consists of.
    why_not : callable
        ``why_not(subject)``: why the property makes no sense for a method; empty if it does.
    k, n : (int, int)
        The sizes to be tried.
    structures : tuple of str, optional
        Those of the strategies that it is checked on; by default all.
    """

    name: str
    title: str
    summary: str
    source: str
    group: Group
    tolerance: float
    measure: Callable[..., float | None]
    extras: Callable[[Subject, int], Mapping[str, Any]] = no_extras
    why_not: Callable[[Subject], str] = always
    k: tuple[int, int] = (1, 6)
    n: tuple[int, int] = (1, 6)
    structures: tuple[str, ...] | None = None


_PROPERTIES: dict[str, Property] = {}


def register(item: Property) -> Property:
    """Add a property to the registry under its name, once."""
    if item.name in _PROPERTIES:
        raise InvalidInputError(f"a property named {item.name!r} is already registered")
    _PROPERTIES[item.name] = item
    return item


def registered_properties() -> tuple[Property, ...]:
    """Return all registered properties in the order of registration."""
    return tuple(_PROPERTIES.values())


def get_property(name: str) -> Property:
    """Return the property called `name`."""
    spelt = name.replace("-", "_").replace(" ", "_")
    if spelt in _PROPERTIES:
        return _PROPERTIES[spelt]
    hint, known = did_you_mean(spelt, _PROPERTIES), ", ".join(_PROPERTIES)
    raise InvalidInputError(f"property {name!r} is not known{hint}; choose from: {known}")
