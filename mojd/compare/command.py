"""The commands `mojd compare` and `mojd solvers`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

from mojd._terminal import STDOUT, check_folders, progress_bar, stdout_console
from mojd.compare import (
    REPEATS,
    TIME_LIMIT_S,
    Interrupted,
    Report,
    compare,
    load_gramians,
    random_gramians,
    recorded_gramians,
)
from mojd.compare.problems import By, FloatArray
from mojd.errors import InvalidInputError, MissingDependencyError
from mojd.solvers import registered_solvers

try:
    import typer
    from rich import box
    from rich.markup import escape
    from rich.table import Table
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"the mojd command needs {error.name}: pip install 'mojd[cli]'") from error

from mojd.compare.tables import LEAST_WIDTH, print_report

RANDOM_SIZES = (2, 3, 8, 32, 128)

# The backspace keeps the lines that follow it as they are.
COMPARE_HELP = """Compare QP solvers on the same Gramians.

Time and accuracy side by side, in tables: for all Gramians together, then for each K. Without
options: UPGrad on the Gramians that come with mojd, recorded from real training. Every solver runs
in a process of its own, on one thread, and mojd computes the residuals.

\b
Examples:
  mojd compare --plot compare.png
  mojd compare --method pcd --solvers closed_form,active_set,quadprog
  mojd compare --gramians run.npz --by name
  mojd compare --random --k 8,32,128 --json report.json
"""


def compare_command(
    method: Annotated[
        str,
        typer.Option("--method", "-m", metavar="NAME", help="The weighting: upgrad, dualproj, pcd or mgda."),
    ] = "upgrad",
    solvers: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Only these; `mojd solvers` lists them.", show_default="all"),
    ] = None,
    k: Annotated[
        str | None,
        typer.Option("--k", metavar="K,…", help="Only these numbers of objectives.", show_default="all"),
    ] = None,
    gramians: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Your own Gramians, (K, K) or (N, K, K), as mojd.record or numpy.savez write them.",
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Gramians of Gaussian Jacobians (K, 2K) instead, at each --k.")
    ] = False,
    count: Annotated[int, typer.Option(metavar="N", help="With --random: how many at each K.")] = 5,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="With --random: the seed.")] = 0,
    by: Annotated[
        str, typer.Option(metavar="k|name", help="A group is all Gramians of one K, or of one name.")
    ] = "k",
    tolerance: Annotated[
        float,
        typer.Option(metavar="X", help="The largest scale-free KKT residual that counts as solved."),
    ] = 1e-6,
    time_limit: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="For one solver on one group; what still runs then is killed."),
    ] = TIME_LIMIT_S,
    repeats: Annotated[
        int, typer.Option(metavar="N", help="Timing passes over each group, solvers taking turns.")
    ] = REPEATS,
    json: Annotated[
        str | None,
        typer.Option(metavar="[FILE]", help="Write all figures as JSON; without FILE to stdout, not tables."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Plot time against K, and accuracy against time.")
    ] = None,
) -> None:
    """Compare solvers as the options say, and print or write the report."""
    if random and gramians is not None:
        raise InvalidInputError("--random and --gramians exclude each other")
    check_folders(plot, json)
    if plot is not None:
        from mojd.compare import plots  # noqa: F401 (without matplotlib, say so before the run)

    sizes = None if k is None else _parse_sizes(k)
    chosen = (
        random_gramians(sizes or RANDOM_SIZES, count, seed) if random else _select(_load(gramians), sizes)
    )
    interrupted = False
    try:
        with progress_bar() as progress:
            report = compare(
                chosen,
                method,
                None if solvers is None else [name.strip() for name in solvers.split(",")],
                by=cast(By, by),
                tolerance=tolerance,
                time_limit=time_limit,
                repeats=repeats,
                progress=progress,
            )
    except Interrupted as stopped:
        report, interrupted = stopped.report, True
    _write(report, json, plot)
    if interrupted:
        raise typer.Exit(130)


def solvers_command() -> None:
    """List the solvers, and what is missing for those that can't run."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for title in ("solver", "available", "K"):
        table.add_column(title, no_wrap=True)
    table.add_column("", overflow="fold")
    for solver in registered_solvers():
        missing = solver.missing()
        available = f"[red]{escape(missing)}[/]" if missing else "[green]yes[/]"
        sizes = "any" if solver.max_size is None else f"≤ {solver.max_size}"
        table.add_row(solver.name, available, sizes, solver.summary)
    stdout_console(LEAST_WIDTH).print(table)


def _parse_sizes(text: str) -> list[int]:
    """Read the comma-separated sizes of --k."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInputError(
            f"--k {text!r} must be whole numbers separated by commas, such as 8,32"
        ) from None
    return list(dict.fromkeys(sizes))


def _load(path: Path | None) -> dict[str, FloatArray]:
    """Read the recorded Gramians, or the user's."""
    if path is None:
        return recorded_gramians()
    try:
        return load_gramians(path)
    except OSError as error:
        raise InvalidInputError(f"--gramians {path}: {error.strerror or error}") from None


def _select(gramians: dict[str, FloatArray], sizes: list[int] | None) -> dict[str, FloatArray]:
    """Keep the Gramians of the given sizes."""
    if sizes is None:
        return gramians
    selected = {name: values for name, values in gramians.items() if values.shape[-1] in sizes}
    if not selected:
        known = ", ".join(str(size) for size in sorted({values.shape[-1] for values in gramians.values()}))
        wanted = ", ".join(str(size) for size in sizes)
        raise InvalidInputError(
            f"--k {wanted}: there are Gramians of K = {known} only; --random makes others"
        )
    return selected


def _write(report: Report, json: str | None, plot: Path | None) -> None:
    """Write the report to everywhere that was asked for."""
    try:
        if json == STDOUT:
            sys.stdout.write(report.to_json() + "\n")
        else:
            print_report(report, stdout_console(LEAST_WIDTH))
            if json is not None:
                Path(json).write_text(report.to_json() + "\n", encoding="utf-8")
        if plot is not None:
            report.plot(plot)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InvalidInputError(f"{error.filename}: {error.strerror}") from None
