"""Measure mojd and its peers side by side, against the bars that the project has set itself.

    python benchmarks/run.py [--only upgrad,pcd,…] [--json FILE] [--quick]

prints a table and writes the figures as JSON. One thread everywhere; all that is compared runs in turns
in one process. It wants an otherwise idle machine and takes some minutes. `benchmarks/readme_table.py`
puts the result into the README.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from figures import Figure, Settings, Task

LATEST = Path(__file__).parent / "results" / "latest.json"
# Read by the numerical libraries when they are loaded, which is why those are imported later.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# A load above this before the start means that another program is using the machine.
BUSY = 0.5
# Each is a module of `bars`.
SECTIONS = (
    *("upgrad", "pcd", "single", "batch", "memory", "startup", "torchjd-fault"),
    *("torch-iwrm", "torch-few-losses", "jax-weightings"),
)


def use_one_thread() -> None:
    """Hold all numerical libraries to one thread, before any of them is loaded."""
    os.environ.update(dict.fromkeys(THREADS, "1"))
    import torch

    torch.set_num_threads(1)


def measure(names: list[str], settings: Settings, console: Console) -> list[Figure]:
    """Measure the named sections, with a progress bar."""
    modules = [importlib.import_module(f"bars.{name.replace('-', '_')}") for name in names]
    tasks: list[Task] = [task for module in modules for task in module.tasks(settings)]
    found: list[Figure] = []
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(tasks))
        for task in tasks:
            progress.update(bar, description=task.label)
            found += task.measure()
            progress.advance(bar)
    return found


def show(found: list[Figure], console: Console) -> None:
    """Print the figures, their bars and what they were computed from."""
    from figures import bar_text, three_digits, with_unit

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("case")
    table.add_column("figure")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("bar", justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("from", overflow="fold", style="dim")
    section = ""
    for figure in found:
        if figure.section != section:
            section = figure.section
            table.add_section()
            table.add_row(f"[bold]{section}")
        verdict = {None: "", True: "[green]met[/]", False: "[bold red]missed[/]"}[figure.met]
        parts = [f"{name} {three_digits(value)}" for name, value in figure.details.items()]
        value = with_unit(figure.value, figure.unit)
        source = "; ".join(part for part in (", ".join(parts), figure.note) if part)
        table.add_row(figure.case.replace("[", r"\["), figure.name, value, bar_text(figure), verdict, source)
    console.print(table)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Measure mojd and its peers side by side, one thread, against the project's bars.",
    )
    names = ", ".join(SECTIONS)
    parser.add_argument("--only", metavar="NAME,…", default=",".join(SECTIONS), help=f"sections: {names}")
    parser.add_argument("--json", metavar="FILE", type=Path, default=LATEST, help="where to write figures")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to repeat the calls of a case")
    parser.add_argument("--quick", action="store_true", help="see that all runs; the figures mean little")
    options = parser.parse_args(arguments)
    options.only = [name.strip() for name in options.only.split(",")]
    unknown = [name for name in options.only if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; choose from {names}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse(arguments)
    errors, console = Console(stderr=True), Console()
    if not console.is_terminal:
        console = Console(width=160)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY:
        errors.print(f"The machine is busy (load {load:.1f}): times will be too long.", style="yellow")
    use_one_thread()
    from figures import Settings, describe_machine, to_json

    machine = describe_machine()
    settings = (
        Settings(seconds=0.05, least=1, quick=True) if options.quick else Settings(seconds=options.seconds)
    )
    found = measure(options.only, settings, errors)
    show(found, console)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), style="dim")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(to_json(found, machine, options.quick) + "\n", encoding="utf-8")
    missed = sum(figure.met is False for figure in found)
    judged = sum(figure.met is not None for figure in found)
    console.print(f"{judged - missed} of {judged} bars met; figures in {options.json}")


if __name__ == "__main__":
    main()
