"""Many problems at once, against the solver on one thread of the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from figures import Figure, Settings, Task, at_least

import mojd
from gpu.answers import trusted, worst_of_solution, worst_of_weights
from gpu.machine import Machine, on_host

SIZES, COUNTS = (4, 8, 16, 32), (10**4, 10**5, 10**6)
BARS = {(16, 10**5): at_least(50.0)}
# How long the CPU may take over the sample that it solves, and how many problems that has at the most.
CPU_S, CPU_MOST = 0.3, 5000
# What a batch takes of the memory besides its Gramians, in units of them.
ROOM = 3
EACH = 8


class Rates(NamedTuple):
    """Problems per second, and how many of them the CPU solved."""

    gpu: float
    cpu: float
    sample: int


def tasks(machine: Machine, settings: Settings) -> list[Task]:
    """List sizes and numbers of problems."""
    counts = [count // 100 for count in COUNTS[:2]] if settings.quick else COUNTS
    return [
        Task(f"{count:.0e} of K = {size}", partial(_measure, machine, size, count, settings))
        for size in SIZES
        for count in counts
    ]


def _on_cpu(call: Callable[[int], object], most: int) -> tuple[float, int]:
    """Return how many problems one thread solves a second, and of how many that is known."""
    number = min(100, most)
    call(number)
    while True:
        start = time.perf_counter()
        call(number)
        seconds = time.perf_counter() - start
        if number == most or seconds > CPU_S / 3:
            return number / seconds, number
        number = min(most, max(2 * number, int(number * CPU_S / max(seconds, 1e-6))))


def _measure(machine: Machine, size: int, count: int, settings: Settings) -> list[Figure]:
    case = f"{count:.0e} of K = {size}, float64"
    if ROOM * EACH * count * size * size > machine.free_bytes():
        note = "the problems would not fit into the memory"
        return [Figure("batches", case, "solve: problems per second", float("nan"), "/s", None, {}, note)]
    gramian = machine.gramians(size, count, torch.float64)
    linear = machine.normal(count, size, dtype=torch.float64)
    problem = mojd.NNQP(gramian, linear)
    most = min(count, CPU_MOST)
    matrices, terms = on_host(gramian[:most]), on_host(linear[:most])
    gpu: dict[str, Callable[[], object]] = {
        "solve": partial(mojd.solve, problem),
        "upgrad": partial(mojd.upgrad, gramian),
    }
    cpu: dict[str, Callable[[int], object]] = {
        "solve": lambda number: mojd.solve(mojd.NNQP(matrices[:number], terms[:number])),
        "upgrad": lambda number: mojd.upgrad(matrices[:number]),
    }
    worst = {
        "solve": worst_of_solution(mojd.solve(problem)),
        "upgrad": worst_of_weights("upgrad", mojd.upgrad(gramian), gramian),
    }
    seconds = machine.latencies(gpu, settings.seconds, settings.least)
    found = []
    for name in gpu:
        rates = Rates(count / seconds[name].done, *_on_cpu(cpu[name], most))
        found += [
            trusted(figure, worst[name], torch.float64) for figure in figures_of(name, size, count, rates)
        ]
    return found


def figures_of(name: str, size: int, count: int, rates: Rates) -> list[Figure]:
    """Say how many problems a second, and how many times as many as on the CPU."""
    case = f"{count:.0e} of K = {size}, float64"
    text = f"{name}: times faster than one thread of the CPU"
    details = {"gpu_per_s": rates.gpu, "cpu_per_s": rates.cpu}
    note = f"the CPU solves {rates.sample:,} of them"
    return [
        Figure("batches", case, f"{name}: problems per second", rates.gpu, "/s"),
        Figure("batches", case, text, rates.gpu / rates.cpu, "×", BARS.get((size, count)), details, note),
    ]
