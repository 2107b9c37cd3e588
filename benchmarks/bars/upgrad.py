"""UPGrad against TorchJD's UPGradWeighting as it is shipped, and alone where that takes too long."""

from __future__ import annotations

from functools import partial

import gramians
from figures import Figure, Settings, Task, at_least, at_most
from gramians import FloatArray
from peers import torchjd_upgrad
from timing import interleaved

import mojd
from bars.ratios import times_faster

FASTER = {2: 25.0, 3: 25.0, 8: 25.0, 16: 25.0, 32: 25.0, 64: 40.0, 128: 40.0, 256: 80.0}
SECONDS = {512: 1.0, 1024: 12.0}


def tasks(settings: Settings) -> list[Task]:
    """List what to measure: random and recorded Gramians of every size with a bar."""
    found = []
    for size in FASTER:
        if settings.quick and size > 64:
            continue
        random = gramians.random(size, gramians.random_count(size))
        found.append(_task(f"K = {size}, random", random, settings))
        recorded = gramians.recorded(size)
        if len(recorded):
            found.append(_task(f"K = {size}, recorded", recorded, settings))
    if not settings.quick:
        found += [Task(f"upgrad, K = {size}", partial(_alone, size, settings)) for size in SECONDS]
    return found


def _task(case: str, stack: FloatArray, settings: Settings) -> Task:
    return Task(f"upgrad, {case}", partial(_compare, case, stack, settings))


def _compare(case: str, stack: FloatArray, settings: Settings) -> list[Figure]:
    found = times_faster(
        [partial(mojd.upgrad, gramian) for gramian in stack],
        [torchjd_upgrad(gramian) for gramian in stack],
        settings,
        "torchjd",
    )
    bar = at_least(FASTER[stack.shape[-1]])
    return [Figure("upgrad", case, "times faster than TorchJD", found.median, "×", bar, found.details)]


def _alone(size: int, settings: Settings) -> list[Figure]:
    gramian = gramians.random(size, 1)[0]
    seconds = interleaved({"mojd": partial(mojd.upgrad, gramian)}, settings.seconds, settings.least)["mojd"]
    bar = at_most(SECONDS[size])
    note = "no peer: general solvers take minutes"
    return [Figure("upgrad", f"K = {size}, random", "time", seconds, "s", bar, {}, note)]
