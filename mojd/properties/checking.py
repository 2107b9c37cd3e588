"""Ask whether a method has properties, on one Jacobian or on a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.properties._inputs import one_jacobian
from mojd.properties._ranges import Range, pair_of
from mojd.properties._registry import Property, get_property, registered_properties
from mojd.properties._search import EXAMPLES, find, measured
from mojd.properties._subject import Takes
from mojd.properties._trial import subject
from mojd.properties.report import Report


def violation(
    name: str,
    method: Any,
    jacobian: Any,
    *,
    seed: int = 0,
    takes: Takes | None = None,
    like: Any = None,
    **extras: Any,
) -> float:
    """Measure by how much a method violates a property on one Jacobian.

    Parameters
    ----------
    name : str
        The property; ``[item.name for item in mojd.properties.registered_properties()]`` lists them.
    method : str or callable
        As for :func:`mojd.check`.
    jacobian : array, shape (K, n)
    seed : int, default 0
        For methods that draw random numbers.
    takes, like
        As for :func:`mojd.check`.
    **extras
        What the property needs beside a Jacobian, such as ``tau``.

    Returns
    -------
    float
        0 if the property holds on this example; infinity if the method returned NaN or infinity; NaN
        if the property says nothing about the example.

    Raises
    ------
    InvalidInputError
        If a name is not known, the shape does not fit, the extras are not those that the property
        needs, or it makes no sense for the method.

    Examples
    --------
    >>> import mojd
    >>> mojd.properties.violation("non_conflicting", mojd.mgda, [[-2.0], [4.0]])
    0.0
    """
    item = get_property(name)
    checked = subject(method, takes=takes, like=like)
    reason = item.why_not(checked)
    if reason:
        raise InvalidInputError(f"{name} makes no sense for {checked.name}: {reason}")
    rows = one_jacobian(jacobian)
    needed = set(item.extras(checked, len(rows)))
    if set(extras) != needed:
        given = f"got {', '.join(sorted(extras))}" if extras else "got nothing else"
        raise InvalidInputError(
            f"{name} needs {', '.join(sorted(needed)) or 'nothing'} beside the jacobian, {given}"
        )
    amount = measured(item, checked, rows, seed, extras)
    return float("nan") if amount is None else amount


def check(
    method: Any,
    properties: str | Sequence[str] | None = None,
    *,
    takes: Takes | None = None,
    like: Any = None,
    examples: int = EXAMPLES,
    k: Range | None = None,
    n: Range | None = None,
    tolerance: float | None = None,
    raises: bool | None = None,
) -> Report:
    r"""Look for counterexamples to theoretical properties of a method.

    Parameters
    ----------
    method : str or callable
        The name of one of mojd's methods, or any function from a Gramian (K, K) to weights (K,) or
        from a Jacobian (K, n) to a direction (n,), on NumPy arrays or PyTorch tensors. No base class is
        needed; which kind it is, is found out by calling it.
    properties : str or sequence of str, optional
        Names of properties. By default all that make sense for the method.
    takes : {'gramian', 'jacobian'}, optional
        What a function takes, if trying it out is not wanted.
    like : str or callable, optional
        The method of mojd's whose problem a function claims to solve, for the property 'optimal'. Options
        of that problem, such as ``c`` of CAGrad, are taken from the function's defaults.
    examples : int, default 1000
        How many Jacobians are tried per property.
    k, n : int or (int, int), optional
        How many objectives and parameters, or the least and the most. By default 1 to 6.
    tolerance : float, optional
        The largest violation that passes, instead of the property's own, for instance 1e-5 for methods
        that compute in float32.
    raises : bool, optional
        Whether to raise if there is a counterexample. By default, if properties were named: to name
        one is to claim it.

    Returns
    -------
    Report
        A finding per property. That no counterexample was found is evidence and no proof.

    Raises
    ------
    PropertyViolated
        An AssertionError with the counterexample, shrunk to few rows and small integers, as Python that
        fails when it is run. In a test suite, ``mojd.check(f, "non_conflicting")`` is a test.
    InvalidInputError
        If a name is not known, or the function returns nothing of a fitting shape.
    InvalidTypeError
        If `method` is neither a name nor callable.
    MissingDependencyError
        If hypothesis isn't installed.

    Notes
    -----
    Examples are the same in each run. Among them are duplicated, opposite, nearly parallel, vanishing and
    stationary gradients; their Gramians are exact in float64, so that what is found is the method's
    own fault. Functions that draw random numbers from the global generators of Python, NumPy or
    PyTorch get them seeded. What they print goes to stderr.

    Examples
    --------
    >>> import mojd
    >>> print(mojd.check(mojd.upgrad, "non_conflicting", examples=100))
    ✓  non_conflicting  no counterexample among 100 examples of ... structures, K = 1 to 6; ...
    >>> mojd.check(lambda J: J.mean(axis=0), "non_conflicting")
    Traceback (most recent call last):
        ...
    mojd.properties.report.PropertyViolated: ...<lambda> fails non_conflicting, ...
    """
    checked = subject(method, takes=takes, like=like)
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise InvalidInputError(f"examples must be a positive integer, got {examples!r}")
    named = properties is not None
    chosen = []
    for item in choose(properties, k=k, n=n, tolerance=tolerance):
        reason = item.why_not(checked)
        if not reason:
            chosen.append(item)
        elif named:
            raise InvalidInputError(f"{item.name} makes no sense for {checked.name}: {reason}")
    report = Report(tuple(find(checked, item, examples) for item in chosen))
    if raises if raises is not None else named:
        report.assert_all()
    return report


def choose(
    properties: str | Sequence[str] | None,
    *,
    k: Range | None = None,
    n: Range | None = None,
    tolerance: float | None = None,
) -> list[Property]:
    """Look up properties by name, each once, all of them for None; with other bounds if any are given."""
    if properties is None:
        chosen = list(registered_properties())
    else:
        names = [properties] if isinstance(properties, str) else properties
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise InvalidTypeError(f"properties must be names of properties, got {properties!r}")
        if not names:
            raise InvalidInputError("properties is empty: name at least one, or leave it out for all")
        chosen = [get_property(name) for name in dict.fromkeys(names)]
    if k is not None:
        low, high = _bounds(k, "k")
        chosen = [replace(item, k=(max(low, item.k[0]), max(high, item.k[0]))) for item in chosen]
    if n is not None:
        chosen = [replace(item, n=_bounds(n, "n")) for item in chosen]
    if tolerance is not None:
        if not 0 <= tolerance < 1:
            raise InvalidInputError(f"tolerance must lie between 0 and 1, got {tolerance!r}")
        chosen = [replace(item, tolerance=tolerance) for item in chosen]
    return chosen


def _bounds(value: Range, name: str) -> tuple[int, int]:
    bounds = pair_of(value)
    if bounds is None:
        raise InvalidInputError(f"{name} must be an integer or a pair (least, most), got {value!r}")
    if not 1 <= bounds[0] <= bounds[1]:
        raise InvalidInputError(f"{name} must be positive, the least first, got {value!r}")
    return bounds
