"""One UPGrad of a CUDA tensor, against TorchJD's and against plain array operations on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from figures import Bar, Figure, Settings, Task, at_least, at_most
from torch import Tensor

import mojd
from gpu.answers import trusted, worst_of_weights
from gpu.machine import Latency, Machine

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
DTYPE = torch.float32
# A peer is left out where its last call, at half the size, lets expect more than this: the work of UPGrad
# grows with the fourth power of K, and never with more.
PATIENCE_S = 20.0
GROWTH = 16.0
TIMES = {32: at_most(80.0), 1024: at_most(150_000.0)}
FASTER = {128: at_least(300.0)}


class Measured(NamedTuple):
    """What one size took, in seconds: all sides alone, and mojd on a busy device and in float64."""

    sides: dict[str, Latency]
    on_device: float
    in_double: float


class Patience:
    """Remember how long each peer took, to know when to leave it out."""

    def __init__(self) -> None:
        self._expected: dict[str, float] = {}

    def lasts(self, name: str) -> bool:
        """Whether a call at the next size should end in time."""
        return self._expected.get(name, 0.0) <= PATIENCE_S

    def saw(self, name: str, size: int, seconds: float) -> None:
        """Note what a call took."""
        following = next((later for later in SIZES if later > size), size)
        self._expected[name] = seconds * GROWTH ** math.log2(following / size)


def tasks(machine: Machine, settings: Settings) -> list[Task]:
    """List the sizes."""
    patience = Patience()
    sizes = [size for size in SIZES if not settings.quick or size <= 16]
    return [
        Task(f"upgrad, K = {size}", partial(_measure, machine, size, patience, settings)) for size in sizes
    ]


def _torchjd(gramian: Tensor) -> Callable[[], object] | None:
    try:
        from torchjd.aggregation import UPGradWeighting
    except ImportError:
        return None
    return partial(UPGradWeighting(), gramian)


def _measure(machine: Machine, size: int, patience: Patience, settings: Settings) -> list[Figure]:
    gramian = machine.gramians(size, 1, DTYPE)[0]
    double = gramian.double()
    peers = {
        "torchjd": _torchjd(gramian),
        "array_api": partial(mojd.upgrad, gramian, solver="array_api"),
    }
    calls: dict[str, Callable[[], object]] = {"mojd": partial(mojd.upgrad, gramian)}
    notes = []
    for name, call in peers.items():
        if call is None:
            notes.append(f"{name} is not installed")
        elif patience.lasts(name):
            calls[name] = call
        else:
            notes.append(f"{name} left out: it would take more than {PATIENCE_S:.0f} s")
    # Compiles and loads the kernels.
    worst = worst_of_weights("upgrad", mojd.upgrad(gramian)[None], gramian[None])
    mojd.upgrad(double)
    sides = machine.latencies(calls, settings.seconds, settings.least)
    for name in peers:
        if name in sides:
            patience.saw(name, size, sides[name].done)
    on_device = machine.queued_seconds(calls["mojd"], sides["mojd"])
    in_double = machine.latencies({"mojd": partial(mojd.upgrad, double)}, settings.seconds / 4)["mojd"].done
    figures = figures_of(size, Measured(sides, on_device, in_double), "; ".join(notes))
    return [trusted(figure, worst, DTYPE) for figure in figures]


def figures_of(size: int, measured: Measured, note: str = "") -> list[Figure]:
    """Say what one size took: until the result is there, and how many times faster than the peers."""
    own = measured.sides["mojd"]
    details = {
        "returned_us": 1e6 * own.returned,
        "on_device_us": 1e6 * measured.on_device,
        "float64_us": 1e6 * measured.in_double,
    }
    case = f"K = {size}, {str(DTYPE).removeprefix('torch.')}"
    found = [Figure("latency", case, "upgrad: time", 1e6 * own.done, "µs", TIMES.get(size), details, note)]
    for name, bars in (("torchjd", FASTER), ("array_api", dict[int, Bar]())):
        if name in measured.sides:
            other = measured.sides[name].done
            text = f"upgrad: times faster than {name}"
            bar = bars.get(size)
            found.append(
                Figure("latency", case, text, other / own.done, "×", bar, {f"{name}_us": 1e6 * other})
            )
    return found
