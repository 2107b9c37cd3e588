"""What the plans need of a device: memory beside the caller's arrays, and a way to launch kernels on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mojd._arrays import Array


class Device(Protocol):
    """One GPU, as the library of the caller's arrays sees it."""

    @property
    def processors(self) -> int:
        """How many multiprocessors it has."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array with any content, in row-major order; 'float64', 'float32', 'int8' or 'int32'."""

    def pointer(self, array: Array) -> int:
        """Return where the first number of a row-major array lies."""

    def launch(
        self, kernel: str, grid: int, block: int, shared: int, arguments: Sequence[np.generic]
    ) -> None:
        """Put a kernel on the caller's stream.

        `kernel` is one of the names of :mod:`mojd.solvers._cuda.source`, `shared` the bytes of shared memory
        of a block; pointers are np.uintp.
        """
