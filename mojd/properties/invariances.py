"""Positively homogeneous, permutation equivariant, invariant to the scale of each objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mojd._arrays import FloatArray
from mojd.properties._registry import Property, register
from mojd.properties._subject import Subject
from mojd.properties._units import beyond_rounding, largest

# √ε. Methods that normalise gradients and then solve with them lose digits where gradients are nearly
# parallel, to the rounding of a norm, and owe no more than that.
HALF_THE_DIGITS = 2.0**-26


def homogeneity_error(subject: Subject, jacobian: FloatArray, seed: int, c: float) -> float:
    """Measure ‖𝒜(c·J) − c·𝒜(J)‖ relative to the longest vector in it."""
    scaled, plain = (subject.step(rows, seed=seed) for rows in (c * jacobian, jacobian))
    expected = c * plain.direction
    error = beyond_rounding(scaled.direction - expected, scaled.size, c * plain.size)
    return error / largest(c * jacobian, scaled.direction, expected)


def permutation_error(subject: Subject, jacobian: FloatArray, seed: int, order: Any) -> float:
    """Measure ‖𝒜(P·J) − 𝒜(J)‖ relative to the longest vector in it."""
    permuted, plain = (subject.step(rows, seed=seed) for rows in (jacobian[list(order)], jacobian))
    error = beyond_rounding(permuted.direction - plain.direction, permuted.size, plain.size)
    return error / largest(jacobian, permuted.direction, plain.direction)


def row_scale_error(subject: Subject, jacobian: FloatArray, seed: int, c: FloatArray) -> float:
    """Measure the distance between the unit vectors of 𝒜(diag(c)·J) and 𝒜(J)."""
    units = []
    for rows in (c[:, None] * jacobian, jacobian):
        step = subject.step(rows, seed=seed)
        # What rounding leaves of d = 0 has no direction.
        vanishes = step.length <= 1e-9 * step.size
        units.append(np.zeros_like(step.direction) if vanishes else step.direction / step.length)
    return float(np.linalg.norm(units[0] - units[1]))


def _factor(subject: Subject, K: int) -> Mapping[str, Any]:
    from mojd.properties._hypothesis import st

    del subject, K
    return {"c": st.sampled_from([2.0, 3.0, 0.5, 7.0, 2.0**-30, 2.0**30])}


def _order(subject: Subject, K: int) -> Mapping[str, Any]:
    from mojd.properties._hypothesis import st

    del subject
    return {"order": st.permutations(range(K)).map(tuple)}


def _factors(subject: Subject, K: int) -> Mapping[str, Any]:
    from mojd.properties.strategies import row_factors

    del subject
    return {"c": row_factors(K)}


def _only_in_distribution(subject: Subject) -> str:
    return (
        "it draws random numbers for each row: equivariant in distribution only"
        if subject.is_stochastic
        else ""
    )


register(
    Property(
        name="positively_homogeneous",
        title="homogeneous",
        summary="scaling all losses scales d by the same factor",
        source="arXiv 2406.16232, section 2.2, for equal factors",
        group="general",
        tolerance=HALF_THE_DIGITS,
        measure=homogeneity_error,
        extras=_factor,
    )
)
register(
    Property(
        name="permutation_equivariant",
        title="symmetric",
        summary="the order of the objectives does not matter",
        source="arXiv 2606.29521, on label-symmetric methods",
        group="general",
        tolerance=HALF_THE_DIGITS,
        measure=permutation_error,
        extras=_order,
        why_not=_only_in_distribution,
    )
)
register(
    Property(
        name="scale_invariant",
        title="scale invariant",
        summary="scaling one loss leaves the ray of d where it is",
        source="arXiv 2202.01017, on the invariance of the Nash bargaining solution",
        group="general",
        tolerance=1e-6,
        measure=row_scale_error,
        extras=_factors,
    )
)
