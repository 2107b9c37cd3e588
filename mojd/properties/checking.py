"""Look for a counterexample to a property with hypothesis, and report what was found."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mojd._arrays import FloatArray, as_array, to_float64
from mojd._checks import check_jacobian_shape
from mojd.errors import InvalidInputError
from mojd.properties._registry import Property, get_property, registered_properties
from mojd.properties._subject import NotFiniteError, Subject, Takes, subject
from mojd.properties.published import expected
from mojd.properties.report import Counterexample, Finding, Report

# For a mark to rest on a thousand examples that count.
EXAMPLES = 1000
# How many plain examples are tried for a counterexample that is easier to read.
SIMPLE = 200


def violation(
    name: str,
    method: Any,
    jacobian: Any,
    *,
    seed: int = 0,
    takes: Takes | None = None,
    like: str | None = None,
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
    array = as_array(jacobian, "jacobian")
    check_jacobian_shape(array)
    rows = to_float64(array)
    if rows.ndim != 2:
        raise InvalidInputError(f"jacobian must have shape (K, n), one problem, got shape {rows.shape}")
    needed = set(inspect.signature(item.measure).parameters) - {"subject", "jacobian", "seed"}
    if set(extras) != needed:
        given = f"got {', '.join(sorted(extras))}" if extras else "got nothing else"
        raise InvalidInputError(
            f"{name} needs {', '.join(sorted(needed)) or 'nothing'} beside the jacobian, {given}"
        )
    return _measured(item, checked, rows, seed, extras)


def _measured(
    item: Property, checked: Subject, jacobian: FloatArray, seed: int, extras: Mapping[str, Any]
) -> float:
    try:
        return float(item.measure(checked, jacobian, seed, **extras))
    except NotFiniteError:
        return float("inf")


def check(
    method: Any,
    properties: str | Sequence[str] | None = None,
    *,
    takes: Takes | None = None,
    like: str | None = None,
    examples: int = EXAMPLES,
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
    like : str, optional
        The method of mojd's whose problem a function claims to solve, for the property 'optimal'.
    examples : int, default 1000
        How many Jacobians are tried per property.
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
    PyTorch get them seeded.

    Examples
    --------
    >>> import mojd
    >>> print(mojd.check(mojd.upgrad, "non_conflicting", examples=100))
    ✓  non_conflicting  no counterexample among 100 examples of ... structures; ...
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
    for item in choose(properties):
        reason = item.why_not(checked)
        if not reason:
            chosen.append(item)
        elif named:
            raise InvalidInputError(f"{item.name} makes no sense for {checked.name}: {reason}")
    report = Report(tuple(find(checked, item, examples) for item in chosen))
    if raises if raises is not None else named:
        report.assert_all()
    return report


def choose(properties: str | Sequence[str] | None) -> list[Property]:
    """Look up properties by name, each once; all of them for None."""
    if properties is None:
        return list(registered_properties())
    names = [properties] if isinstance(properties, str) else list(properties)
    if not names:
        raise InvalidInputError("properties is empty: name at least one, or leave it out for all")
    return [get_property(name) for name in dict.fromkeys(names)]


class _Found(Exception):
    """An example violates the property: what hypothesis is to shrink."""


def find(checked: Subject, item: Property, examples: int = EXAMPLES) -> Finding:
    """Look for a counterexample to one property of one method.

    Parameters
    ----------
    checked : Subject
    item : Property
    examples : int
        How many examples to try.

    Returns
    -------
    Finding
    """
    published = expected(checked.name, item.name)
    reason = item.why_not(checked)
    if reason:
        return Finding(checked.name, item.name, None, checked.expression, reason=reason, published=published)
    search = _Search(checked, item)
    search.run(examples)
    return Finding(
        method=checked.name,
        property_name=item.name,
        holds=search.failure is None,
        expression=checked.expression,
        violation=search.worst,
        tolerance=item.tolerance,
        examples=sum(search.structures.values()),
        structures=dict(sorted(search.structures.items())),
        counterexample=search.failure,
        published=published,
    )


class _Search:
    """One run of hypothesis, and what it came across."""

    def __init__(self, checked: Subject, item: Property) -> None:
        self.checked = checked
        self.item = item
        self.structures: Counter[str] = Counter()
        self.worst = 0.0
        self.failure: Counterexample | None = None

    def run(self, examples: int) -> None:
        """Try examples until one violates the property; then look for a simpler one."""
        from mojd.properties import strategies

        low, high = self.item.k
        low = max(low, self.checked.min_size)
        structures = self.item.structures or strategies.STRUCTURES
        self._look(examples, strategies.examples((low, max(high, low)), self.item.n, structures=structures))
        if self.failure is None:
            return
        # What was found may owe its shape to the structure that it came from. Plain integers read best.
        first, counted = self.failure, self.structures
        others = tuple(name for name in structures if name != "gaussian")
        for most, largest, kinds in ((2, 2, "integers"), (3, 2, "integers"), (3, 4, others)):
            self.failure, self.structures = None, Counter()
            rows = (low, max(low, most))
            self._look(SIMPLE, strategies.examples(rows, (1, most), structures=kinds, largest=largest))
            if self.failure is not None:
                break
        self.failure, self.structures = self.failure or first, counted

    def _look(self, examples: int, base: Any) -> None:
        """Try examples until one violates the property, and shrink that one."""
        from hypothesis import HealthCheck, Phase, Verbosity, assume, given, settings
        from hypothesis import strategies as st

        seeds = st.integers(0, 2**16) if self.checked.is_stochastic else st.just(0)

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def attempt(data: Any) -> None:
            example = data.draw(base)
            extras = {
                name: data.draw(strategy)
                for name, strategy in self.item.extras(len(example.jacobian)).items()
            }
            assume(self.judge(example, data.draw(seeds), extras))

        with contextlib.suppress(_Found):
            attempt()

    def judge(self, example: Any, seed: int, extras: Mapping[str, Any]) -> bool:
        """Return whether the example counts; raise if it is a counterexample."""
        error = ""
        try:
            amount = _measured(self.item, self.checked, example.jacobian, seed, extras)
        except Exception as raised:
            # A stranger's function that fails on an ordinary Jacobian has failed the check.
            amount, error = float("inf"), f"{type(raised).__name__}: {raised}"
        if np.isnan(amount):
            return False
        if self.failure is None:
            self.structures[example.structure] += 1
        if amount <= self.item.tolerance:
            self.worst = max(self.worst, amount)
            return True
        weights = direction = None
        if not error and np.isfinite(amount):
            # Of the extras, only τ is an option of methods; a factor c is not CAGrad's c.
            options = {"tau": extras["tau"]} if "tau" in extras else {}
            step = self.checked.step(example.jacobian, seed=seed, **options)
            weights, direction = step.weights, step.direction
        self.failure = Counterexample(
            example.jacobian, example.structure, seed, extras, amount, weights, direction, error
        )
        raise _Found
