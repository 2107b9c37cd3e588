"""A device of the plans that is the CPU: NumPy's memory, and kernels compiled by the host's compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mojd._arrays import FloatArray, Precision
from mojd.solvers import Solver, cuda
from mojd.solvers._cuda import plans
from mojd.solvers._cuda.source import source
from mojd.solvers._registry import RawSolution
from tests.cuda.host.compile import build
from tests.cuda.host.launching import Kernel, Library, Order

# Compiled and loaded once for all devices of a process.
KERNELS: dict[str, Kernel] = {}


class HostDevice:
    """Runs kernels on the CPU, in a given order of threads; `launches` lists their names."""

    def __init__(self, order: Order = "ascending", processors: int = 2) -> None:
        self.order, self.processors = order, processors
        self.launches: list[str] = []

    def empty(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        # What nobody writes shows.
        kind = np.dtype(dtype)
        return np.full(shape, np.nan if kind.kind == "f" else 99, kind)

    def pointer(self, array: NDArray[Any]) -> int:
        assert array.flags.c_contiguous
        return int(array.ctypes.data)

    def launch(self, kernel: str, grid: int, block: int, shared: int, arguments: tuple[Any, ...]) -> None:
        self.launches.append(kernel)
        if kernel not in KERNELS:
            KERNELS.update(build([kernel], source()).kernels)
        Library(KERNELS).launch(kernel, grid, block, shared, arguments, self.order)


DEVICE = HostDevice()


def solve(gramian: FloatArray, linear: FloatArray, _threads: int, precision: Precision) -> RawSolution:
    """Solve as the solver 'cuda' does for NumPy arrays."""
    return cuda.solve_on(DEVICE, gramian, linear, precision, keep_refusals=True)


def host_solver() -> Solver:
    """Return the CUDA kernels on the CPU, as a solver that the contract tests take."""
    return Solver(
        name="cuda_on_host",
        solve=solve,
        summary="the kernels of solver 'cuda', compiled for the CPU",
        kkt_tolerance=1e-12,
        exact=True,
        checks_values=True,
        max_size=plans.LARGEST_BLOCK,
    )
