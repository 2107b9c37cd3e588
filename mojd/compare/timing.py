"""Time a call: alone if it is slow, many times over if it is fast."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar

T = TypeVar("T")

# A fast call is repeated for about this long and at most this often; the median of the single
# calls is kept, which the first one, on cold caches, doesn't move.
SLICE_S = 1e-3
MOST_CALLS = 101


def time_call(call: Callable[[], T]) -> tuple[T, float]:
    """Measure the wall-clock time of a call.

    Parameters
    ----------
    call : callable
        Called without arguments, at least once.

    Returns
    -------
    result
        What the first call returned.
    microseconds : float
        The median over the calls.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        result = call()
        durations = [time.perf_counter() - start]
        spent = durations[0]
        while spent < SLICE_S and len(durations) < MOST_CALLS:
            start = time.perf_counter()
            call()
            durations.append(time.perf_counter() - start)
            spent += durations[-1]
    finally:
        if collecting:
            gc.enable()
    return result, 1e6 * median(durations)
