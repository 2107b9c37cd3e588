"""What it takes to run a plan: memory beside the caller's arrays, and a way to launch kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from mojd._arrays import Array
from mojd.solvers._cuda.plans import Plan, Pointer


class Device(Protocol):
    """One GPU, as the library of the caller's arrays sees it."""

    @property
    def processors(self) -> int:
        """How many multiprocessors it has."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return a row-major array with any content; 'float64', 'float32', 'int8' or 'int32'."""

    def pointer(self, array: Array) -> int:
        """Return where the first number of a row-major array lies."""

    def launch(self, kernel: str, grid: int, block: int, shared: int, arguments: tuple[Any, ...]) -> None:
        """Put a kernel on the caller's stream.

        `kernel` is one of the names of :mod:`mojd.solvers._cuda.source`, `shared` the bytes of shared memory
        of a block, and the arguments are NumPy scalars, np.uintp for pointers.
        """


def run(device: Device, plan: Plan, arrays: Mapping[str, Array]) -> None:
    """Launch the steps of a plan on the arrays that it names."""
    bases = {name: device.pointer(array) for name, array in arrays.items()}
    if plan.room:
        # Kept until the launches are in line; the allocator knows that later work comes after them.
        work = device.empty((plan.room,), "int8")
        bases["work"] = device.pointer(work)
    for kernel, grid, block, shared, arguments in plan.steps:
        filled = tuple(
            [
                np.uintp(bases[part.base] + part.offset) if type(part) is Pointer else part
                for part in arguments
            ]
        )
        device.launch(kernel, grid, block, shared, filled)
