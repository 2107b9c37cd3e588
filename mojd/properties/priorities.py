"""The five guarantees of Priority-Constrained Descent.

Row 0 is the primary, the other rows are the secondaries. Methods that know no τ are measured as they
are: what they return is compared with what PCD promises for that τ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mojd._arrays import FloatArray
from mojd.gramian import gramian
from mojd.properties._registry import Property, register
from mojd.properties._subject import Step, Subject
from mojd.properties._units import largest
from mojd.properties.feasibility import is_feasible, missing_progress, no_dial
from mojd.properties.stationarity import weak_stationarity
from mojd.weightings import init_normaliser, normalise


def _progress(subject: Subject, jacobian: FloatArray, seed: int, tau: float) -> float | None:
    if not is_feasible(jacobian, tau):
        return None
    step = subject.step(jacobian, seed=seed, tau=tau)
    return missing_progress(jacobian, step.direction, tau, step.size)


def _fallback(subject: Subject, jacobian: FloatArray, seed: int, tau: float) -> float | None:
    """Return ‖d − g₀‖ where g₀ satisfies every constraint already."""
    if missing_progress(jacobian, jacobian[0], tau) > 0:
        return None
    direction = subject.step(jacobian, seed=seed, tau=tau).direction
    return float(np.linalg.norm(direction - jacobian[0])) / largest(jacobian, direction)


def _normalised_step(subject: Subject, history: list[FloatArray], seed: int, tau: float) -> Step:
    """Return the last step of a method after its normaliser, if it has one, has seen a history."""
    state, scales = init_normaliser(len(history[0])), None
    for rows in history:
        scales, state = normalise(state, gramian(rows), eps=0.0)
    return subject.step(history[-1], seed=seed, tau=tau, scales=scales)


def _scale_invariance(
    subject: Subject, jacobian: FloatArray, seed: int, tau: float, c: FloatArray, before: FloatArray
) -> float | None:
    """Return by how much d changes if loss i is multiplied by cᵢ from the first step on."""
    if not np.linalg.norm(jacobian, axis=-1).all():
        # The average of a gradient that has always been 0 has no scale.
        return None
    history = [before[:, None] * jacobian, jacobian]
    plain = _normalised_step(subject, history, seed, tau)
    scaled = _normalised_step(subject, [c[:, None] * rows for rows in history], seed, tau)
    unit = min(plain.size, scaled.size)
    return float(np.linalg.norm(plain.direction - scaled.direction)) / unit if unit > 0 else 0.0


def _endpoint(subject: Subject, jacobian: FloatArray, seed: int, tau: float) -> float | None:
    """Return by how far a point where the method stops isn't one where it may."""
    if not is_feasible(jacobian, tau):
        return None
    step = subject.step(jacobian, seed=seed, tau=tau)
    if not jacobian.any():
        return step.length
    if not step.is_stopped:
        return 0.0
    return 1.0 if tau > 0 else weak_stationarity(jacobian).distance


def _dial(subject: Subject, jacobian: FloatArray, seed: int) -> float | None:
    """Return how far τ is from a dial: nested constraints, a distance that grows, no jumps."""
    if not is_feasible(jacobian, 1.0):
        return None

    def at(tau: float) -> Step:
        return subject.step(jacobian, seed=seed, tau=tau)

    grid = (0.0, 0.25, 0.5, 0.75, 1.0)
    steps = [at(tau) for tau in grid]
    unit = max(largest(jacobian, *(step.direction for step in steps)), *(step.size for step in steps))
    away = [float(np.linalg.norm(step.direction - jacobian[0])) for step in steps]
    pairs = range(len(grid) - 1)
    nested = max(
        missing_progress(jacobian, steps[i + 1].direction, grid[i], steps[i + 1].size) for i in pairs
    )
    backwards = max((away[i] - away[i + 1]) / unit for i in pairs)
    changes = [float(np.linalg.norm(steps[i + 1].direction - steps[i].direction)) for i in pairs]
    steepest = int(np.argmax(changes))
    return max(nested, backwards, _jump(at, grid[steepest], grid[steepest + 1]) / unit)


def _jump(at: Any, low: float, high: float) -> float:
    """Return the change of d over an interval of 2⁻⁴² that bisection has closed in on the largest change."""
    left, right = at(low).direction, at(high).direction
    for _ in range(40):
        middle = 0.5 * (low + high)
        between = at(middle).direction
        if np.linalg.norm(between - left) >= np.linalg.norm(right - between):
            high, right = middle, between
        else:
            low, left = middle, between
    return float(np.linalg.norm(right - left))


def _tau(subject: Subject, K: int) -> Mapping[str, Any]:
    from mojd.properties.strategies import taus

    del subject, K
    return {"tau": taus()}


def _history(subject: Subject, K: int) -> Mapping[str, Any]:
    from mojd.properties.strategies import row_factors, taus

    return {"tau": taus(), "c": row_factors(K), "before": row_factors(K)}


_SOURCE = "arXiv 2606.29521, "
_PAIRS = (2, 6)

register(
    Property(
        name="secondary_progress",
        title="secondary progress",
        summary="every secondary makes a τ-fraction of its own progress",
        source=_SOURCE + "per-step secondary progress",
        group="priorities",
        tolerance=1e-9,
        measure=_progress,
        extras=_tau,
        k=_PAIRS,
    )
)
register(
    Property(
        name="fallback_to_primary",
        title="fallback to the primary",
        summary="d is the primary gradient wherever that gives enough progress",
        source=_SOURCE + "fallback",
        group="priorities",
        tolerance=1e-9,
        measure=_fallback,
        extras=_tau,
        k=_PAIRS,
        structures=(
            "integers",
            "low_rank",
            "duplicated",
            "nearly_parallel",
            "zero_rows",
            "row_scales",
            "gaussian",
        ),
    )
)
register(
    Property(
        name="normalised_scale_invariance",
        title="scale invariance",
        summary="multiplying a loss by a constant from the start leaves d as it is",
        source=_SOURCE + "scale invariance",
        group="priorities",
        tolerance=1e-9,
        measure=_scale_invariance,
        extras=_history,
        k=_PAIRS,
    )
)
register(
    Property(
        name="composite_stationarity",
        title="composite multi-stationarity",
        summary="for τ > 0, d = 0 only where every gradient is 0",
        source=_SOURCE + "composite multi-stationarity",
        group="priorities",
        tolerance=1e-9,
        measure=_endpoint,
        extras=_tau,
        k=_PAIRS,
    )
)
register(
    Property(
        name="one_dial",
        title="one dial",
        summary="larger τ means nested constraints and a continuous way from the primary",
        source=_SOURCE + "one bounded dial",
        group="priorities",
        tolerance=1e-6,
        measure=_dial,
        why_not=no_dial,
        k=_PAIRS,
    )
)
