"""Judge the answers of all solvers on a group: who solved what, and how far each direction is off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from mojd._arrays import to_float64
from mojd.compare.outcomes import Outcome, Row
from mojd.compare.problems import FloatArray, Group
from mojd.compare.worker import Answer
from mojd.status import Status


@dataclass(slots=True)
class Attempt:
    """Collect what one solver answered on one group.

    Attributes
    ----------
    solver : str
        Its name.
    answers : dict of int to Answer
        The certified answer on each Gramian that it got to.
    times : dict of int to list of float
        The times of later passes, in µs.
    used : float
        The seconds spent so far.
    stopped : str
        Why Gramians without an answer have none.
    """

    solver: str
    answers: dict[int, Answer] = field(default_factory=dict)
    times: dict[int, list[float]] = field(default_factory=dict)
    used: float = 0.0
    stopped: str = ""


def judge(group: Group, attempts: Sequence[Attempt], tolerance: float) -> list[Row]:
    """Turn the attempts on a group into rows.

    Parameters
    ----------
    group : Group
        The Gramians.
    attempts : sequence of Attempt
        One per solver.
    tolerance : float
        The largest scale-free KKT residual that counts as solved.

    Returns
    -------
    list of Row
        One per attempt, in the same order.
    """
    outcomes: list[list[Outcome]] = [[] for _ in attempts]
    for index, gramian in enumerate(map(to_float64, group.gramians)):
        answers = [attempt.answers.get(index) for attempt in attempts]
        weights = [_weights(answer) for answer in answers]
        infeasible = any(answer is not None and answer.proves_infeasible for answer in answers)
        certified = [
            (answer.kkt_residual, place)
            for place, answer in enumerate(answers)
            if answer is not None and _is_certified(answer, tolerance)
        ]
        reference = weights[min(certified)[1]] if certified else None
        for place, (attempt, answer) in enumerate(zip(attempts, answers, strict=True)):
            outcomes[place].append(
                Outcome(
                    gramian=group.labels[index],
                    microseconds=_microseconds(attempt, index),
                    kkt_residual=math.nan if answer is None else answer.kkt_residual,
                    direction_error=direction_error(gramian, weights[place], reference),
                    reason=attempt.stopped
                    if answer is None
                    else _failure(answer, infeasible, bool(certified), tolerance),
                )
            )
    return _with_ratios(
        [
            Row(attempt.solver, group.name, group.size, tuple(found), math.nan)
            for attempt, found in zip(attempts, outcomes, strict=True)
        ]
    )


def direction_error(gramian: FloatArray, weights: FloatArray | None, reference: FloatArray | None) -> float:
    """Compute ‖Jᵀw − Jᵀw*‖ / ‖Jᵀw*‖ from the Gramian alone.

    Parameters
    ----------
    gramian : float64 array, shape (K, K)
        G = JJᵀ.
    weights, reference : float64 array, shape (K,), or None
        w and w*.

    Returns
    -------
    float
        NaN if either is None.

    Notes
    -----
    The rounding of G hides distances below √ε · Σ|w_i|‖g_i‖, about 1e-8 of the terms that are summed,
    wherever w and w* differ along a null direction of G. The same length bounds the denominator from
    below, so that a direction of length zero has an error too.
    """
    if weights is None or reference is None:
        return math.nan
    difference = weights - reference
    norms = np.sqrt(np.diagonal(gramian))
    distance = math.sqrt(max(float(difference @ gramian @ difference), 0.0))
    length = math.sqrt(max(float(reference @ gramian @ reference), 0.0))
    floor = math.sqrt(np.finfo(np.float64).eps) * float(np.abs(reference) @ norms)
    if distance == 0:
        return 0.0
    return distance / max(length, floor) if max(length, floor) > 0 else math.inf


def _weights(answer: Answer | None) -> FloatArray | None:
    """Return an answer's weights; None if it has no solution."""
    return None if answer is None or math.isnan(answer.kkt_residual) else answer.weights


def _is_certified(answer: Answer, tolerance: float) -> bool:
    """Whether the answer is a solution to the tolerance, and its solver says so too."""
    return answer.status == Status.OPTIMAL and answer.kkt_residual <= tolerance


def _failure(answer: Answer, infeasible: bool, solvable: bool, tolerance: float) -> str:
    """Say why an answer counts as failed; empty if it doesn't."""
    if answer.error:
        return answer.error
    if answer.status == Status.INFEASIBLE:
        if infeasible:
            return ""
        return "INFEASIBLE, but others solved it" if solvable else "INFEASIBLE, without proof"
    if answer.status != Status.OPTIMAL:
        return answer.status.name
    return "" if _is_certified(answer, tolerance) else f"KKT residual over {tolerance:g}"


def _microseconds(attempt: Attempt, index: int) -> float:
    """Return the median over the timing passes, or the first pass's time if there was no other."""
    if attempt.times.get(index):
        return median(attempt.times[index])
    return attempt.answers[index].microseconds if index in attempt.answers else math.nan


def _with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Fill in each row's time relative to the fastest."""
    solved_all = [row.median_us for row in rows if row.solved == row.problems]
    solved_any = [row.median_us for row in rows if row.solved]
    fastest = min(solved_all or solved_any, default=math.nan)
    return [Row(row.solver, row.group, row.size, row.outcomes, row.median_us / fastest) for row in rows]
