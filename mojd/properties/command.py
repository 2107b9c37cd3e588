"""The command `mojd check`."""

from __future__ import annotations

import json as json_format
import os
import sys
from pathlib import Path
from typing import Annotated, cast

from mojd._terminal import STDOUT, check_folders, progress_bar, stdout_console
from mojd.errors import InvalidInputError, MissingDependencyError
from mojd.properties._registry import get_property
from mojd.properties._search import EXAMPLES
from mojd.properties._subject import Takes
from mojd.properties.findings import Finding
from mojd.properties.published import JACOBIAN_DESCENT, PRIORITIES, TABLE_1
from mojd.properties.report import Report
from mojd.properties.table import Bounds, Spec, check_table, method_names

try:
    import typer
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"the mojd command needs {error.name}: pip install 'mojd[cli]'") from error

_LEAST_WIDTH = 110
_COLOURS = {"✓": "green", "✗": "red", "–": "dim"}

# The backspace keeps the lines that follow it as they are.
CHECK_HELP = """Check which theoretical properties methods have.

For each property, look for a counterexample among Jacobians with duplicated, opposite, nearly
parallel, vanishing and stationary rows, and shrink what is found. Without arguments: the methods and
properties of Table 1 of the Jacobian-descent paper. A ✓ says that none was found, and is no proof.

A METHOD is the name of one of mojd's, or package.module:function of yours: from a Gramian (K, K) to
weights (K,), or from a Jacobian (K, n) to a direction (n,), on NumPy arrays or PyTorch tensors.

\b
Examples:
  mojd check
  mojd check upgrad pcd
  mojd check train.losses:my_weights --counterexamples
  mojd check train.losses:my_upgrad --like upgrad --property optimal,non_conflicting
  mojd check --all --markdown table.md

With --property, the exit status is 1 if one of the properties named fails or makes no sense.
"""


