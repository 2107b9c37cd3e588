"""CUDA kernels of our own for arrays on a GPU, compiled and launched by CuPy, on the caller's stream.

Nothing here waits for the device. What comes back is on its way: its status stays on the device until read.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any

import numpy as np

from mojd._arrays import Array, Precision, dtype_name, namespace, precision_of, restore
from mojd.errors import InvalidTypeError
from mojd.kernels.sizes import LARGEST_TABLEAU
from mojd.solvers._cuda.presence import is_cuda, obstacle, takes
from mojd.solvers._registry import RawSolution, Solver, get_solver, register

# PCD's kernel has a lane for every secondary.
LARGEST_PCD = LARGEST_TABLEAU + 1


def _parts() -> tuple[ModuleType, ModuleType]:
    """Return the plans and the libraries, which import CuPy and so are imported when they are used."""
    plans, libraries = (
        importlib.import_module(f"mojd.solvers._cuda.{name}") for name in ("plans", "libraries")
    )
    return plans, libraries


def solve(gramian: Array, linear: Array, threads: int, precision: Precision) -> RawSolution:
    """Solve G (B, K, K) with q (B, R, K), where they are; arrays of NumPy are copied to the GPU and back.

    `threads` means nothing here. For arrays on a device there is no error for what is no Gramian, because
    looking would wait for it: the status is MAX_ITER and x NaN.

    Raises
    ------
    InvalidTypeError
        If an array is on another kind of device.
    """
    plans, libraries = _parts()
    if isinstance(gramian, np.ndarray):
        arrays = libraries.copied_to_device(gramian, linear)
        with libraries.device_of(arrays[0]) as device:
            raw = plans.solve(device, *arrays, precision, keep_refusals=True)
            return RawSolution(*(libraries.copied_to_host(array) for array in raw))
    if not is_cuda(gramian):
        raise InvalidTypeError(
            f"solver 'cuda' takes arrays on one CUDA device, or NumPy's, but the gramian is a "
            f"{type(gramian).__name__} on {getattr(gramian, 'device', 'another device')}; use solver='auto'"
        )
    if dtype_name(gramian) != "float64":
        raise InvalidTypeError(
            f"mojd.solve computes in float64, but the gramian of shape {tuple(gramian.shape)} is "
            f"{dtype_name(gramian)}; with JAX, call jax.config.update('jax_enable_x64', True) first"
        )
    matrices = libraries.taken_in(gramian, "float64")
    with libraries.device_of(matrices) as device:
        raw = plans.solve(device, matrices, libraries.taken_in(linear, "float64"), precision)
        return RawSolution(*(libraries.handed_back(array, gramian) for array in raw))


def is_wanted(gramian: Array, solver: str, largest: int | None = None) -> bool:
    """Whether a method's own kernel is to take a Gramian, by what the caller wants and has installed."""
    size = int(gramian.shape[-1])
    if solver not in ("auto", "cuda") or (largest is not None and size > largest) or not takes(gramian, size):
        return False
    get_solver("cuda")
    return True


class Prepared:
    """Gramians (..., K, K) as a method's kernel takes them, and the vectors beside them.

    Parameters
    ----------
    gramian : array
        On a CUDA device.
    batch : tuple of int
        The leading shape of the result.
    """

    def __init__(self, gramian: Array, batch: tuple[int, ...]) -> None:
        self.plans, self.libraries = _parts()
        self.original, self.batch = gramian, batch
        self.size = int(gramian.shape[-1])
        single = dtype_name(gramian) in ("float32", "float16", "bfloat16")
        self.matrices = self._flat(gramian, "float32" if single else "float64", (self.size, self.size))
        self.precision = precision_of(gramian)

    def _flat(self, array: Array, dtype: str, tail: tuple[int, ...]) -> Array:
        """Return an array (..., *tail), broadcast to the batch, as row-major (B, *tail)."""
        taken = self.libraries.taken_in(array, dtype)
        xp = namespace(taken)
        if tuple(taken.shape) != (*self.batch, *tail):
            taken = self.libraries.taken_in(xp.broadcast_to(taken, (*self.batch, *tail)), dtype)
        return xp.reshape(taken, (math.prod(self.batch), *tail))

    def vectors(self, array: Array | None, constant: float, length: int) -> Any:
        """Return vectors (..., M) beside the Gramians, or a number in all their places."""
        if array is None:
            return self.plans.Vectors(None, constant)
        if math.prod(array.shape[:-1]) == 1:
            taken = self.libraries.taken_in(array, "float64")
            return self.plans.Vectors(namespace(taken).reshape(taken, (1, length)))
        return self.plans.Vectors(self._flat(array, "float64", (length,)))

    def finished(self, weights: Array) -> Array:
        """Return weights (B, K) in the caller's shape, library and dtype."""
        shaped = namespace(weights).reshape(weights, (*self.batch, self.size))
        return restore(self.libraries.handed_back(shaped, self.original), self.original)


def upgrad(gramian: Array, batch: tuple[int, ...], preference: Array | None) -> Array:
    """Return UPGrad weights (..., K) of Gramians on a GPU; preferences are 1/K without any."""
    given = Prepared(gramian, batch)
    with given.libraries.device_of(given.matrices) as device:
        own = given.vectors(preference, 1.0 / given.size, given.size)
        return given.finished(given.plans.upgrad(device, given.matrices, own, given.precision))


def pcd(
    gramian: Array,
    batch: tuple[int, ...],
    tau: Array | float,
    scales: Array | None,
    rescale: bool,
) -> Array:
    """Return PCD weights (..., K) of Gramians on a GPU, 2 ≤ K ≤ 33; τ is a number or (..., K−1)."""
    given = Prepared(gramian, batch)
    taus: tuple[Any, float] = (None, tau) if isinstance(tau, float) else (tau, 0.0)
    with given.libraries.device_of(given.matrices) as device:
        own_tau = given.vectors(*taus, given.size - 1)
        own_scales = given.vectors(scales, 1.0, given.size)
        weights = given.plans.pcd(device, given.matrices, own_tau, own_scales, rescale, given.precision)
        return given.finished(weights)


def _prepare() -> None:
    """Import CuPy, and make sure that there is a device."""
    _, libraries = _parts()
    libraries.copied_to_device(np.zeros(1))


register(
    Solver(
        name="cuda",
        solve=solve,
        summary="pivoting in CUDA kernels, for arrays on a GPU; exact, K up to 1024",
        kkt_tolerance=1e-12,
        requires=("cupy",),
        extra="cuda",
        max_size=1024,
        any_device=True,
        exact=True,
        checks_values=True,
        obstacle=obstacle,
        prepare=_prepare,
    )
)
