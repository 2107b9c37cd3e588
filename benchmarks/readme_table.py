"""Put measured figures into the README and the documentation, between comments that mark their places.

    python benchmarks/readme_table.py [FILE] [--print]

reads what `benchmarks/run.py` wrote. A place whose figures the file lacks is left as it is.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from figures import Figure, bar_text, from_json, three_digits, with_unit

README = Path(__file__).parents[1] / "README.md"
COSTS = Path(__file__).parents[1] / "docs" / "torch" / "costs.md"
JAX_COSTS = Path(__file__).parents[1] / "docs" / "jax" / "costs.md"
LATEST = Path(__file__).parent / "results" / "latest.json"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fault_table(figures: Sequence[Figure]) -> str:
    """Show how far off TorchJD's directions are, Gramian by Gramian."""
    own = [figure for figure in figures if figure.section == "torchjd-fault"]

    def find(case: str, name: str) -> Figure | None:
        return next((figure for figure in own if (figure.case, figure.name) == (case, name)), None)

    rows = []
    for case in dict.fromkeys(figure.case for figure in own):
        error = find(case, "TorchJD: error of the direction")
        theirs = find(case, "TorchJD: gradients opposed")
        exact = find(case, "mojd: gradients opposed")
        if error is None or theirs is None or exact is None:
            continue
        count = int(error.details.get("K", 2))
        bound = error.details.get("certified_bound_%", math.nan)
        ours = "–" if math.isnan(bound) else f"< 1e{math.ceil(math.log10(bound))} %"
        shares = [f"{figure.value:.0f} of {count}" for figure in (theirs, exact)]
        rows.append([f"`{case}`", f"{error.value:.0f} %", shares[0], ours, shares[1]])
    head = ["Gramian", "TorchJD: error of d", "opposes", "mojd: error of d", "opposes"]
    if not rows:
        return ""
    every = "all recorded Gramians"
    theirs = find(every, "TorchJD: opposes some gradient on")
    exact = find(every, "mojd: opposes some gradient on")
    refused = find(every, "TorchJD without the ridge: raises on")
    if theirs is None or exact is None or refused is None:
        return table(head, rows)
    count = int(theirs.details["Gramians"])
    total = (
        f"Of all {count} recorded Gramians of equal losses, TorchJD opposes some gradient on "
        f"{theirs.value:.0f}, mojd on {f'{exact.value:.0f}' if exact.value else 'none'}. Without its ridge, "
        f"TorchJD raises on {refused.value:.0f}."
    )
    return f"{table(head, rows)}\n\n{total}"


def speed_table(figures: Sequence[Figure]) -> str:
    """Show by how much mojd is faster, size by size."""
    columns = (
        ("upgrad", "times faster than TorchJD"),
        ("pcd", "step: times faster than TorchJD"),
        ("single", "times faster than the fastest peer"),
    )
    cells: dict[tuple[int, str, str], Figure] = {}
    for figure in figures:
        place = re.fullmatch(r"K = (\d+), (random|recorded)", figure.case)
        if place and (figure.section, figure.name) in columns:
            cells[int(place[1]), figure.section, place[2]] = figure

    def ratio(size: int, section: str) -> str:
        found = [cells.get((size, section, origin)) for origin in ("random", "recorded")]
        return " / ".join("–" if figure is None else f"{three_digits(figure.value)} ×" for figure in found)

    def time(size: int) -> str:
        figure = cells.get((size, "upgrad", "random"))
        return "" if figure is None else f"{three_digits(figure.details['mojd_us'])} µs"

    rows = [
        [str(size), time(size), *(ratio(size, section) for section, _ in columns)]
        for size in sorted({size for size, _, _ in cells})
    ]
    head = [
        "K",
        "`upgrad`",
        "against TorchJD's",
        "`pcd` step against TorchJD's",
        "one QP against the fastest peer",
    ]
    return table(head, rows) if rows else ""


def other_table(figures: Sequence[Figure]) -> str:
    """Show what has no peer or needs no size: batches, large K, memory, start."""
    rows = [
        [f"{figure.name} ({figure.case})", with_unit(figure.value, figure.unit), bar_text(figure)]
        for figure in figures
        if figure.bar is not None
        and (figure.section in ("batch", "memory", "startup") or figure.name == "time")
    ]
    return table(["", "measured", "bar"], rows) if rows else ""


def _taken(details: Mapping[str, float], side: str, unit: str, plain: str) -> str:
    """Write what one side took and, where it is not the plain one, how many times that is."""
    value = details[f"{side}_{unit}"]
    text = f"{three_digits(value)} {unit}"
    if side == plain:
        return text
    return f"{text} ({three_digits(value / details[f'{plain}_{unit}'])} ×)"


