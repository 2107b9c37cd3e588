"""CUDA kernels of our own for arrays on a GPU, compiled and launched by CuPy, on the caller's stream.

Nothing here waits for the device. What comes back is on its way: its status stays on the device until read.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np

from mojd._arrays import Array, Precision, dtype_name, precision_of, restore
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.kernels.sizes import LARGEST_TABLEAU
from mojd.solvers._cuda import plans
from mojd.solvers._cuda.devices import Device, run
from mojd.solvers._cuda.plans import Shape, Vectors
from mojd.solvers._cuda.presence import is_cuda, obstacle, takes
from mojd.solvers._registry import RawSolution, Solver, register

# PCD's kernel has a lane for every secondary.
LARGEST_PCD = LARGEST_TABLEAU + 1
_HALVES = ("float16", "bfloat16")


def _libraries() -> ModuleType:
    """Return what knows CuPy, which is imported with it."""
    return importlib.import_module("mojd.solvers._cuda.libraries")


def _require_one_place(libraries: ModuleType, gramian: Array, other: Array, name: str) -> None:
    """Raise unless a kernel can read both arrays."""
    places = libraries.place_of(gramian), libraries.place_of(other)
    if places[0] != places[1]:
        raise InvalidInputError(
            f"gramian is an array of {places[0]}, but {name} is one of {places[1]}; move them to one device"
        )


def solve_on(
    device: Device, gramian: Array, linear: Array, precision: Precision, *, keep_refusals: bool = False
) -> RawSolution:
    """Solve G (B, K, K) with q (B, R, K), row-major float64 arrays of a device; see :func:`plans.solve`."""
    count, rows, size = (int(length) for length in linear.shape)
    raw = RawSolution(
        device.empty((count, rows, size), "float64"),
        device.empty((count, rows), "int8"),
        device.empty((count, rows), "int32"),
    )
    if count * rows:
        shape = Shape(count, rows, size, "double", device.processors, precision)
        plan = plans.solve(shape, keep_refusals=keep_refusals)
        run(device, plan, {"gramian": gramian, "linear": linear, **raw._asdict()})
    return raw


def solve(gramian: Array, linear: Array, threads: int, precision: Precision) -> RawSolution:
    """Solve G (B, K, K) with q (B, R, K), where they are; arrays of NumPy are copied to the GPU and back.

    `threads` means nothing here. For arrays on a device there is no error for what is no Gramian, because
    looking would wait for it: the status is MAX_ITER and x NaN.

    Raises
    ------
    InvalidTypeError
        If an array is on another kind of device.
    """
    if not isinstance(gramian, np.ndarray) and not is_cuda(gramian):
        raise InvalidTypeError(
            f"solver 'cuda' takes arrays on one CUDA device, or NumPy's, but the gramian is a "
            f"{type(gramian).__name__} on {getattr(gramian, 'device', 'another device')}; use solver='auto'"
        )
    libraries = _libraries()
    if isinstance(gramian, np.ndarray):
        matrices, vectors = libraries.copied_to_device(gramian, linear)
        with libraries.device_of(matrices) as device:
            raw = solve_on(device, matrices, vectors, precision, keep_refusals=True)
            return RawSolution(*(libraries.copied_to_host(array) for array in raw))
    if dtype_name(gramian) != "float64":
        raise InvalidTypeError(
            f"mojd.solve computes in float64, but the gramian of shape {tuple(gramian.shape)} is "
            f"{dtype_name(gramian)}; with JAX, call jax.config.update('jax_enable_x64', True) first"
        )
    _require_one_place(libraries, gramian, linear, "linear")
    with libraries.device_of(gramian) as device:
        matrices, vectors = (libraries.taken_in(array, "float64") for array in (gramian, linear))
        raw = solve_on(device, matrices, vectors, precision)
        libraries.keep_until_done([matrices, vectors], gramian)
        return RawSolution(*(libraries.handed_back(array, gramian) for array in raw))


def is_wanted(gramian: Array, solver: str, largest: int | None = None) -> bool:
    """Whether a method's own kernel is to take a Gramian, by what the caller wants and has installed."""
    size = int(gramian.shape[-1]) if gramian.ndim else 0
    return (
        solver in ("auto", "cuda")
        and 0 < size <= (largest or size)
        # Without CuPy, whoever asks for this solver gets an error further on, and no hint.
        and takes(gramian, size, hint=solver == "auto")
    )


