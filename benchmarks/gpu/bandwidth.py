"""Closed forms for K = 2 and 3 against copying as many bytes on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from figures import Figure, Settings, Task, at_least
from torch import Tensor

import mojd
from gpu.answers import trusted, worst_of_solution, worst_of_weights
from gpu.machine import Machine

COUNT = 10**7
SHARE = 70.0
DTYPES = (torch.float32, torch.float64)


class Subject(NamedTuple):
    """One function on a batch: the call, the bytes it has to move, and how wrong its answers are."""

    call: Callable[[], object]
    moved: int
    worst: Callable[[], float]
    note: str = ""


def tasks(machine: Machine, settings: Settings) -> list[Task]:
    """List what to measure: pairs and triples in single and double precision."""
    return [
        Task(
            f"{COUNT:.0e} of K = {size}, {name_of(dtype)}", partial(_measure, machine, size, dtype, settings)
        )
        for size in (2, 3)
        for dtype in DTYPES
    ]


def name_of(dtype: torch.dtype) -> str:
    """Return 'float32' or 'float64'."""
    return str(dtype).removeprefix("torch.")


def _subjects(gramian: Tensor, linear: Tensor) -> dict[str, Subject]:
    count, size = linear.shape
    each = gramian.element_size()
    matrices, vectors = each * count * size * size, each * count * size
    problem = mojd.NNQP(gramian, linear)
    # Minimisers are float64, statuses a byte, numbers of iterations four.
    solved = matrices + vectors + count * (8 * size + 5)
    narrow = "mojd.solve converts to float64 first" if each == 4 else ""
    found = {
        "solve": Subject(
            partial(mojd.solve, problem), solved, lambda: worst_of_solution(mojd.solve(problem)), narrow
        )
    }
    functions: dict[str, Callable[[Tensor], Tensor]] = {"upgrad": mojd.upgrad, "pcd": mojd.pcd}
    for name, function in functions.items():
        call = partial(function, gramian)
        worst = partial(_worst, name, call, gramian)
        found[name] = Subject(call, matrices + vectors, worst)
    return found


def _worst(name: str, call: Callable[[], Tensor], gramian: Tensor) -> float:
    return worst_of_weights(name, call(), gramian)


def _measure(machine: Machine, size: int, dtype: torch.dtype, settings: Settings) -> list[Figure]:
    count = COUNT // 1000 if settings.quick else COUNT
    gramian = machine.gramians(size, count, dtype)
    linear = machine.normal(count, size, dtype=dtype)
    found = []
    for name, subject in _subjects(gramian, linear).items():
        # A copy reads what it writes: half of the bytes each.
        source = torch.zeros(subject.moved // 2, dtype=torch.uint8, device=machine.device)
        target = torch.empty_like(source)
        calls: dict[str, Callable[[], object]] = {
            "mojd": subject.call,
            "copy": partial(target.copy_, source),
        }
        seconds = machine.device_seconds(calls, settings.seconds, settings.least)
        figure = share_of_copying(
            *(name, size, count, dtype),
            moved=subject.moved,
            seconds=seconds["mojd"],
            copying=seconds["copy"],
            note=subject.note,
        )
        found.append(trusted(figure, subject.worst(), dtype if name != "solve" else torch.float64))
    return found


def share_of_copying(
    name: str,
    size: int,
    count: int,
    dtype: torch.dtype,
    *,
    moved: int,
    seconds: float,
    copying: float,
    note: str = "",
) -> Figure:
    """Say how much of the bandwidth of a copy a function reaches, from what each took."""
    return Figure(
        "bandwidth",
        f"{count:.0e} of K = {size}, {name_of(dtype)}",
        f"{name}: share of the bandwidth of copying",
        100 * copying / seconds,
        "%",
        at_least(SHARE) if size == 3 else None,
        {
            "mojd_ms": 1e3 * seconds,
            "copy_ms": 1e3 * copying,
            "mojd_GB_per_s": 1e-9 * moved / seconds,
            "copy_GB_per_s": 1e-9 * moved / copying,
        },
        note,
    )
