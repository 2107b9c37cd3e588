"""UPGrad in programs of JAX against qpax and jaxnnls, JAX's own QP solvers, mapped over K programmes.

qpax is timed to the accuracy of mojd, with just as many iterations as that takes; its time at the
tolerance that it comes with is among the details.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import gramians
from children import run_python
from figures import Bar, Figure, Settings, Task, at_least, at_most

SECTION = "jax-weightings"
FASTER = {8: 5.0, 32: 20.0, 128: 40.0}
FASTER_IN_BATCHES = {3: 50.0, 8: 10.0}
BATCH = 10**4
RESIDUAL, SINGLE_RESIDUAL = 1e-12, 1e-6
SIDES = ("mojd", "mojd in XLA", "qpax", "qpax to 1e-5", "jaxnnls")

# One thread, and one core: XLA sizes its pools of threads by the cores that it may run on.
CODE = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
sys.path.insert(0, sys.argv[1])
from jax_sides import main
main(sys.argv[2])
"""


def tasks(settings: Settings) -> list[Task]:
    """List what to measure: single Gramians of three sizes and batches of two, random and recorded."""
    found = []
    count = BATCH // 100 if settings.quick else BATCH
    singles = [size for size in FASTER if not (settings.quick and size > 32)]
    cases = [(size, 0, FASTER[size]) for size in singles]
    cases += [(size, count, faster) for size, faster in FASTER_IN_BATCHES.items()]
    for size, mapped, faster in cases:
        for origin in ("random", "recorded"):
            if origin == "recorded" and not len(gramians.recorded(size)):
                continue
            text = f"K = {size}, {origin}" if not mapped else f"{mapped:.0e} of K = {size}, {origin}"
            run = partial(_compare, text, (size, origin, mapped), at_least(faster), settings)
            found.append(Task(f"JAX, {text}", run))
    return found


def _compare(text: str, case: tuple[int, str, int], bar: Bar, settings: Settings) -> list[Figure]:
    given = dict(zip(("size", "origin", "count"), case, strict=True))
    given |= {"seconds": settings.seconds, "least": settings.least}
    found = json.loads(run_python(CODE, str(Path(__file__).parents[1]), json.dumps(given)))
    return [_speed(text, found, bar), *_residuals(text, found)]


def _speed(text: str, found: dict[str, Any], bar: Bar) -> Figure:
    seconds, residual = found["seconds"], found["residual"]
    ratios = [theirs / ours for theirs, ours in zip(seconds["qpax"], seconds["mojd"], strict=True)]
    details = {f"{side}_us": 1e6 * median(seconds[side]) for side in SIDES}
    details |= {f"{side}_residual": residual[side] for side in SIDES}
    return Figure(SECTION, text, "upgrad: times faster than qpax", median(ratios), "×", bar, details)


def _residuals(text: str, found: dict[str, Any]) -> list[Figure]:
    residual, details = found["residual"], {"Gramians": found["gramians"]}
    return [
        Figure(SECTION, text, f"residual, {side}{kind}", residual[side + kind], "", at_most(limit), details)
        for side in ("mojd", "mojd in XLA")
        for kind, limit in (("", RESIDUAL), (", float32", SINGLE_RESIDUAL))
    ]
