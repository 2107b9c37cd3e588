"""What the first use of each kernel costs. It comes first, so that all that follows finds them compiled."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median

from figures import Figure, Settings, Task

from gpu.machine import Gpu, Machine

# Each process has a context on the GPU, which takes some of its memory.
MOST_PROCESSES = 8


def tasks(machine: Machine, settings: Settings) -> list[Task]:
    """Compile all kernels, where there is a GPU to compile for."""
    del settings
    if not isinstance(machine, Gpu):
        return []
    return [Task("compile all kernels", partial(_measure, machine))]


def seconds_of(name: str, index: int) -> float:
    """Return how long it takes to get a kernel, from CuPy's cache or the compiler."""
    import cupy

    from mojd.solvers._cuda.libraries import _kernel

    with cupy.cuda.Device(index):
        cupy.cuda.runtime.free(0)
        start = time.perf_counter()
        _kernel(name, index)
        return time.perf_counter() - start


def _measure(machine: Machine) -> list[Figure]:
    from mojd.solvers._cuda.source import names

    known = sorted(names(), key=lambda name: "_tiles" not in name)
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        taken = list(pool.map(partial(seconds_of, index=machine.device.index or 0), known))
    return figures_of(dict(zip(known, taken, strict=True)), processes)


def figures_of(seconds: dict[str, float], processes: int) -> list[Figure]:
    """Say how long the slowest kernel took, and where it was one of many."""
    slowest = max(seconds, key=lambda name: seconds[name])
    note = f"{slowest}; in {processes} processes at once; kernels compiled before are from CuPy's cache"
    return [
        Figure(
            "compile",
            f"{len(seconds)} kernels",
            "slowest kernel",
            seconds[slowest],
            "s",
            None,
            {"median_s": median(seconds.values()), "total_s": sum(seconds.values())},
            note,
        )
    ]