def check_command(
    methods: Annotated[
        list[str] | None,
        typer.Argument(metavar="METHOD", show_default=False, help="What to check."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of mojd's methods, all properties.")] = False,
    properties: Annotated[
        list[str] | None,
        typer.Option("--property", "-p", metavar="NAME,…", help="Only these.", show_default="all"),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Whose problem your function claims to solve, for `optimal`."),
    ] = None,
    takes: Annotated[
        str | None,
        typer.Option(metavar="gramian|jacobian", help="What your function takes.", show_default="tried out"),
    ] = None,
    examples: Annotated[
        int, typer.Option(metavar="N", min=1, help="Jacobians per method and property.")
    ] = EXAMPLES,
    k: Annotated[
        str | None,
        typer.Option("--k", metavar="N|N-N", help="Numbers of objectives.", show_default="1-6"),
    ] = None,
    n: Annotated[
        str | None,
        typer.Option("--n", metavar="N|N-N", help="Numbers of parameters.", show_default="1-6"),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="X", help="The largest violation that passes.", show_default="the property's"),
    ] = None,
    counterexamples: Annotated[
        bool, typer.Option("--counterexamples", "-c", help="Print each as Python that fails when it is run.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes that share the work.", show_default="cores"),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(metavar="[FILE]", help="Write all findings as JSON; without FILE to stdout instead."),
    ] = None,
    markdown: Annotated[
        str | None,
        typer.Option(metavar="[FILE]", help="Write the table as Markdown; without FILE to stdout instead."),
    ] = None,
) -> None:
    """Check methods as the options say, and print or write what was found."""
    if takes not in (None, "gramian", "jacobian"):
        raise InvalidInputError(f"--takes {takes!r} is neither 'gramian' nor 'jacobian'")
    for option, file in (("--json", json), ("--markdown", markdown)):
        if file is not None and (file in method_names() or ":" in file):
            raise InvalidInputError(
                f"{option} takes {file!r} for its file; put {option} last, or name a file"
            )
    if json == STDOUT and markdown == STDOUT:
        raise InvalidInputError("--json and --markdown can't both go to stdout: give one of them a file")
    check_folders(json, markdown)
    if not methods and (like or takes):
        raise InvalidInputError("--like and --takes are about a METHOD, and none is given")
    if every and methods:
        raise InvalidInputError("--all checks mojd's own methods; leave it out, or the METHOD")
    named = None if not properties else [name.strip() for text in properties for name in text.split(",")]
    specs = [Spec(text, cast("Takes | None", takes), like) for text in methods or []]
    names = named
    if every:
        specs = [Spec(name) for name in method_names()]
    elif not specs:
        specs = [Spec(name) for name in TABLE_1]
        names = names if names is not None else list(JACOBIAN_DESCENT)
    bounds = Bounds(_range(k, "--k"), _range(n, "--n"), tolerance)
    workers = processes or os.cpu_count() or 1
    with progress_bar() as progress:
        report = check_table(
            specs, names, examples=examples, bounds=bounds, processes=workers, progress=progress
        )
    _write(report, json, markdown, counterexamples)
    unchecked = methods and named and any(finding.holds is None for finding in report.findings)
    if report.disagreements or unchecked or (named and report.failures):
        raise typer.Exit(1)


def _range(text: str | None, option: str) -> tuple[int, int] | None:
    """Read '4' or '2-8'."""
    if text is None:
        return None
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise InvalidInputError(f"{option} {text!r} must be a number or a range such as 2-8") from None


def _write(report: Report, json: str | None, markdown: str | None, counterexamples: bool) -> None:
    """Write the report to everywhere that was asked for."""
    texts = {
        json: json_format.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n",
        markdown: report.to_markdown(),
    }
    try:
        for file, text in texts.items():
            if file == STDOUT:
                sys.stdout.write(text)
            elif file is not None:
                Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{error.filename}: {error.strerror}") from None
    if STDOUT not in texts:
        print_report(report, stdout_console(_LEAST_WIDTH), counterexamples)


def print_report(report: Report, console: Console, counterexamples: bool = False) -> None:
    """Print the tables of marks, what they rest on, and the counterexamples if wanted."""
    methods = list(dict.fromkeys(finding.method for finding in report.findings))
    names = list(dict.fromkeys(finding.property_name for finding in report.findings))
    if len(methods) == 1:
        _print_one(report, console)
    else:
        groups = dict.fromkeys(get_property(name).group for name in names)
        for group in groups:
            _print_marks(
                report, methods, [name for name in names if get_property(name).group == group], console
            )
    console.print(_summary(report), markup=False, highlight=False)
    if counterexamples:
        for finding in report.failures:
            console.print(
                f"\n# {finding.method} fails {finding.property_name}", markup=False, highlight=False
            )
            console.print(finding.assertion(), markup=False, highlight=False, soft_wrap=True)


def _print_one(report: Report, console: Console) -> None:
    """Print one method: a line per property, with its evidence."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(report.findings[0].method)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for finding in report.findings:
        table.add_row(finding.property_name, _styled(finding), Text(finding.evidence))
    console.print(table)


def _print_marks(report: Report, methods: list[str], names: list[str], console: Console) -> None:
    """Print a row per method and a column per property."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(get_property(name).title, justify="center")
    for method in methods:
        table.add_row(method, *(_styled(report[method, name]) for name in names))
    console.print(table)


def _styled(finding: Finding) -> Text:
    return Text(finding.mark, style=_COLOURS[finding.mark[0]])


def _summary(report: Report) -> str:
    """Say what the marks rest on, and how they compare with the papers."""
    held = [finding for finding in report.findings if finding.holds]
    lines = []
    if held:
        structures = {name for finding in held for name in finding.structures}
        least = min(finding.examples for finding in held)
        lines.append(
            f"✓ no counterexample among {least} examples or more each, of {len(structures)} structures: "
            f"{', '.join(sorted(structures))}"
        )
    if report.failures:
        lines.append("✗ a counterexample was found; --counterexamples prints it, --json has it")
    if any(finding.holds is None for finding in report.findings):
        lines.append("– the property makes no sense for the method")
    for columns, title in (
        (JACOBIAN_DESCENT, "Table 1 of arXiv 2406.16232"),
        (PRIORITIES, "arXiv 2606.29521"),
    ):
        compared = [f for f in report.findings if f.property_name in columns and f.published is not None]
        if compared:
            agreeing = sum(finding.agrees for finding in compared)
            lines.append(f"{title}: {agreeing} of {len(compared)} marks agree")
    lines += [f"! {f.method}, {f.property_name}: the paper says otherwise" for f in report.disagreements]
    return "\n".join(lines)
