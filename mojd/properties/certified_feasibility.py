"""Certified feasibility: constraints are met, or a ray proves that they can't be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mojd._arrays import FloatArray
from mojd.gramian import gramian
from mojd.properties._registry import Property, register
from mojd.properties._subject import Subject
from mojd.properties.feasibility import contradiction_error, missing_progress, no_dial
from mojd.solvers import solve
from mojd.status import Status
from mojd.weightings import pcd_problem


def _certified(subject: Subject, jacobian: FloatArray, seed: int, tau: float) -> float | None:
    """Return the fault of the certificate: of the ray if infeasible, of the constraints if not."""
    solution = solve(pcd_problem(gramian(jacobian), tau))
    if solution.status is not Status.INFEASIBLE:
        step = subject.step(jacobian, seed=seed, tau=tau)
        return missing_progress(jacobian, step.direction, tau, step.size)
    return contradiction_error(jacobian, solution.ray, tau)


def _positive_tau(subject: Subject, K: int) -> Mapping[str, Any]:
    from mojd.properties.strategies import taus

    del subject, K
    return {"tau": taus(positive=True)}


register(
    Property(
        name="certified_feasibility",
        title="certified feasibility",
        summary="constraints are met, or a ray proves that they contradict each other",
        source="arXiv 2606.29521, feasibility",
        group="priorities",
        tolerance=1e-9,
        measure=_certified,
        extras=_positive_tau,
        why_not=no_dial,
        k=(2, 6),
    )
)
