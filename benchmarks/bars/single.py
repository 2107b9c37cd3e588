"""One right-hand side: mojd.solve on a problem that is built, against raw quadprog, DAQP and SciPy's nnls.

The problem is the projection of the first gradient, q = G·e₀, which every method solves many of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

import gramians
from figures import Figure, Settings, Task, at_least
from gramians import FloatArray
from peers import SOLVERS, Solve, has_solved, normalised
from timing import interleaved

import mojd

SIZES = (2, 3, 4, 8, 16, 32, 64, 128)
FASTER = 3.0


def tasks(settings: Settings) -> list[Task]:
    """List what to measure: random and recorded Gramians of every size."""
    found = []
    for size in SIZES:
        found.append(_task(f"K = {size}, random", gramians.random(size, 8), settings))
        recorded = gramians.recorded(size)
        if len(recorded):
            found.append(_task(f"K = {size}, recorded", recorded, settings))
    return found


def _task(case: str, stack: FloatArray, settings: Settings) -> Task:
    return Task(f"one right-hand side, {case}", partial(_compare, case, stack, settings))


def _compare(case: str, stack: FloatArray, settings: Settings) -> list[Figure]:
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    failures = dict.fromkeys(SOLVERS, 0)
    for index, gramian in enumerate(stack):
        linear = gramian[0].copy()
        calls["mojd", index] = partial(mojd.solve, mojd.NNQP(gramian, linear))
        scaled = normalised(gramian, linear)
        for name, prepare in SOLVERS.items():
            call: Solve = prepare(*scaled)
            if has_solved(call, *scaled):
                calls[name, index] = call
            else:
                failures[name] += 1
    seconds = interleaved(calls, settings.seconds, settings.least)
    ratios, details = [], {}
    for index in range(len(stack)):
        peers = [seconds[name, index] for name in SOLVERS if (name, index) in seconds]
        if peers:
            ratios.append(min(peers) / seconds["mojd", index])
    for name in ("mojd", *SOLVERS):
        times = [seconds[name, index] for index in range(len(stack)) if (name, index) in seconds]
        if times:
            details[f"{name}_us"] = 1e6 * median(times)
    details["worst_ratio"] = min(ratios)
    note = "; ".join(f"{name} fails on {count} of {len(stack)}" for name, count in failures.items() if count)
    name, bar = "times faster than the fastest peer", at_least(FASTER)
    return [Figure("single", case, name, median(ratios), "×", bar, details, note)]
