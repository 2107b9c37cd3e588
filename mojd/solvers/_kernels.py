"""The door to the compiled kernels: imported, and if need be compiled, on first use only."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

# Work space up to this K stays allocated between calls: some 300 kB per thread and K at most.
_KEPT_SIZE = 64


class Kernels(NamedTuple):
    """The compiled entry points, and the sizes of the work space they ask for."""

    solve_one: Callable[..., int]
    solve_many: Callable[..., None]
    upgrad_small: Callable[..., None]
    sum_projections: Callable[..., int]
    pcd_small: Callable[..., None]
    scalar_sizes: Callable[[int], tuple[int, int]]
    lane_sizes: Callable[[int, bool], tuple[int, int]]


@functools.cache
def kernels() -> Kernels:
    """Load the kernels; say so on a terminal if they have to be compiled first."""
    from mojd.kernels import drop_stale_cache

    if not drop_stale_cache() and sys.stderr.isatty():
        print("mojd: compiling its kernels, once after each installation (some 10 s)...", file=sys.stderr)
    from mojd.kernels import nnqp, pcd, upgrad, workspace

    return Kernels(
        nnqp.solve_one,
        nnqp.solve_many,
        upgrad.upgrad_small,
        upgrad.sum_projections,
        pcd.pcd_small,
        workspace.scalar_sizes,
        workspace.lane_sizes,
    )


class _Kept(threading.local):
    """The work space of each thread: kernels drop the GIL, so no two threads may share one."""

    def __init__(self) -> None:
        self.scalar: dict[int, tuple[Callable[..., int], Any, Any]] = {}
        self.lanes: dict[tuple[int, bool], tuple[Any, Any]] = {}
        self.projections: dict[int, tuple[Any, Any, Any]] = {}


_kept = _Kept()


def _allocate(sizes: tuple[int, int]) -> tuple[Any, Any]:
    return np.empty(sizes[0]), np.empty(sizes[1], dtype=np.int64)


def scalar_solver(K: int) -> tuple[Callable[..., int], Any, Any]:
    """Return the compiled solve_one, and this thread's work space for it."""
    solver = _kept.scalar.get(K)
    if solver is None:
        solver = (kernels().solve_one, *_allocate(kernels().scalar_sizes(K)))
        if K <= _KEPT_SIZE:
            _kept.scalar[K] = solver
    return solver


def lane_workspace(K: int, shared: bool) -> tuple[Any, Any]:
    """Return this thread's work space for the lanes."""
    space = _kept.lanes.get((K, shared))
    if space is None:
        space = _allocate(kernels().lane_sizes(K, shared))
        if K <= _KEPT_SIZE:
            _kept.lanes[K, shared] = space
    return space


def projection_workspace(K: int) -> tuple[Any, Any, Any]:
    """Return x (1, K, K), status and iterations (1, K) for the projections of one Gramian."""
    space = _kept.projections.get(K)
    if space is None:
        space = np.empty((1, K, K)), np.empty((1, K), dtype=np.int8), np.empty((1, K), dtype=np.int32)
        if K <= _KEPT_SIZE:
            _kept.projections[K] = space
    return space


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
