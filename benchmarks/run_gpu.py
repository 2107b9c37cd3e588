"""Measure solver 'cuda' on this machine's GPU, against the bars that the project has set itself.

    python benchmarks/run_gpu.py [--only compile,bandwidth,latency,batches] [--json FILE] [--quick]

prints a line for every figure as it is found and a table at the end, and writes the figures as JSON after
every case, to benchmarks/results/gpu-NAME.json. It takes some minutes on an idle GPU, kernels being compiled
included, and needs nothing but mojd, PyTorch and CuPy; TorchJD is compared with if it is installed.
`--device cpu --quick` lets the CPU stand in for the GPU, to see that everything runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from figures import Figure, Settings, Task

RESULTS = Path(__file__).parent / "results"
# Read by the numerical libraries when they are loaded: the CPU's side of the comparison has one thread.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
SECTIONS = ("compile", "bandwidth", "latency", "batches")
VERDICTS = {None: "", True: "met", False: "missed"}


def say(text: str) -> None:
    """Tell how far it is, beside the figures."""
    print(text, file=sys.stderr, flush=True)


def row_of(figure: Figure) -> tuple[str, ...]:
    """Return the cells of a figure's line."""
    from figures import bar_text, three_digits, with_unit

    parts = [f"{name} {three_digits(value)}" for name, value in figure.details.items()]
    source = "; ".join(part for part in (", ".join(parts), figure.note) if part)
    value = with_unit(figure.value, figure.unit)
    return (figure.case, figure.name, value, bar_text(figure), VERDICTS[figure.met], source)


def table(found: Sequence[Figure]) -> str:
    """Return all figures as text, a section after the other, with its cells below each other."""
    lines = []
    for section in dict.fromkeys(figure.section for figure in found):
        rows = [row_of(figure) for figure in found if figure.section == section]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines.append(section)
        for row in rows:
            cells = [
                cell.rjust(width) if column == 2 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=False))
            ]
            lines.append("  ".join(["", *cells, row[5]]).rstrip())
        lines.append("")
    return "\n".join(lines)


def summary(found: Sequence[Figure]) -> str:
    """Say how many bars are met."""
    judged = [figure.met for figure in found if figure.met is not None]
    return f"{sum(judged)} of {len(judged)} bars met"


def measure(tasks: Sequence[Task], machine: Mapping[str, str], path: Path, quick: bool) -> list[Figure]:
    """Measure, and write what is known after each task: a run that is cut off leaves its figures behind."""
    from figures import to_json

    found: list[Figure] = []
    began = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(tasks, 1):
        say(f"[{number}/{len(tasks)}, {time.perf_counter() - began:.0f} s] {task.label}")
        for figure in task.measure():
            found.append(figure)
            say("    " + "  ".join(cell for cell in row_of(figure)[1:] if cell))
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(to_json(found, machine, quick) + "\n", encoding="utf-8")
        unfinished.replace(path)
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure solver 'cuda' on this machine's GPU.")
    parser.add_argument(
        "--only", metavar="NAME,…", default=",".join(SECTIONS), help=f"sections: {', '.join(SECTIONS)}"
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="where to write figures; default: by the GPU's name"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to repeat the calls of a case")
    parser.add_argument("--quick", action="store_true", help="see that all runs; the figures mean little")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="'cpu' stands in for a GPU, for tests"
    )
    options = parser.parse_args(arguments)
    options.only = [name.strip() for name in options.only.split(",")]
    unknown = [name for name in options.only if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    if options.device == "cpu" and not (options.quick and options.json):
        parser.error("--device cpu needs --quick and --json FILE: what it finds is nothing to keep")
    return options


def tasks_of(names: Sequence[str], device: str, settings: Settings) -> tuple[list[Task], dict[str, str]]:
    """Return what to measure, and on what; without a GPU, end with the reason."""
    from gpu import bandwidth, batches, compiling, latency, machine

    sections = {"compile": compiling, "bandwidth": bandwidth, "latency": latency, "batches": batches}
    subject = machine.machine_of(device)
    return [task for name in names for task in sections[name].tasks(subject, settings)], subject.describe()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse(arguments)
    os.environ.update(dict.fromkeys(THREADS, "1"))
    from figures import Settings
    from gpu.machine import slug

    quick = Settings(seconds=0.02, least=1, quick=True)
    settings = quick if options.quick else Settings(seconds=options.seconds, least=5)
    tasks, machine = tasks_of(options.only, options.device, settings)
    path: Path = options.json or RESULTS / f"gpu-{slug(machine)}.json"
    found = measure(tasks, machine, path, options.quick)
    print(table(found))
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{summary(found)}; figures in {path}")


if __name__ == "__main__":
    main()
