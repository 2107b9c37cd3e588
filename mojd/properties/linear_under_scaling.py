"""Linear under scaling: a gradient counts in proportion to its length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mojd._arrays import FloatArray
from mojd.properties._registry import Property, register
from mojd.properties._subject import Subject
from mojd.properties._units import beyond_rounding, largest


def superposition_error(subject: Subject, jacobian: FloatArray, seed: int, a: Any, b: Any) -> float:
    """Measure ‖𝒜(diag(a + b)·J) − 𝒜(diag(a)·J) − 𝒜(diag(b)·J)‖ relative to the longest vector in it."""
    parts = [factor[:, None] * jacobian for factor in (a + b, a, b)]
    whole, first, second = (subject.step(part, seed=seed) for part in parts)
    difference = whole.direction - first.direction - second.direction
    unit = largest(parts[0], whole.direction, first.direction, second.direction)
    return beyond_rounding(difference, whole.size, first.size, second.size) / unit


def _extras(subject: Subject, K: int) -> Mapping[str, Any]:
    from mojd.properties.strategies import row_factors

    del subject
    return {"a": row_factors(K), "b": row_factors(K)}


register(
    Property(
        name="linear_under_scaling",
        title="linear under scaling",
        summary="scaling a gradient scales its share of d in proportion",
        source="arXiv 2406.16232, section 2.2",
        group="jacobian descent",
        tolerance=1e-9,
        measure=superposition_error,
        extras=_extras,
    )
)
