"""Optimal: weights solve the problem that the method says it solves."""

from __future__ import annotations

from mojd._arrays import FloatArray
from mojd.gramian import gramian
from mojd.properties._registry import Property, register
from mojd.properties._subject import Subject


def optimality_residual(subject: Subject, jacobian: FloatArray, seed: int) -> float:
    """Return the residual of the method's own optimality conditions, as the method's file defines it."""
    assert subject.like is not None and subject.like.residual is not None
    weights = subject.step(jacobian, seed=seed).weights
    assert weights is not None
    return float(subject.like.residual(weights, gramian(jacobian), **subject.options))


def _why_not(subject: Subject) -> str:
    if subject.takes == "jacobian":
        return "it returns a direction: the conditions are on weights"
    if subject.like is None:
        return "no problem is known that it is to solve; name one with like="
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
        why_not=_why_not,
    )
)