def iwrm_table(figures: Sequence[Figure]) -> str:
    """Show what a step with one loss per example costs, in time and in memory."""
    rows = []
    for figure in figures:
        if figure.section != "torch-iwrm":
            continue
        unit = "ms" if "plain_ms" in figure.details else "MB"
        case = figure.case if unit == "ms" else f"{figure.case}: peak memory beyond the network"
        sides = (_taken(figure.details, side, unit, "plain") for side in ("plain", "mojd", "torchjd"))
        solve = figure.details.get("upgrad alone_ms")
        rows.append([case, *sides, "" if solve is None else f"{three_digits(solve)} ms", bar_text(figure)])
    head = ["", "plain SGD", "UPGrad, mojd", "UPGrad, TorchJD", "of it `mojd.upgrad`", "bar for mojd"]
    return table(head, rows) if rows else ""


def few_losses_table(figures: Sequence[Figure]) -> str:
    """Show what a step with a few losses costs beyond its backward passes."""
    own = [figure for figure in figures if figure.section == "torch-few-losses"]
    rows = []
    for case in dict.fromkeys(figure.case for figure in own):
        method = case.partition(",")[0]
        found = {figure.name.rpartition(": ")[2]: figure for figure in own if figure.case == case}
        parts, difference = found["parts of the step"], found["difference"]
        sides = ("passes", method, "torchjd_backward", "torchjd_mtl_backward")
        shares = (f"{three_digits(figure.value)} %" for figure in (parts, difference))
        taken = (_taken(difference.details, side, "ms", "passes") for side in sides)
        rows.append([case, *taken, *shares, bar_text(parts)])
    head = [
        *("", "forward and backward passes alone", "mojd"),
        *("UPGrad, TorchJD `backward`", "UPGrad, TorchJD `mtl_backward`"),
        *("beyond the passes, timed", "as a difference", "bar"),
    ]
    return table(head, rows) if rows else ""


def jax_table(figures: Sequence[Figure]) -> str:
    """Show what UPGrad takes in compiled programs of JAX, and how exact each side is."""
    own = [figure for figure in figures if figure.section == "jax-weightings"]
    rows = []
    for figure in own:
        if figure.name != "upgrad: times faster than qpax":
            continue
        sides = [
            _time_and_residual(figure.details, side)
            for side in ("mojd", "mojd in XLA", "qpax", "qpax to 1e-5", "jaxnnls")
        ]
        rows.append([figure.case, *sides, with_unit(figure.value, figure.unit), bar_text(figure)])
    head = [
        *("", "`mojd.jax.upgrad`", '`solver="xla"`', "qpax, just as exact", "qpax, as it comes", "jaxnnls"),
        *("qpax, just as exact, over mojd", "bar"),
    ]
    return table(head, rows) if rows else ""


def _time_and_residual(details: Mapping[str, float], side: str) -> str:
    """Write how long a side takes, in ms or µs, and its residual."""
    micro = details[f"{side}_us"]
    time = f"{three_digits(micro)} µs" if micro < 1e3 else f"{three_digits(1e-3 * micro)} ms"
    residual = details[f"{side}_residual"]
    return f"{time} ({'fails' if math.isnan(residual) else f'{residual:.0e}'})"


def place(file: Path, text: str, name: str, content: str) -> str:
    """Put content between ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    pattern = re.compile(rf"(<!-- {name}:begin.*?-->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{file} has no place marked {name!r}")
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)


# What goes where; tables that begin with the machine they are from are those of times.
PLACES: dict[Path, dict[str, Callable[[Sequence[Figure]], str]]] = {
    README: {"fault": fault_table, "speed": speed_table, "other": other_table},
    COSTS: {"iwrm": iwrm_table, "few-losses": few_losses_table},
    JAX_COSTS: {"jax": jax_table},
}
NAME_THE_MACHINE = ("speed", "iwrm", "few-losses", "jax")


def main() -> None:
    """Read the figures, and write or print the tables."""
    parser = argparse.ArgumentParser(
        description="Put measured figures into the README and the pages on costs."
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=LATEST, metavar="FILE", help="from run.py --json"
    )
    parser.add_argument("--print", action="store_true", help="print the tables, and write nothing")
    options = parser.parse_args()
    figures, machine, quick = from_json(options.file.read_text(encoding="utf-8"))
    if quick and not options.print:
        raise SystemExit(f"{options.file} is from a quick run, whose figures mean little")
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    for file, makers in PLACES.items():
        text = "" if options.print else file.read_text(encoding="utf-8")
        for name, make in makers.items():
            content = make(figures)
            if not content:
                continue
            if name in NAME_THE_MACHINE:
                content = f"One thread of: {about}.\n\n{content}"
            if options.print:
                sys.stdout.write(f"{content}\n\n")
            else:
                text = place(file, text, name, content)
        if not options.print:
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
