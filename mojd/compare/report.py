"""What a comparison found, as an object, JSON, text tables or a plot."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike

from mojd.compare.outcomes import SHIFT_US, UNAVAILABLE, Outcome, Row, Summary, shifted_geometric_mean


@dataclass(frozen=True, slots=True)
class Report:
    """Hold a comparison of solvers.

    Attributes
    ----------
    method : str
        The weighting whose problems were solved.
    tolerance : float
        The largest scale-free KKT residual that counts as solved.
    time_limit : float
        Seconds per cell, and what a failure is charged in the mean.
    rows : tuple of Row
        One per solver and group, group by group.
    machine : dict of str to str
        What it ran on.
    interrupted : bool
        Whether groups are missing because the run was stopped.
    """

    method: str
    tolerance: float
    time_limit: float
    rows: tuple[Row, ...]
    machine: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def groups(self) -> dict[str, tuple[Row, ...]]:
        """The rows of each group, solvers that solved most first, then the fastest."""
        names = dict.fromkeys(row.group for row in self.rows)
        return {
            name: tuple(sorted((row for row in self.rows if row.group == name), key=_rank_row))
            for name in names
        }

    @property
    def problems(self) -> int:
        """The number of different Gramians in the run."""
        return sum(rows[0].problems for rows in self.groups.values())

    def summary(self) -> tuple[Summary, ...]:
        """Summarise each solver over all groups, solvers that solved most first, then the fastest."""
        outcomes = {
            solver: tuple(outcome for row in self.rows if row.solver == solver for outcome in row.outcomes)
            for solver in dict.fromkeys(row.solver for row in self.rows)
        }
        means = {solver: self._mean(found) for solver, found in outcomes.items()}
        best = min((mean for mean in means.values() if not math.isnan(mean)), default=math.nan)
        summaries = (
            Summary(solver, found, means[solver], means[solver] / best) for solver, found in outcomes.items()
        )
        return tuple(sorted(summaries, key=_rank_summary))

    def to_json(self) -> str:
        """Write the report as JSON text, with null where there is no number.

        Returns
        -------
        str
            An object with the run's settings, ``summary`` (one object per solver) and ``rows`` (one
            per solver and group, each with its ``outcomes``).
        """
        content = {
            "method": self.method,
            "tolerance": self.tolerance,
            "time_limit_s": self.time_limit,
            "shift_us": SHIFT_US,
            "interrupted": self.interrupted,
            "machine": self.machine,
            "summary": [
                {
                    "solver": entry.solver,
                    **_figures(entry),
                    "shifted_geometric_mean_us": _number(entry.shifted_geometric_mean_us),
                    "ratio": _number(entry.ratio),
                }
                for entry in self.summary()
            ],
            "rows": [
                {
                    "solver": row.solver,
                    "group": row.group,
                    "size": row.size,
                    **_figures(row),
                    "ratio": _number(row.ratio),
                    "outcomes": [
                        {
                            name: _number(value) if isinstance(value, float) else value
                            for name, value in dataclasses.asdict(outcome).items()
                        }
                        for outcome in row.outcomes
                    ],
                }
                for row in self.rows
            ],
        }
        return json.dumps(content, indent=2, allow_nan=False)

    def table(self, width: int = 100) -> str:
        """Draw the report as plain text tables: all groups together, then each.

        Parameters
        ----------
        width : int, optional
            The width in characters.

        Returns
        -------
        str
            The text, without colours.

        Raises
        ------
        MissingDependencyError
            If rich isn't installed.
        """
        from mojd.compare.tables import as_text

        return as_text(self, width)

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw time against K and accuracy against time into a PNG file.

        Parameters
        ----------
        path : path-like
            Where to write it.

        Raises
        ------
        MissingDependencyError
            If matplotlib isn't installed.
        """
        from mojd.compare.plots import draw

        draw(self, path)

    def _mean(self, outcomes: Sequence[Outcome]) -> float:
        """Average one solver's times, failures charged the time limit; NaN for what didn't compete."""
        absent = all(outcome.reason.startswith(UNAVAILABLE) for outcome in outcomes)
        if absent or len(outcomes) < self.problems:
            return math.nan
        limit_us = 1e6 * self.time_limit
        return shifted_geometric_mean([o.microseconds if o.solved else limit_us for o in outcomes])


def _number(value: float) -> float | None:
    """Return the value as JSON can hold it."""
    return value if math.isfinite(value) else None


def _figures(entry: Row | Summary) -> dict[str, object]:
    """Return the shared figures of a row or a summary as JSON can hold them."""
    return {
        "problems": entry.problems,
        "solved": entry.solved,
        "success_rate": _number(entry.success_rate),
        "worst_kkt_residual": _number(entry.worst_kkt_residual),
        "worst_direction_error": _number(entry.worst_direction_error),
        "median_us": _number(entry.median_us),
        "failures": [{"count": count, "reason": reason} for count, reason in entry.failures],
    }


def _or_last(value: float) -> float:
    """Return a sort key that puts NaN last."""
    return math.inf if math.isnan(value) else value


def _rank_row(row: Row) -> tuple[float, float]:
    """Order by problems solved, then by time."""
    return -row.solved, _or_last(row.median_us)


def _rank_summary(entry: Summary) -> tuple[bool, float, float]:
    """Order solvers that take every problem first, then by problems solved, then by time."""
    return (
        math.isnan(entry.shifted_geometric_mean_us),
        -entry.solved,
        _or_last(entry.shifted_geometric_mean_us),
    )
