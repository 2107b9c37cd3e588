"""What the benchmarks find: figures, each with its bar if it has one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("mojd", "numpy", "numba", "scipy", "torch", "torchjd", "quadprog", "daqp"),
    *("jax", "jaxlib", "qpax", "jaxnnls"),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach: at least, or at most, `limit`."""

    limit: float
    at_least: bool

    def is_met_by(self, value: float) -> bool:
        """Whether `value` reaches the bar; NaN does not."""
        return value >= self.limit if self.at_least else value <= self.limit


def at_least(limit: float) -> Bar:
    """Return the bar that is met from `limit` upwards."""
    return Bar(limit, at_least=True)


def at_most(limit: float) -> Bar:
    """Return the bar that is met from `limit` downwards."""
    return Bar(limit, at_least=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """Hold one measured figure.

    Attributes
    ----------
    section : str
        The name that ``--only`` knows it by.
    case : str
        What was measured: the problem, its size, where it is from.
    name : str
        What the figure is.
    value : float
        NaN if it could not be had; the note says why.
    unit : str
        '×', 's', 'MB', '%' or '' for a count.
    bar : Bar or None
        What it has to reach.
    details : mapping of str to float
        What it was computed from; the names end in their units.
    note : str
        What else to know.
    """

    section: str
    case: str
    name: str
    value: float
    unit: str
    bar: Bar | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without a bar."""
        return None if self.bar is None else self.bar.is_met_by(self.value)


@dataclass(frozen=True, slots=True)
class Settings:
    """Say how thorough to be.

    Attributes
    ----------
    seconds : float
        How long to repeat the calls of one case.
    least : int
        How often every call is timed at the least, however long it takes.
    quick : bool
        Whether to leave out what takes long, so as to see that everything runs.
    """

    seconds: float = 2.0
    least: int = 3
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """Measure something that takes a while, for the progress bar to name."""

    label: str
    measure: Callable[[], Iterable[Figure]]


def three_digits(value: float) -> str:
    """Write a number with three significant digits and without an exponent unless it is tiny.

    Examples
    --------
    >>> [three_digits(value) for value in (0.000123, 0.5, 12.345, 4321.0, 0.0, float("nan"))]
    ['1.23e-04', '0.500', '12.3', '4,321', '0', '-']
    """
    if math.isnan(value):
        return "-"
    if value == 0 or (value == int(value) and abs(value) < 1000):
        return str(int(value))
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def with_unit(value: float, unit: str) -> str:
    """Write a number and its unit: '12.3 ×', '4 %'."""
    return f"{three_digits(value)} {unit}".rstrip()


def bar_text(figure: Figure) -> str:
    """Write the bar of a figure: '≥ 25 ×'."""
    if figure.bar is None:
        return ""
    return f"{'≥' if figure.bar.at_least else '≤'} {with_unit(figure.bar.limit, figure.unit)}"


def describe_machine() -> dict[str, str]:
    """Describe what the figures are from, and how busy it is: one thread needs one idle core."""
    model = platform.processor() or platform.machine()
    description = Path("/proc/cpuinfo")
    if description.exists():
        lines = description.read_text(encoding="utf-8").splitlines()
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        model = next(named, model)
    machine = {
        "processor": model,
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            machine[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return machine


def to_json(figures: Sequence[Figure], machine: Mapping[str, str], quick: bool) -> str:
    """Write figures as JSON text, with null where there is no number."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    rows: list[dict[str, Any]] = []
    for figure in figures:
        row = dataclasses.asdict(figure)
        row["value"] = number(figure.value)
        row["details"] = {name: number(value) for name, value in figure.details.items()}
        row["met"] = figure.met
        rows.append(row)
    return json.dumps({"machine": machine, "quick": quick, "figures": rows}, indent=1, ensure_ascii=False)


def from_json(text: str) -> tuple[list[Figure], dict[str, str], bool]:
    """Read what :func:`to_json` wrote: the figures, the machine, and whether it was a quick run."""
    content = json.loads(text)
    figures = []
    for row in content["figures"]:
        bar = None if row["bar"] is None else Bar(**row["bar"])
        value = math.nan if row["value"] is None else row["value"]
        details = {name: math.nan if number is None else number for name, number in row["details"].items()}
        chosen = {name: row[name] for name in ("section", "case", "name", "unit", "note")}
        figures.append(Figure(**chosen, value=value, bar=bar, details=details))
    return figures, content["machine"], bool(content["quick"])
