"""What solvers did: one outcome a Gramian, one row a group, one summary a solver, and their figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

# The shift keeps problems of a few microseconds, where all solvers are fast enough, from
# dominating the mean.
SHIFT_US = 10.0

# Reasons that concern the solver and not one problem start with this.
UNAVAILABLE = "cannot run here"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold what one solver did on one Gramian.

    Attributes
    ----------
    gramian : str
        Where the Gramian is from: its name and its place under that name.
    microseconds : float
        Median time of one call; NaN if no call finished.
    kkt_residual : float
        Largest scale-free KKT residual over the Gramian's right-hand sides, as
        :class:`mojd.Solution` computes it; NaN if there is no solution.
    direction_error : float
        ‖d − d*‖ / ‖d*‖, with d* the direction of the solution of smallest residual among all
        solvers; NaN if either is missing.
    reason : str
        Why it counts as failed; empty if solved.
    """

    gramian: str
    microseconds: float
    kkt_residual: float
    direction_error: float
    reason: str

    @property
    def solved(self) -> bool:
        """Whether the solution meets the tolerance, or the problem is rightly called infeasible."""
        return not self.reason


class _Figures:
    """The figures that rows and summaries share: counts, worst errors, times."""

    __slots__ = ()
    outcomes: tuple[Outcome, ...]

    @property
    def problems(self) -> int:
        """The number of Gramians tried."""
        return len(self.outcomes)

    @property
    def solved(self) -> int:
        """The number of Gramians solved to the tolerance."""
        return sum(outcome.solved for outcome in self.outcomes)

    @property
    def success_rate(self) -> float:
        """The share of Gramians solved, 0 to 1; NaN without any."""
        return self.solved / self.problems if self.problems else math.nan

    @property
    def worst_kkt_residual(self) -> float:
        """The largest scale-free KKT residual among the solutions, also those that miss the tolerance."""
        return _worst(outcome.kkt_residual for outcome in self.outcomes)

    @property
    def worst_direction_error(self) -> float:
        """The largest relative distance to the best certified direction."""
        return _worst(outcome.direction_error for outcome in self.outcomes)

    @property
    def median_us(self) -> float:
        """The median time of one call over the solved Gramians, in µs; NaN if none is solved."""
        times = [outcome.microseconds for outcome in self.outcomes if outcome.solved]
        return median(times) if times else math.nan

    @property
    def failures(self) -> tuple[tuple[int, str], ...]:
        """How often each reason for failure occurred, most frequent first."""
        counts = Counter(outcome.reason for outcome in self.outcomes if outcome.reason)
        return tuple((count, reason) for reason, count in counts.most_common())


@dataclass(frozen=True, slots=True)
class Row(_Figures):
    """Hold one cell of the comparison: one solver on one group of Gramians.

    Attributes
    ----------
    solver, group : str
        Their names.
    size : int
        K of every Gramian in the group.
    outcomes : tuple of Outcome
        One per Gramian, in the group's order.
    ratio : float
        `median_us` over that of the fastest solver that solved the whole group (of the fastest at
        all, if none did); NaN if nothing was solved.
    """

    solver: str
    group: str
    size: int
    outcomes: tuple[Outcome, ...]
    ratio: float


@dataclass(frozen=True, slots=True)
class Summary(_Figures):
    """Hold the figures of one solver over all groups.

    Attributes
    ----------
    solver : str
        Its name.
    outcomes : tuple of Outcome
        One per Gramian that the solver takes.
    shifted_geometric_mean_us : float
        exp(mean(log(t + s))) − s over all Gramians of the run, with s = ``SHIFT_US`` and failures
        charged the time limit; NaN for a solver that doesn't take every size in the run.
    ratio : float
        That mean over the smallest one of all solvers.
    """

    solver: str
    outcomes: tuple[Outcome, ...]
    shifted_geometric_mean_us: float
    ratio: float


def shifted_geometric_mean(times_us: Sequence[float], shift_us: float = SHIFT_US) -> float:
    """Compute exp(mean(log(t + s))) − s.

    Parameters
    ----------
    times_us : sequence of float
        Times t in µs, at least one.
    shift_us : float, optional
        The shift s in µs.

    Returns
    -------
    float
        The mean, in µs.

    Examples
    --------
    >>> round(shifted_geometric_mean([10.0, 70.0], shift_us=10.0), 9)
    30.0
    """
    return math.exp(sum(math.log(time + shift_us) for time in times_us) / len(times_us)) - shift_us


def _worst(values: Iterable[float]) -> float:
    """Return the largest value that isn't NaN; NaN if all are."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)
