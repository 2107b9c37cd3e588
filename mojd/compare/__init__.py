"""Compare QP backends on the same Gramians: speed and accuracy side by side.

Examples
--------
>>> from mojd.compare import compare, random_gramians
>>> report = compare(random_gramians([2], count=3), solvers=["closed_form"], repeats=1)
>>> [(row.solver, row.group, row.solved) for row in report.rows]
[('closed_form', 'K = 2', 3)]
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mojd.compare.outcomes import Outcome, Row, Summary
from mojd.compare.problems import By, make_groups, random_gramians
from mojd.compare.recording import load_gramians, recorded_gramians
from mojd.compare.report import Report
from mojd.compare.runner import Progress, run
from mojd.errors import InvalidInputError
from mojd.solvers import Solver, registered_solvers
from mojd.weightings import QuadraticWeighting, registered_programmes

__all__ = [
    "Interrupted",
    "Outcome",
    "Report",
    "Row",
    "Summary",
    "compare",
    "load_gramians",
    "random_gramians",
    "recorded_gramians",
]

# Together they keep a run of all solvers on the recorded Gramians well under a minute.
TIME_LIMIT_S = 1.2
REPEATS = 3


class Interrupted(KeyboardInterrupt):
    """Say that a comparison was stopped, and hold what it had found by then.

    Attributes
    ----------
    report : Report
        The groups that were finished.
    """

    def __init__(self, report: Report) -> None:
        super().__init__("the comparison was interrupted; the finished groups are in .report")
        self.report = report


def compare(
    gramians: Mapping[str, Any] | None = None,
    method: str = "upgrad",
    solvers: Sequence[str] | None = None,
    *,
    by: By = "k",
    tolerance: float = 1e-6,
    time_limit: float = TIME_LIMIT_S,
    repeats: int = REPEATS,
    progress: Progress | None = None,
) -> Report:
    """Compare solvers on Gramians: each in a process of its own, in turns, on one thread.

    Parameters
    ----------
    gramians : mapping of str to array, shape (N, K, K) or (K, K), optional
        Named groups of Gramians, each of one size; by default those recorded in the package.
    method : str, optional
        The weighting whose problems are solved: 'upgrad', 'dualproj', 'pcd' or 'mgda'. For 'upgrad',
        one call solves the K right-hand sides of a Gramian. Gramians named ``pcd-…`` are for 'pcd',
        all others for the rest, unless there is only the one kind.
    solvers : sequence of str, optional
        Names of registered solvers; by default all of them. One that isn't installed is a failure in
        the report.
    by : {'k', 'name'}, optional
        Whether a group is all Gramians of one size, or those of one name.
    tolerance : float, optional
        The largest scale-free KKT residual that counts as solved.
    time_limit : float, optional
        Seconds per solver and group. A call that is still running then is killed.
    repeats : int, optional
        How many timing passes to make over what was solved.
    progress : callable, optional
        Called with the number of cells done, the number of all cells, and a description.

    Returns
    -------
    Report
        Its rows, summary, tables, JSON and plot.

    Raises
    ------
    InvalidInputError
        If the method or a solver is unknown, a group isn't a stack of Gramians, or an option is out
        of its range.

    Notes
    -----
    What is timed is the solver's own function on arrays that are built and checked, the same for all:
    less than a call of :func:`mojd.upgrad` or :func:`mojd.solve` by what those do around it. It runs in
    a process whose OMP_NUM_THREADS and the like are 1. A solver of your own takes part if the module
    that defines its function registers it on import.
    """
    weighting = _choose_weighting(method)
    for name, value in (("tolerance", tolerance), ("time_limit", time_limit)):
        if not value > 0:
            raise InvalidInputError(f"{name}={value} must be greater than 0")
    if repeats < 0:
        raise InvalidInputError(f"repeats={repeats} must not be negative")
    if by not in ("k", "name"):
        raise InvalidInputError(f"by={by!r} is not known; choose 'k' or 'name'")
    chosen = _choose_solvers(solvers)
    groups = make_groups(recorded_gramians() if gramians is None else gramians, weighting, by)

    def report(interrupted: bool = False) -> Report:
        return Report(method, tolerance, time_limit, tuple(rows), _machine(), interrupted)

    rows: list[Row] = []
    try:
        for found in run(
            groups,
            weighting,
            chosen,
            tolerance=tolerance,
            time_limit=time_limit,
            repeats=repeats,
            progress=progress,
        ):
            rows += found
    except KeyboardInterrupt:
        raise Interrupted(report(interrupted=True)) from None
    if not rows:
        sizes = ", ".join(str(size) for size in sorted({group.size for group in groups}))
        names = ", ".join(solver.name for solver in chosen)
        raise InvalidInputError(f"none of the solvers {names} takes Gramians of K = {sizes}")
    return report()


def _choose_weighting(name: str) -> QuadraticWeighting:
    """Look up a weighting by name."""
    known = {weighting.name: weighting for weighting in registered_programmes()}
    if name not in known:
        raise InvalidInputError(f"method={name!r} is not known; choose one of: {', '.join(known)}")
    return known[name]


def _choose_solvers(names: Sequence[str] | None) -> list[Solver]:
    """Look up solvers by name, installed or not, each once."""
    known = {solver.name: solver for solver in registered_solvers()}
    if names is None:
        return list(known.values())
    for name in names:
        if name not in known:
            raise InvalidInputError(f"solver={name!r} is not known; choose from: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _machine() -> dict[str, str]:
    """Describe what the comparison ran on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": f"{os.cpu_count()} CPUs",
        "python": f"Python {platform.python_version()}",
        "numpy": f"NumPy {np.__version__}",
    }
