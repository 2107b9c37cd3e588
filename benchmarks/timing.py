"""Time several calls side by side: in turns, in one process, medians."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

# Fast calls are repeated for about this long before the clock is read again.
SAMPLE_S = 1e-4
# No call is sampled more often than this.
MOST = 101


def interleaved(
    calls: Mapping[Key, Callable[[], object]], seconds: float, least: int = 3
) -> dict[Key, float]:
    """Return the median wall-clock seconds of one run of each call.

    All calls take turns, so that a slow spell of the machine meets all of them alike. The first run of
    each, which may set things up, is left out unless it alone takes longer than all the time there is.

    Parameters
    ----------
    calls : mapping of key to callable
        What to time; each is called without arguments.
    seconds : float
        For how long to go on, all calls together.
    least : int
        How many samples to take of each call at the least.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        numbers, samples = {}, {}
        for key, call in calls.items():
            first = _sample(call, 1)
            repeated = first if first > SAMPLE_S else min(_sample(call, 1) for _ in range(3))
            numbers[key] = max(1, math.ceil(SAMPLE_S / max(repeated, 1e-9)))
            samples[key] = [first] if first > seconds else []
        began = time.perf_counter()
        for taken in range(MOST):
            if taken >= least and time.perf_counter() - began > seconds:
                break
            for key, call in calls.items():
                if len(samples[key]) < least or time.perf_counter() - began < seconds:
                    samples[key].append(_sample(call, numbers[key]))
        return {key: median(found) for key, found in samples.items()}
    finally:
        if collecting:
            gc.enable()


def _sample(call: Callable[[], object], number: int) -> float:
    """Return the mean time of `number` runs."""
    start = time.perf_counter_ns()
    for _ in range(number):
        call()
    return 1e-9 * (time.perf_counter_ns() - start) / number
