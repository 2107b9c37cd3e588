"""A stand-in for CUDA: array-api-strict's second device, whose arrays the kernels take on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import array_api_strict as xp
import numpy as np
from numpy.typing import NDArray

from mojd.solvers import cuda, dispatch, get_solver
from mojd.solvers._cuda import presence

from .on_host import HostDevice

DEVICE = xp.Device("device1")
# What would have to wait for a device.
LOOKS = ("__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__", "__dlpack__")


def on_device(values: Any, dtype: str = "float64") -> Any:
    return xp.asarray(np.asarray(values, float).tolist(), dtype=getattr(xp, dtype), device=DEVICE)


def memory(array: Any) -> NDArray[Any]:
    """The NumPy array within a strict one; reading it is what a kernel does."""
    values: NDArray[Any] = array._array
    return values


class StandInDevice(HostDevice):
    """Memory of strict arrays."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        values = super().empty(shape, dtype)
        return type(on_device([0.0]))._new(values, device=DEVICE)

    def pointer(self, array: Any) -> int:
        assert array.device == DEVICE
        return super().pointer(memory(array))


class Libraries:
    """What :mod:`mojd.solvers._cuda.libraries` does, for strict arrays."""

    def __init__(self) -> None:
        self.device = StandInDevice()

    @contextmanager
    def device_of(self, array: Any) -> Iterator[StandInDevice]:
        assert array.device == DEVICE
        yield self.device

    def taken_in(self, array: Any, dtype: str, shape: tuple[int, ...] | None = None) -> Any:
        values = memory(array) if shape is None else np.broadcast_to(memory(array), shape)
        values = np.ascontiguousarray(values, dtype)
        return type(array)._new(values, device=DEVICE)

    def largest_size(self, array: Any) -> int:
        return 1024

    def place_of(self, array: Any) -> str:
        return str(array.device)

    def keep_until_done(self, arrays: list[Any], like: Any) -> None:
        assert all(type(array) is type(like) for array in arrays)

    def handed_back(self, array: Any, like: Any) -> Any:
        assert type(array) is type(like)
        return array


def _is_cuda(array: Any) -> bool:
    return getattr(array, "device", None) == DEVICE


@contextmanager
def standing_in() -> Iterator[Libraries]:
    """Let arrays on the second device be CUDA's, with CuPy installed and a GPU in place."""
    libraries = Libraries()
    with ExitStack() as stack:
        for module in (presence, cuda, dispatch):
            stack.enter_context(patch.object(module, "is_cuda", _is_cuda))
        stack.enter_context(patch.object(presence, "trouble_with_cupy", lambda: ""))
        stack.enter_context(patch.dict(sys.modules, {"mojd.solvers._cuda.libraries": libraries}))
        ready = SimpleNamespace(solve=cuda.solve, max_size=1024, any_device=True, traceable=False)

        def choose(name: str, *, anywhere: bool = False) -> Any:
            return ready if name == "cuda" and anywhere else get_solver(name)

        stack.enter_context(patch.object(dispatch, "get_solver", choose))
        yield libraries


@contextmanager
def no_looking() -> Iterator[None]:
    """Fail wherever the values of a strict array are looked at."""

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise AssertionError("looks at values on a device")

    with ExitStack() as stack:
        for name in LOOKS:
            if hasattr(type(on_device([0.0])), name):
                stack.enter_context(patch.object(type(on_device([0.0])), name, refuse))
        yield
