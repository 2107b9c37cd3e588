"""The GPU as the libraries of arrays see it. Imports CuPy, which compiles and launches for all of them.

Results and work space come from the library whose arrays they stand beside: its allocator knows when memory
may be used again, also under the capture of a graph. Nothing in here waits for the device.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np

from mojd._arrays import Array
from mojd.errors import MissingDependencyError
from mojd.solvers._cuda.source import source

# More shared memory than this has to be asked for, by kernel.
_ORDINARY_SHARED = 48 * 1024


@functools.cache
def _kernel(name: str, index: int) -> Any:
    """Return a kernel on a device (the current one), compiled or from CuPy's cache on disk."""
    del index  # a kernel belongs to its device
    if sys.stderr.isatty():
        print(f"mojd: compiling {name}, once after each installation...", file=sys.stderr)
    module = cupy.RawModule(code=source(), options=("-std=c++17",), name_expressions=(name,))
    return module.get_function(name)


@functools.cache
def _processors(index: int) -> int:
    return int(cupy.cuda.Device(index).attributes["MultiProcessorCount"])


class _Foreign:
    """A stream of another library, as the CUDA stream protocol has it."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


@functools.lru_cache(maxsize=64)
def _stream(pointer: int, index: int) -> Any:
    """Return a stream of another library, on the current device."""
    # What CuPy 13 has instead, CuPy 14 warns of.
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Foreign(pointer))
    return cupy.cuda.ExternalStream(pointer, index)


class CupyDevice:
    """The device of CuPy arrays; kernels go to CuPy's current stream."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.processors = _processors(index)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array of CuPy."""
        return cupy.empty(shape, dtype)

    def pointer(self, array: Array) -> int:
        """Return where an array begins."""
        return int(array.data.ptr)

    def launch(
        self, kernel: str, grid: int, block: int, shared: int, arguments: Sequence[np.generic]
    ) -> None:
        """Put a kernel on the current stream."""
        function = _kernel(kernel, self.index)
        if shared > _ORDINARY_SHARED and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        function((grid,), (block,), tuple(arguments), shared_mem=shared)


class TorchDevice(CupyDevice):
    """The device of CUDA tensors; kernels go to PyTorch's current stream, which CuPy has been told of."""

    def __init__(self, torch: Any, device: Any) -> None:
        super().__init__(device.index)
        self._torch, self._device = torch, device

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return a tensor."""
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=self._device)

    def pointer(self, array: Array) -> int:
        """Return where a tensor begins."""
        return int(array.data_ptr())


def _is_tensor(array: Array) -> bool:
    return "torch" in sys.modules and isinstance(array, sys.modules["torch"].Tensor)


@contextmanager
def device_of(array: Array) -> Iterator[CupyDevice]:
    """Make the device and the stream of a CUDA tensor or CuPy array the current ones of CuPy."""
    if _is_tensor(array):
        torch: Any = sys.modules["torch"]
        index = array.device.index
        with (
            cupy.cuda.Device(index),
            _stream(torch.cuda.current_stream(array.device).cuda_stream, index),
        ):
            yield TorchDevice(torch, array.device)
    else:
        with array.device:
            yield CupyDevice(array.device.id)


def taken_in(array: Array, dtype: str) -> Array:
    """Return a CUDA array as one that kernels can read: a tensor, or an array of CuPy, row-major."""
    if _is_tensor(array):
        torch: Any = sys.modules["torch"]
        return array.detach().resolve_neg().to(getattr(torch, dtype)).contiguous()
    if not isinstance(array, cupy.ndarray):
        # JAX lets CuPy's stream wait for what is still being computed.
        array = cupy.from_dlpack(array)
    with array.device:
        return cupy.ascontiguousarray(array, dtype)


def handed_back(array: Array, like: Array) -> Array:
    """Return a result in the library of the caller's array."""
    if isinstance(array, cupy.ndarray) and not isinstance(like, cupy.ndarray):
        return sys.modules["jax"].dlpack.from_dlpack(array)
    return array


def copied_to_device(*arrays: np.ndarray[Any, Any]) -> list[Array]:
    """Copy arrays of NumPy to the current device, with an error that says so if there is none."""
    try:
        return [cupy.asarray(array) for array in arrays]
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise MissingDependencyError(
            f"solver 'cuda' finds no CUDA device that it could use: {error}"
        ) from None


def copied_to_host(array: Array) -> np.ndarray[Any, Any]:
    """Copy an array of CuPy to NumPy, which waits for it."""
    copy: np.ndarray[Any, Any] = cupy.asnumpy(array)
    return copy
