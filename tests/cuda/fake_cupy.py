"""A small module that does what mojd asks of CuPy, on the CPU: kernels are compiled by the host's compiler.

`events` lists what happens, in order: devices and streams entered and left, compilations, and launches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .host.compile import build
from .host.launching import Kernel, Library
from .on_host import KERNELS


class CUDARuntimeError(RuntimeError):
    """CuPy's error."""


class Fake(ModuleType):
    """The module of CuPy, with one GPU or none."""

    check: Callable[[], None]

    def __init__(self, devices: int = 1) -> None:
        super().__init__("cupy")
        self.events: list[str] = []
        self.shared, self.capability = 99 * 1024, "90"
        fake = self

        class Scope:
            """What a with statement enters and leaves."""

            name = ""

            def __enter__(self) -> Any:
                fake.check()
                fake.events.append(f"enter {self.name}")
                return self

            def __exit__(self, *_error: object) -> None:
                fake.events.append(f"leave {self.name}")

        class Device(Scope):
            def __init__(self, index: int) -> None:
                self.id, self.name = index, f"device {index}"

            @property
            def attributes(self) -> dict[str, int]:
                fake.events.append(f"attributes of device {self.id}")
                return {"MultiProcessorCount": 3, "MaxSharedMemoryPerBlockOptin": fake.shared}

            @property
            def compute_capability(self) -> str:
                return fake.capability

        class Stream(Scope):
            def __init__(self, name: str) -> None:
                self.name = name

            @classmethod
            def from_external(cls, stream: Any) -> Stream:
                version, pointer = stream.__cuda_stream__()
                assert version == 0
                return cls(f"stream {pointer}")

        class Function:
            """A kernel, which has to be allowed more than 48 kB of shared memory before it gets them."""

            def __init__(self, kernel: Kernel) -> None:
                self.kernel, self.allowed = kernel, 48 * 1024

            @property
            def max_dynamic_shared_size_bytes(self) -> int:
                return self.allowed

            @max_dynamic_shared_size_bytes.setter
            def max_dynamic_shared_size_bytes(self, size: int) -> None:
                fake.events.append(f"allow {size}")
                self.allowed = size

            def __call__(
                self, grid: tuple[int], block: tuple[int], args: tuple[Any, ...], *, shared_mem: int = 0
            ) -> None:
                assert shared_mem <= self.allowed, "CUDA_ERROR_INVALID_VALUE: invalid argument"
                fake.events.append(f"launch {self.kernel.name}")
                library = Library({self.kernel.name: self.kernel})
                library.launch(self.kernel.name, *grid, *block, shared_mem, args)

        class RawModule:
            def __init__(self, *, code: str, options: Sequence[str], name_expressions: Sequence[str]) -> None:
                assert options == ("-std=c++17",)
                fake.events += [f"compile {name}" for name in name_expressions]
                for name in name_expressions:
                    if name not in KERNELS:
                        KERNELS.update(build([name], code).kernels)

            def get_function(self, name: str) -> Function:
                return Function(KERNELS[name])

        class Event:
            """Work that is done when the module says so."""

            def __init__(self, *, disable_timing: bool) -> None:
                assert disable_timing

            def record(self) -> None:
                fake.events.append("record an event")

            @property
            def done(self) -> bool:
                return fake.idle

        self.idle = True
        self.check = lambda: None
        if devices == 0:
            self.check = self.fail
        self.ndarray = Array
        self.RawModule = RawModule
        runtime = SimpleNamespace(CUDARuntimeError=CUDARuntimeError, is_hip=False)
        self.cuda = SimpleNamespace(Device=Device, Stream=Stream, Event=Event, runtime=runtime)

    @staticmethod
    def fail() -> None:
        raise CUDARuntimeError(
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
        )

    def asarray(self, values: Any) -> Array:
        self.check()
        return Array.of(np.array(values), self)

    def asnumpy(self, array: Array) -> NDArray[Any]:
        self.events.append("copy to host")
        return np.array(array.values)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        return Array.of(np.full(shape, 99, dtype), self)

    def ascontiguousarray(self, array: Array, dtype: str) -> Array:
        return Array.of(np.ascontiguousarray(array.values, dtype), self)

    def broadcast_to(self, array: Array, shape: tuple[int, ...]) -> Array:
        return Array.of(np.broadcast_to(array.values, shape), self)

    def from_dlpack(self, array: Any) -> Array:
        self.events.append("from_dlpack")
        return Array.of(np.from_dlpack(array), self)


class Array:
    """An array of the module above."""

    values: NDArray[Any]
    module: Any

    @classmethod
    def of(cls, values: NDArray[Any], module: Any) -> Array:
        array = cls()
        array.values, array.module = values, module
        return array

    @property
    def device(self) -> Any:
        return self.module.cuda.Device(0)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.values.ctypes.data)

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape


def forget() -> None:
    """Let the module of mojd that imports CuPy be imported anew."""
    sys.modules.pop("mojd.solvers._cuda.libraries", None)
