"""The door to the compiled kernels: imported, and if need be compiled, on first use only."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple


class Kernels(NamedTuple):
    """The compiled entry points."""

    solve_one: Callable[..., int]
    solve_many: Callable[..., None]
    upgrad_many: Callable[..., None]
    pcd_many: Callable[..., None]


@functools.cache
def kernels() -> Kernels:
    """Load the kernels; say so on a terminal if they have to be compiled first."""
    from mojd.kernels import drop_stale_cache

    if not drop_stale_cache() and sys.stderr.isatty():
        print("mojd: compiling its kernels, once after each installation (some 10 s)...", file=sys.stderr)
    from mojd.kernels import nnqp, pcd, upgrad

    return Kernels(
        nnqp.solve_one,
        nnqp.solve_many,
        upgrad.upgrad_many,
        pcd.pcd_many,
    )


def _spans(count: int, parts: int) -> Iterator[slice]:
    """Cut range(count) into at most `parts` slices of nearly equal length."""
    parts = max(1, min(parts, count))
    for i in range(parts):
        yield slice(count * i // parts, count * (i + 1) // parts)


def in_threads(task: Callable[[slice], Any], count: int, threads: int) -> None:
    """Run `task` on slices of range(count), one per thread; kernels release the GIL."""
    if threads == 1 or count <= 1:
        task(slice(0, count))
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(task, _spans(count, threads)):
            pass
