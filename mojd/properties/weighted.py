"""Weighted: the direction is a combination of the gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd._arrays import FloatArray
from mojd.properties._inputs import with_direction
from mojd.properties._registry import Property, register
from mojd.properties._subject import Subject
from mojd.properties._units import largest, unit_rows


def outside_of_span(jacobian: Any, direction: Any) -> float:
    r"""Measure how much of a direction is no combination of the gradients.

    .. math:: \min_{w \in \mathbb{R}^K} \frac{\|d - J^\top w\|}{\max(\|d\|, \max_i \|g_i\|)}

    Parameters
    ----------
    jacobian : array, shape (K, n)
    direction : array, shape (n,)

    Returns
    -------
    float
        Between 0 and 1.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, definition of weighted aggregators.

    Examples
    --------
    >>> import mojd
    >>> mojd.properties.outside_of_span([[1.0, 0.0], [2.0, 0.0]], [3.0, 4.0])
    0.8
    """
    rows, values = with_direction(jacobian, direction)
    _, spread, basis = np.linalg.svd(unit_rows(rows)[0])
    span = basis[: int((spread > 1e-12).sum())]
    outside = values - span.T @ (span @ values)
    # The longest vector may have a norm that overflows when it is squared.
    unit = max(float(np.abs(rows).max()), float(np.abs(values).max())) or 1.0
    return float(np.linalg.norm(outside / unit)) / largest(rows / unit, values / unit)


def _measure(subject: Subject, jacobian: FloatArray, seed: int) -> float:
    return outside_of_span(jacobian, subject.step(jacobian, seed=seed).direction)


register(
    Property(
        name="weighted",
        title="weighted",
        summary="d is a combination of the gradients",
        source="arXiv 2406.16232, section 2.2",
        group="jacobian descent",
        tolerance=1e-9,
        measure=_measure,
    )
)
