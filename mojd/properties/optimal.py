"""Optimal: weights solve the problem that the method says it solves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mojd._arrays import FloatArray
from mojd.gramian import gramian
from mojd.properties._registry import Property, register
from mojd.properties._signatures import EMPTY, options_of
from mojd.properties._subject import Subject


def optimality_residual(subject: Subject, jacobian: FloatArray, seed: int, **options: Any) -> float:
    """Return the residual of the method's own optimality conditions, as the method's file defines it."""
    assert subject.like is not None and subject.like.residual is not None
    weights = subject.step(jacobian, seed=seed, **options).weights
    assert weights is not None
    known = options_of(subject.like.residual)
    # The problem has the options of the function, those that a partial has set among them.
    defaults = {
        name: value
        for name, value in options_of(subject.function).items()
        if name in known and value is not EMPTY
    }
    given = {**defaults, **subject.options, **options}
    return float(subject.like.residual(weights, gramian(jacobian), **given))


def _extras(subject: Subject, K: int) -> Mapping[str, Any]:
    """Vary the options that the problem has and the function takes."""
    from mojd.properties.strategies import pref_vectors, taus

    assert subject.like is not None and subject.like.residual is not None
    varied = {"tau": taus(), "pref_vector": pref_vectors(K)}
    known = subject.parameters & set(options_of(subject.like.residual))
    return {name: strategy for name, strategy in varied.items() if name in known}


def _why_not(subject: Subject) -> str:
    if subject.takes == "jacobian":
        return "it returns a direction: the conditions are on weights"
    if subject.like is None:
        return "no problem is known that it is to solve; name one with like= (--like)"
    if subject.like.residual is None:
        return "it is a formula, and solves no problem"
    return ""


register(
    Property(
        name="optimal",
        title="optimal",
        summary="the weights satisfy the optimality conditions of the method's own problem",
        source="each method's own",
        group="general",
        tolerance=1e-9,
        measure=optimality_residual,
        extras=_extras,
        why_not=_why_not,
    )
)
