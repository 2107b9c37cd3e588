"""The door to the compiled kernels: each is imported, and if need be compiled, when it is first used."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np

from mojd._arrays import FloatArray
from mojd.solvers._registry import RawSolution

# Work space up to this K stays allocated between calls: some 300 kB per thread and K at most.
_KEPT_SIZE = 64


@functools.cache
def _drop_stale_cache() -> None:
    from mojd.kernels import drop_stale_cache

    drop_stale_cache()


def _compiled(module: str, name: str) -> Any:
    """Return an entry point, compiled or loaded from the cache."""
    from mojd.kernels import is_cached

    _drop_stale_cache()
    if sys.stderr.isatty() and not is_cached(module, name):
        print(f"mojd: compiling {name}, once after each installation...", file=sys.stderr)
    return getattr(importlib.import_module(f"mojd.kernels.{module}"), name)


def _load(module: str, name: str) -> Callable[..., Any]:
    """Return the machine code of an entry point.

    It is called directly, without numba's dispatch on the types of arguments, which costs as much as
    a small problem: callers must pass exactly what the entry point's signature says.
    """
    (compiled,) = _compiled(module, name).overloads.values()
    code: Callable[..., Any] = compiled.entry_point
    return code


def handler_address() -> int:
    """Return where the machine code of :func:`mojd.kernels.xla_handler.solve_nnqp` is."""
    return int(_compiled("xla_handler", "solve_nnqp").address)


class Kernels:
    """The compiled entry points."""

    @functools.cached_property
    def solve_one(self) -> Callable[..., int]:
        """See :func:`mojd.kernels.nnqp.solve_one`."""
        return _load("nnqp", "solve_one")

    @functools.cached_property
    def solve_many(self) -> Callable[..., int]:
        """See :func:`mojd.kernels.batch.solve_many`."""
        return _load("batch", "solve_many")

    @functools.cached_property
    def upgrad_small(self) -> Callable[..., int]:
        """See :func:`mojd.kernels.upgrad.upgrad_small`."""
        return _load("upgrad", "upgrad_small")

    @functools.cached_property
    def pcd_small(self) -> Callable[..., int]:
        """See :func:`mojd.kernels.pcd.pcd_small`."""
        return _load("pcd", "pcd_small")

    @functools.cached_property
    def update_scales(self) -> Callable[..., bool]:
        """See :func:`mojd.kernels.normaliser.update_scales`."""
        return _load("normaliser", "update_scales")


kernels = Kernels()


class _Kept(threading.local):
    """The work space of each thread: kernels drop the GIL, so no two threads may share one."""

    def __init__(self) -> None:
        self.spaces: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.scalar: dict[int, tuple[Callable[..., int], Any, Any]] = {}


_kept = _Kept()


def _zeros(count: int) -> FloatArray:
    """Return zeros that begin at a cache line."""
    array = np.zeros(count + 8)
    return array[-(array.ctypes.data // 8) % 8 :][:count]


def _sizes(name: str, K: int) -> Any:
    from mojd.kernels import workspace

    return getattr(workspace, name)(K)


def handler_sizes(K: int) -> tuple[int, int]:
    """Return the floats and integers that :func:`mojd.kernels.xla_handler.solve_nnqp` needs."""
    sizes = _sizes("batch_sizes", K), _sizes("scalar_sizes", K)
    return max(floats for floats, _ in sizes), max(integers for _, integers in sizes)


def _workspace(name: str, make: Callable[[int], tuple[Any, ...]], K: int) -> tuple[Any, ...]:
    """Return this thread's work space of a kind."""
    space = _kept.spaces.get((name, K))
    if space is None:
        space = make(K)
        if K <= _KEPT_SIZE:
            _kept.spaces[name, K] = space
    return space


def scalar_solver(K: int) -> tuple[Callable[..., int], Any, Any]:
    """Return the compiled solve_one, and this thread's work space for it."""
    solver = _kept.scalar.get(K)
    if solver is None:
        floats, integers = _sizes("scalar_sizes", K)
        solver = kernels.solve_one, _zeros(floats), np.empty(integers, dtype=np.int64)
        if K <= _KEPT_SIZE:
            _kept.scalar[K] = solver
    return solver


def _make_batch(K: int) -> tuple[Any, ...]:
    floats, integers = _sizes("batch_sizes", K)
    return _zeros(floats), np.empty(integers, dtype=np.int64)


def batch_workspace(K: int) -> tuple[Any, ...]:
    """Return this thread's work space for :func:`mojd.kernels.batch.solve_many`."""
    return _workspace("batch", _make_batch, K)


def _make_upgrad(K: int) -> tuple[Any, ...]:
    codes, counts = np.empty(K, dtype=np.int8), np.empty(K, dtype=np.int32)
    space = np.empty((K, K)), codes, counts, _zeros(_sizes("tableau_size", K))
    return np.empty(1, dtype=np.int8), space


def upgrad_workspace(K: int) -> tuple[Any, ...]:
    """Return this thread's status of one, and work space for :func:`mojd.kernels.upgrad.upgrad_small`."""
    return _workspace("upgrad", _make_upgrad, K)


def _make_pcd(K: int) -> tuple[Any, ...]:
    space = np.empty(K * K + 2 * K), _zeros(_sizes("tableau_size", max(K - 1, 1)))
    return np.empty(1, dtype=np.int8), space


def pcd_workspace(K: int) -> tuple[Any, ...]:
    """Return this thread's status of one, and work space for :func:`mojd.kernels.pcd.pcd_small`."""
    return _workspace("pcd", _make_pcd, K)


def _make_projections(K: int) -> tuple[Any, ...]:
    codes, counts = np.empty((1, K), dtype=np.int8), np.empty((1, K), dtype=np.int32)
    return RawSolution(np.empty((1, K, K)), codes, counts)


def projection_workspace(K: int) -> RawSolution:
    """Return room for the K projections of one Gramian, this thread's own."""
    return cast("RawSolution", _workspace("projections", _make_projections, K))


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
