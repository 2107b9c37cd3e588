"""Stationary points, strong and weak: how far they are, and whether a method stops there and only there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import FloatArray
from mojd._checks import check_finite
from mojd.properties._inputs import one_jacobian
from mojd.properties._registry import Property, register
from mojd.properties._subject import Subject
from mojd.properties._units import unit_rows
from mojd.weightings import mgda, project

# Between what rounding leaves of 0 (1e-15) and the nearest to 0 that examples without rounding come (1e-6).
_STATIONARY = 1e-11


class Stationarity(NamedTuple):
    """How far a point is from being stationary, and the weights that come closest.

    Attributes
    ----------
    distance : float
        ‖Jᵀz‖ / Σ zᵢ‖gᵢ‖, between 0 (stationary) and 1.
    weights : float64 array, shape (K,)
        z. For the weak kind z ≥ 0, and not all of it is 0. For the strong kind z > 0.
    """

    distance: float
    weights: FloatArray


def _rows(jacobian: Any) -> tuple[FloatArray, FloatArray]:
    """Return J with rows of norms between 1 and 2, and the factors that made them so."""
    rows = one_jacobian(jacobian)
    check_finite(rows, "jacobian", "stationarity of what is not a number is not defined")
    return unit_rows(rows)


def _distance(rows: FloatArray, weights: FloatArray) -> float:
    size = float(weights @ np.linalg.norm(rows, axis=-1))
    return float(np.linalg.norm(weights @ rows)) / size if size > 0 else 0.0


def weak_stationarity(jacobian: Any) -> Stationarity:
    r"""Measure how far a point is from weakly Pareto stationary.

    .. math:: z = \operatorname*{arg\,min}_{z \ge 0,\; \sum_i z_i = 1} \|\hat J^\top z\|

    with the rows of :math:`\hat J` scaled to norms between 1 and 2.

    Parameters
    ----------
    jacobian : array, shape (K, n)

    Returns
    -------
    Stationarity
        With a distance of 0 if some z ≥ 0 other than 0 has Jᵀz = 0: no direction reduces all losses to
        first order, and z proves it. A gradient of 0 makes any point weakly stationary.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, on stationarity.

    Examples
    --------
    >>> import mojd
    >>> mojd.properties.weak_stationarity([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]]).distance
    0.0
    >>> mojd.properties.weak_stationarity([[1.0, 0.0], [0.0, 1.0]]).distance
    0.707...
    """
    rows, factors = _rows(jacobian)
    zero = ~rows.any(axis=-1)
    if zero.any():
        return Stationarity(0.0, zero / zero.sum())
    weights = mgda(rows @ rows.T)
    return Stationarity(_distance(rows, weights), weights * factors / float(weights @ factors))


def strong_stationarity(jacobian: Any) -> Stationarity:
    r"""Measure how far a point is from strongly stationary.

    .. math:: z = \operatorname*{arg\,min}_{z \ge 1} \|\hat J^\top z\|

    with the rows of :math:`\hat J` scaled to norms between 1 and 2.

    Parameters
    ----------
    jacobian : array, shape (K, n)

    Returns
    -------
    Stationarity
        With a distance of 0 if some z > 0 has Jᵀz = 0: every direction that reduces one loss to first
        order raises another, and z proves it.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, on stationarity.

    Examples
    --------
    Two gradients cancel and a third is left over: weakly stationary, not strongly.

    >>> import mojd
    >>> J = [[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]]
    >>> mojd.properties.strong_stationarity(J).distance > 0.1
    True
    >>> mojd.properties.strong_stationarity(J[:2]).distance
    0.0
    """
    rows, factors = _rows(jacobian)
    weights = project(np.ones(len(rows)), rows @ rows.T)
    return Stationarity(_distance(rows, weights), weights * factors / float((weights * factors).max()))


def _stops_exactly(subject: Subject, jacobian: FloatArray, seed: int, point: Stationarity) -> float:
    """Return what is left of d at a stationary point, or the distance to the next if d is 0 elsewhere."""
    step = subject.step(jacobian, seed=seed)
    if point.distance > _STATIONARY:
        return point.distance if step.is_stopped else 0.0
    # A weight of 1e-33 beside one of 1 is rounding, also where the gradient that has the latter is 0.
    largest = 0.0 if step.weights is None else float(np.abs(step.weights).max())
    unit = max(step.size, largest * float(np.linalg.norm(jacobian, axis=-1).max()))
    return step.length / unit if unit > 0 else 0.0


def _measure_strong(subject: Subject, jacobian: FloatArray, seed: int) -> float:
    return _stops_exactly(subject, jacobian, seed, strong_stationarity(jacobian))


def _measure_weak(subject: Subject, jacobian: FloatArray, seed: int) -> float:
    return _stops_exactly(subject, jacobian, seed, weak_stationarity(jacobian))


register(
    Property(
        name="stops_if_strongly_stationary",
        title="stops iff strongly stationary",
        summary="d = 0 at strongly stationary points and nowhere else",
        source="arXiv 2406.16232, on stationarity",
        group="general",
        tolerance=1e-9,
        measure=_measure_strong,
    )
)
register(
    Property(
        name="stops_if_weakly_stationary",
        title="stops iff weakly stationary",
        summary="d = 0 at weakly stationary points and nowhere else",
        source="arXiv 2406.16232, on stationarity; Désidéri, C. R. Math. 350 (2012)",
        group="general",
        tolerance=1e-9,
        measure=_measure_weak,
    )
)
