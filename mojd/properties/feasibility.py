"""Whether PCD's constraints can be met: by the direction that is given, or not by any, with a proof."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd._arrays import FloatArray, as_array, to_float64
from mojd._checks import check_rows
from mojd.gramian import gramian
from mojd.properties._inputs import one_jacobian, with_direction
from mojd.properties._subject import Subject
from mojd.properties._units import largest
from mojd.solvers import solve
from mojd.status import Status
from mojd.weightings import pcd_problem


def is_feasible(jacobian: FloatArray, tau: float) -> bool:
    """Whether some direction gives every secondary a τ-fraction of its own progress."""
    return solve(pcd_problem(gramian(jacobian), tau)).status is Status.OPTIMAL


def missing_progress(jacobian: Any, direction: Any, tau: float, size: float = 0.0) -> float:
    r"""Measure how far the worst secondary is from its guaranteed progress.

    .. math:: \max_{j \ge 1} \frac{\tau \|g_j\|^2 - g_j^\top d}{\|g_j\| \max(\|d\|, \max_i \|g_i\|)}

    Parameters
    ----------
    jacobian : array, shape (K, n)
    direction : array, shape (n,)
    tau : float
    size : float, default 0
        ``Σ |wᵢ|·‖gᵢ‖``, if known: the denominator's second factor, if it is larger.

    Returns
    -------
    float
        0 if every secondary has its progress.

    Examples
    --------
    >>> import numpy as np
    >>> from mojd.properties import missing_progress
    >>> J = np.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> round(missing_progress(J, J[0], tau=0.0), 12)
    0.5
    """
    jacobian, direction = with_direction(jacobian, direction)
    norms = np.linalg.norm(jacobian, axis=-1)[1:]
    slack = jacobian[1:] @ direction - tau * norms**2
    scale = norms * max(largest(jacobian, direction), size)
    return float(np.where(scale > 0, -slack / np.where(scale > 0, scale, 1.0), 0.0).max(initial=0.0))


def contradiction_error(jacobian: Any, ray: Any, tau: float) -> float:
    r"""Measure how far a ray is from proving that PCD's constraints contradict each other.

    A proof is z ≥ 0 with :math:`\sum_j z_j g_j = 0` and :math:`\sum_j z_j \tau \|g_j\|^2 > 0` over the
    secondaries: the constraints, weighted by z, add up to 0 ≥ something positive (Farkas).

    Parameters
    ----------
    jacobian : array, shape (K, n)
    ray : array, shape (K − 1,)
    tau : float

    Returns
    -------
    float
        ‖Σ zⱼgⱼ‖ / Σ zⱼ‖gⱼ‖; 1 if z has a negative entry or the sum above isn't positive.

    Examples
    --------
    >>> import numpy as np
    >>> from mojd.properties import contradiction_error
    >>> J = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -2.0]])
    >>> contradiction_error(J, np.array([2.0, 1.0]), tau=0.1)
    0.0
    """
    rows, ray = one_jacobian(jacobian)[1:], to_float64(as_array(ray, "ray"))
    check_rows(ray, len(rows), "ray", "one number per secondary")
    norms = np.linalg.norm(rows, axis=-1)
    size = float(ray @ norms)
    if not (np.isfinite(ray).all() and (ray >= 0).all() and size > 0 and tau > 0):
        return 1.0
    return float(np.linalg.norm(ray @ rows)) / size


def no_dial(subject: Subject) -> str:
    """Return why a method without τ can't be asked; empty if it has one."""
    return "" if "tau" in subject.parameters else "it has no τ to turn"
