"""The GPU as the libraries of arrays see it. Imports CuPy, which compiles and launches for all of them.

Results and work space come from the library whose arrays they stand beside: its allocator knows when memory
may be used again, also under the capture of a graph. Nothing in here waits for the device.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
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
    """Return a stream of another library on a device, the current one."""
    del index  # a stream belongs to its device
    return cupy.cuda.Stream.from_external(_Foreign(pointer))


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

    def launch(self, kernel: str, grid: int, block: int, shared: int, arguments: tuple[Any, ...]) -> None:
        """Put a kernel on the current stream."""
        function = _kernel(kernel, self.index)
        if shared > _ORDINARY_SHARED and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        function((grid,), (block,), arguments, shared_mem=shared)


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


@functools.lru_cache(maxsize=64)
def _tensor_device(torch: Any, device: Any) -> TorchDevice:
    return TorchDevice(torch, device)


@contextmanager
def device_of(array: Array) -> Iterator[CupyDevice]:
    """Make the device and the stream of a CUDA array the current ones of CuPy."""
    if _is_tensor(array):
        torch, device = sys.modules["torch"], array.device
        pointer = torch.cuda.current_stream(device).cuda_stream
        with cupy.cuda.Device(device.index), _stream(pointer, device.index):
            yield _tensor_device(torch, device)
        return
    index = (
        array.device.id if isinstance(array, cupy.ndarray) else next(iter(array.devices())).local_hardware_id
    )
    with cupy.cuda.Device(index):
        yield CupyDevice(index)


def taken_in(array: Array, dtype: str, shape: tuple[int, ...] | None = None) -> Array:
    """Return a CUDA array as kernels read it: row-major, a tensor or of CuPy, broadcast to `shape`."""
    if _is_tensor(array):
        tensor = array.detach().resolve_neg().to(getattr(sys.modules["torch"], dtype))
        return (tensor if shape is None or tensor.shape == shape else tensor.expand(shape)).contiguous()
    if not isinstance(array, cupy.ndarray):
        # JAX lets CuPy's stream wait for what is still being computed.
        array = cupy.from_dlpack(array)
    if shape is not None and array.shape != shape:
        array = cupy.broadcast_to(array, shape)
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