class _Call:
    """A method's own kernels on Gramians (..., K, K), with the vectors that go with them.

    Parameters
    ----------
    gramian : array
        On a CUDA device.
    batch : tuple of int
        The leading shape of the result.
    """

    def __init__(self, libraries: ModuleType, device: Device, gramian: Array, batch: tuple[int, ...]) -> None:
        self.libraries, self.device = libraries, device
        self.gramian, self.batch = gramian, batch
        self.size, kind = int(gramian.shape[-1]), dtype_name(gramian)
        self.dtype = "float32" if kind == "float32" or kind in _HALVES else "float64"
        full = (*batch, self.size, self.size)
        self.arrays = {"gramian": libraries.taken_in(gramian, self.dtype, full)}

    @property
    def shape(self) -> Shape:
        """What the plan depends on."""
        count, number = math.prod(self.batch), "float" if self.dtype == "float32" else "double"
        precision = precision_of(self.gramian)
        return Shape(count, self.size, self.size, number, self.device.processors, precision)

    def vectors(self, name: str, array: Array | None, constant: float, length: int) -> Vectors:
        """Take in vectors (..., M) under a name; or a number in all their places."""
        if array is None:
            return Vectors("", 0, constant)
        _require_one_place(self.libraries, self.gramian, array, name)
        shared = math.prod(array.shape[:-1]) == 1
        self.arrays[name] = self.libraries.taken_in(
            array, "float64", None if shared else (*self.batch, length)
        )
        return Vectors(name, 0 if shared else length, 0.0)

    def run(self, plan: Callable[[Shape], plans.Plan]) -> Array:
        """Return the weights (..., K) that a plan writes, in the caller's library and dtype."""
        weights, shape = self.device.empty((*self.batch, self.size), self.dtype), self.shape
        if shape.gramians:
            run(self.device, plan(shape), {**self.arrays, "weights": weights})
            self.libraries.keep_until_done(list(self.arrays.values()), self.gramian)
        result = self.libraries.handed_back(weights, self.gramian)
        return restore(result, self.gramian) if dtype_name(self.gramian) in _HALVES else result


def upgrad(gramian: Array, batch: tuple[int, ...], preference: Array | None) -> Array:
    """Return UPGrad weights (..., K) of Gramians on a GPU; preferences are 1/K without any."""
    libraries = _libraries()
    with libraries.device_of(gramian) as device:
        call = _Call(libraries, device, gramian, batch)
        own = call.vectors("pref_vector", preference, 1.0 / call.size, call.size)
        return call.run(lambda shape: plans.upgrad(shape, own))


def pcd(
    gramian: Array, batch: tuple[int, ...], tau: Array | float, scales: Array | None, rescale: bool
) -> Array:
    """Return PCD weights (..., K) of Gramians on a GPU, 2 ≤ K ≤ 33; τ is a number or (..., K−1)."""
    libraries = _libraries()
    array, number = (None, tau) if isinstance(tau, float) else (tau, 0.0)
    with libraries.device_of(gramian) as device:
        call = _Call(libraries, device, gramian, batch)
        own_tau = call.vectors("tau", array, number, call.size - 1)
        own_scales = call.vectors("scales", scales, 1.0, call.size)
        return call.run(lambda shape: plans.pcd(shape, own_tau, own_scales, rescale))


def _prepare() -> None:
    """Import CuPy, and make sure that there is a device."""
    _libraries().copied_to_device(np.zeros(1))


register(
    Solver(
        name="cuda",
        solve=solve,
        summary="pivoting in CUDA kernels, for arrays on a GPU; exact, K up to 1024",
        kkt_tolerance=1e-12,
        requires=("cupy",),
        extra="cuda",
        max_size=plans.LARGEST_BLOCK,
        any_device=True,
        exact=True,
        checks_values=True,
        obstacle=obstacle,
        prepare=_prepare,
    )
)
