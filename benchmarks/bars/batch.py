"""Batches: against copying the same bytes where the work is little, against a loop where it is more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gramians
import numpy as np
from figures import Figure, Settings, Task, at_least, at_most
from gramians import FloatArray
from peers import SOLVERS, has_solved, normalised
from timing import interleaved

import mojd

PAIRS, OCTETS = 10**6, 10**5
COPIES = 4.0
FASTER = 10.0
# How many problems of a loop are timed; the others would take as long.
LOOPED = 200


def tasks(settings: Settings) -> list[Task]:
    """List what to measure: pairs, triples and octets, random and recorded."""
    cases = [(size, origin) for size in (2, 3) for origin in ("random", "recorded")]
    found = [
        Task(f"a batch of 10⁶, K = {size}, {origin}", partial(_against_copying, size, origin, settings))
        for size, origin in cases
    ]
    found += [
        Task(f"a batch of 10⁵, K = 8, {origin}", partial(_against_a_loop, origin, settings))
        for origin in ("random", "recorded")
    ]
    return found


def _stack(size: int, origin: str, count: int, settings: Settings) -> FloatArray:
    count = count // 100 if settings.quick else count
    if origin == "random":
        return gramians.random(size, count)
    return gramians.tiled(gramians.recorded(size), count)


def _copies(arrays: tuple[FloatArray, ...]) -> Callable[[], object]:
    """Return a call that copies arrays to new memory."""
    return lambda: [array.copy() for array in arrays]


def _overwrites(arrays: tuple[FloatArray, ...]) -> Callable[[], object]:
    """Return a call that copies arrays to memory that is there: what no function that returns can do."""
    targets = [array.copy() for array in arrays]

    def call() -> None:
        for target, array in zip(targets, arrays, strict=True):
            np.copyto(target, array)

    return call


def _against_copying(size: int, origin: str, settings: Settings) -> list[Figure]:
    stack = _stack(size, origin, PAIRS, settings)
    linear = np.ascontiguousarray(stack[:, 0])
    problem, weights = mojd.NNQP(stack, linear), np.empty_like(linear)
    subjects: dict[str, tuple[Callable[[], object], tuple[FloatArray, ...]]] = {
        "upgrad": (partial(mojd.upgrad, stack), (stack, weights)),
        "pcd": (partial(mojd.pcd, stack), (stack, weights)),
        "solve": (partial(mojd.solve, problem), (stack, linear, weights)),
    }
    figures = []
    for name, (call, arrays) in subjects.items():
        calls = {"mojd": call, "copy": _copies(arrays), "overwrite": _overwrites(arrays)}
        seconds = interleaved(calls, settings.seconds, settings.least)
        figures.append(
            Figure(
                "batch",
                f"{len(stack):.0e} of K = {size}, {origin}",
                f"{name}: time over that of copying",
                seconds["mojd"] / seconds["copy"],
                "×",
                at_most(COPIES),
                {f"{key}_ms": 1e3 * value for key, value in seconds.items()},
            )
        )
    return figures


def _against_a_loop(origin: str, settings: Settings) -> list[Figure]:
    stack = _stack(8, origin, OCTETS, settings)
    problem = mojd.NNQP(stack, np.ascontiguousarray(stack[:, 0]))
    calls: dict[str, Callable[[], object]] = {"mojd": partial(mojd.solve, problem)}
    notes = []
    for name, prepare in SOLVERS.items():
        scaled = [normalised(gramian, gramian[0].copy()) for gramian in stack[:LOOPED]]
        loop = [prepare(*pair) for pair in scaled]
        failed = sum(not has_solved(call, *pair) for call, pair in zip(loop, scaled, strict=True))
        if failed:
            notes.append(f"{name} fails on {failed} of {LOOPED}")
        else:
            calls[name] = partial(_run, loop)
    seconds = interleaved(calls, settings.seconds, settings.least)
    share = len(stack) / LOOPED
    times = {name: value * (1.0 if name == "mojd" else share) for name, value in seconds.items()}
    fastest = min((value for name, value in times.items() if name != "mojd"), default=float("nan"))
    figure = Figure(
        "batch",
        f"{len(stack):.0e} of K = 8, {origin}",
        "solve: times faster than a loop over the fastest peer",
        fastest / times["mojd"],
        "×",
        at_least(FASTER),
        {f"{name}_ms": 1e3 * value for name, value in times.items()},
        "; ".join([f"the loops are timed on {LOOPED} problems", *notes]),
    )
    return [figure]


def _run(calls: list[Callable[[], FloatArray]]) -> None:
    for call in calls:
        call()
