"""Draw a report as tables: one over everything, then one per group."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator

from mojd.compare.outcomes import SHIFT_US, UNAVAILABLE, Row, Summary
from mojd.compare.report import Report
from mojd.errors import MissingDependencyError

try:
    from rich import box
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"tables need {error.name}: pip install 'mojd[cli]'") from error

# The least width at which nothing but the reasons for failure is wrapped.
LEAST_WIDTH = 100


def as_text(report: Report, width: int) -> str:
    """Render a report without colours.

    Parameters
    ----------
    report : Report
        The report.
    width : int
        The width in characters.

    Returns
    -------
    str
        Lines of at most that width.
    """
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    print_report(report, console)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def print_report(report: Report, console: Console) -> None:
    """Print a report.

    Parameters
    ----------
    report : Report
        The report.
    console : rich.console.Console
        Where to.
    """
    for part in _parts(report):
        console.print(part, soft_wrap=False, highlight=False)


def three_digits(value: float) -> str:
    """Format a positive number with at least three digits, none of them after an exponent.

    Examples
    --------
    >>> [three_digits(value) for value in (1.0, 56.78, 4321.0, 1234567.0, float("nan"))]
    ['1.00', '56.8', '4,321', '1,234,567', '-']
    """
    if math.isnan(value):
        return "-"
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def _parts(report: Report) -> Iterator[RenderableType]:
    """Yield what is printed, from top to bottom."""
    if not report.rows:
        yield Text("Interrupted before the first group was finished.", style="bold red")
        return
    groups = report.groups
    yield Text(
        f"{report.method}: {_count(report.problems, 'Gramian')} in {_count(len(groups), 'group')}; "
        f"solved means scale-free KKT residual ≤ {report.tolerance:g}",
        style="bold",
    )
    if report.interrupted:
        yield Text("Interrupted: these are the groups that were finished by then.", style="bold red")
    yield _summary_table(report)
    for name, rows in groups.items():
        size = "" if name == f"K = {rows[0].size}" else f" (K = {rows[0].size})"
        yield Text(f"\n{name}{size}: {_count(rows[0].problems, 'Gramian')}", style="bold")
        yield _group_table(rows)
    yield _legend(report)


def _summary_table(report: Report) -> Table:
    table = _table("mean µs")
    for entry in report.summary():
        notes = _failures(entry)
        if entry.problems < report.problems:
            notes = [f"takes {entry.problems} of the {report.problems}", *notes]
        _add(table, entry, three_digits(entry.shifted_geometric_mean_us), notes)
    return table


def _group_table(rows: Iterable[Row]) -> Table:
    table = _table()
    for row in rows:
        if not all(outcome.reason.startswith(UNAVAILABLE) for outcome in row.outcomes):
            _add(table, row, None, _failures(row))
    return table


def _table(*extra: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("solver", no_wrap=True)
    for title in ("solved", "worst KKT", "worst Δd", "median µs", *extra, "ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("failures", overflow="fold")
    return table


def _add(table: Table, entry: Row | Summary, mean: str | None, notes: list[str]) -> None:
    """Add a line, coloured by how much was solved."""
    colour = "green" if entry.solved == entry.problems else "yellow" if entry.solved else "red"
    table.add_row(
        entry.solver,
        Text(f"{entry.solved}/{entry.problems}", style=colour),
        _error(entry.worst_kkt_residual),
        _error(entry.worst_direction_error),
        three_digits(entry.median_us),
        *(() if mean is None else (mean,)),
        "-" if math.isnan(entry.ratio) else f"{three_digits(entry.ratio)}×",
        Text("\n".join(notes)),
    )


def _failures(entry: Row | Summary) -> list[str]:
    """Return each reason for failure with its count, or alone if it holds for all Gramians."""
    return [reason if count == entry.problems else f"{count} × {reason}" for count, reason in entry.failures]


def _error(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1e}" if value else "0"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _legend(report: Report) -> Text:
    call = "all K right-hand sides" if report.method == "upgrad" else "one right-hand side"
    lines = (
        "",
        "worst KKT  largest scale-free KKT residual of a solution; mojd computes it, not the solver",
        "worst Δd   largest ‖d − d*‖ / ‖d*‖, d* the direction with the smallest KKT residual of all",
        f"median µs  one call for {call}, one thread; over the Gramians that were solved",
        f"mean µs    shifted geometric mean of all: shift {SHIFT_US:g} µs, failure {report.time_limit:g} s",
        "ratio      to the fastest: of the means in the first table, of the medians in the others",
        "limits     for one solver on one group; untried at a K for which the last one was too slow",
        f"machine    {', '.join(report.machine.values())}",
    )
    return Text("\n".join(lines), style="dim")
