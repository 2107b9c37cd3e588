"""Draw a report: time against K, and accuracy against time."""

from __future__ import annotations

import math
from os import PathLike
from statistics import median
from typing import Any

from mojd.compare.outcomes import Row
from mojd.compare.report import Report
from mojd.errors import MissingDependencyError

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"plots need {error.name}: pip install 'mojd[cli]'") from error

# Solvers that come to share a colour differ in their markers: the lengths have no common divisor.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00"),
    *("#7F3C8D", "#8C6D31", "#7F7F7F", "#B2182B", "#66A61E", "#4B0082"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", ">")

# Residuals below this, and zero, are drawn here: they are nothing but rounding.
_LEAST_RESIDUAL = 1e-17


def draw(report: Report, path: str | PathLike[str]) -> None:
    """Draw a report into a file.

    Parameters
    ----------
    report : Report
        The report.
    path : path-like
        Where to write it, as PNG whatever its suffix.

    Raises
    ------
    OSError
        If it can't be written.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    time_axes, accuracy_axes = figure.subplots(1, 2)
    for place, entry in enumerate(entry for entry in report.summary() if not math.isnan(entry.median_us)):
        style: dict[str, Any] = {
            "color": _COLOURS[place % len(_COLOURS)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "markersize": 5,
            "linewidth": 1.3,
        }
        rows = [row for row in report.rows if row.solver == entry.solver]
        _draw_times(time_axes, rows, entry.solver, style)
        _draw_accuracy(accuracy_axes, rows, style)
    _label(time_axes, accuracy_axes, report)
    if time_axes.lines:
        figure.legend(loc="outside right center", frameon=False)
    figure.suptitle(f"{report.method} on {report.problems} Gramians, one thread")
    figure.savefig(path, dpi=150, format="png")


def _draw_times(axes: Axes, rows: list[Row], solver: str, style: dict[str, Any]) -> None:
    """Draw one solver's median time at each K; open markers where it failed on some Gramians."""
    sizes = sorted({row.size for row in rows if row.solved})
    times = []
    complete = []
    for size in sizes:
        same = [row for row in rows if row.size == size]
        times.append(median(o.microseconds for row in same for o in row.outcomes if o.solved))
        complete.append(all(row.solved == row.problems for row in same))
    axes.plot(sizes, times, label=solver, **style)
    holes = [(size, time) for size, time, whole in zip(sizes, times, complete, strict=True) if not whole]
    if holes:
        axes.plot(*zip(*holes, strict=True), linestyle="", zorder=3, **{**style, "markerfacecolor": "white"})


def _draw_accuracy(axes: Axes, rows: list[Row], style: dict[str, Any]) -> None:
    """Draw one solver's worst residual at each K against its median time there."""
    points = []
    for size in sorted({row.size for row in rows}):
        outcomes = [outcome for row in rows if row.size == size for outcome in row.outcomes]
        answered = [outcome for outcome in outcomes if not math.isnan(outcome.kkt_residual)]
        if answered:
            worst = max(outcome.kkt_residual for outcome in answered)
            points.append((median(o.microseconds for o in answered), max(worst, _LEAST_RESIDUAL)))
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _label(time_axes: Axes, accuracy_axes: Axes, report: Report) -> None:
    """Scale the axes, name them and mark the tolerance."""
    sizes = sorted({row.size for row in report.rows})
    time_axes.set(
        title="Time (open marker: failed on some Gramians)",
        xlabel="objectives K",
        ylabel="median µs per Gramian",
        xscale="log",
        yscale="log",
    )
    time_axes.set_xticks(sizes, [str(size) for size in sizes])
    time_axes.xaxis.set_minor_formatter(NullFormatter())
    accuracy_axes.set(
        title="Accuracy (one point per K, growing along the line)",
        xlabel="median µs per Gramian",
        ylabel="worst scale-free KKT residual",
        xscale="log",
        yscale="log",
    )
    accuracy_axes.axhline(report.tolerance, color="0.4", linewidth=1, linestyle="--")
    accuracy_axes.annotate(
        f"tolerance {report.tolerance:g}",
        (0, report.tolerance),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        color="0.4",
    )
    for axes in (time_axes, accuracy_axes):
        axes.grid(which="major", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
