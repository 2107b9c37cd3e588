"""The GPU as the libraries of arrays see it. Imports CuPy, which compiles and launches for all of them.

Results and work space come from the library whose arrays they stand beside: its allocator knows when memory
may be used again, also under the capture of a graph. Nothing in here waits for the device.
"""

from __future__ import annotations

import collections
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np

from mojd._arrays import Array
from mojd.errors import MissingDependencyError
from mojd.solvers._cuda.plans import largest_block
from mojd.solvers._cuda.source import source

_VOLTA = 70
# Arrays of JAX that kernels may still be reading, each list with an event behind the last of them.
_in_use: collections.deque[tuple[Any, list[Array]]] = collections.deque()


@functools.cache
def _kernel(name: str, index: int) -> Any:
    """Return a kernel on a device (the current one), compiled or from CuPy's cache on disk."""
    if sys.stderr.isatty():
        print(f"mojd: loading {name}, which is compiled the first time...", file=sys.stderr)
    module = cupy.RawModule(code=source(), options=("-std=c++17",), name_expressions=(name,))
    function = module.get_function(name)
    if "solve_blocks" in name:
        # Once, and all there is, as other threads may be launching it by then.
        function.max_dynamic_shared_size_bytes = _shared_limit(index)
    return function


@functools.cache
def _processors(index: int) -> int:
    return int(cupy.cuda.Device(index).attributes["MultiProcessorCount"])


@functools.cache
def _shared_limit(index: int) -> int:
    """Return how much shared memory a block can have."""
    return int(cupy.cuda.Device(index).attributes["MaxSharedMemoryPerBlockOptin"])


@functools.cache
def _largest_size(index: int) -> int:
    """Return the largest K on a device; 0 before Volta, where parts of a warp can't go their own ways."""
    if int(cupy.cuda.Device(index).compute_capability) < _VOLTA:
        return 0
    return largest_block(_shared_limit(index))


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
        _kernel(kernel, self.index)((grid,), (block,), arguments, shared_mem=shared)


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


def _index_of(array: Array) -> int:
    """Return the number of the device that an array is on."""
    if _is_tensor(array):
        return int(array.device.index)
    if isinstance(array, cupy.ndarray):
        return int(array.device.id)
    return int(next(iter(array.devices())).local_hardware_id)


def largest_size(array: Array) -> int:
    """Return the largest K that the kernels take on the device of an array."""
    return _largest_size(_index_of(array))


def place_of(array: Array) -> str:
    """Return the library and the device of an array, which have to be the same for all of a call."""
    return f"{type(array).__module__.split('.')[0]} on device {_index_of(array)}"


@contextmanager
def device_of(array: Array) -> Iterator[CupyDevice]:
    """Make the device and the stream of a CUDA array the current ones of CuPy."""
    index = _index_of(array)
    if _is_tensor(array):
        torch, device = sys.modules["torch"], array.device
        pointer = torch.cuda.current_stream(device).cuda_stream
        # PyTorch's way to another device makes no context on the one before.
        with torch.cuda.device(device), _stream(pointer, index):
            yield _tensor_device(torch, device)
        return
    with cupy.cuda.Device(index):
        yield CupyDevice(index)


def taken_in(array: Array, dtype: str, shape: tuple[int, ...] | None = None) -> Array:
    """Return a CUDA array as kernels read it: row-major, a tensor or of CuPy, broadcast to `shape`."""
    if _is_tensor(array):
        tensor = array.detach().resolve_neg().to(getattr(sys.modules["torch"], dtype))
        return (tensor if shape is None or tensor.shape == shape else tensor.expand(shape)).contiguous()
    if not isinstance(array, cupy.ndarray):
        # Not every dtype of JAX is one of CuPy. Its stream waits for what JAX is still computing.
        array = cupy.from_dlpack(array.astype(dtype))
    if shape is not None and array.shape != shape:
        array = cupy.broadcast_to(array, shape)
    return cupy.ascontiguousarray(array, dtype)


def keep_until_done(arrays: list[Array], like: Array) -> None:
    """Keep what JAX would take back when nobody holds it, until the kernels launched so far have read it.

    Allocators of PyTorch and CuPy know the stream; that of JAX has another one.
    """
    if _is_tensor(like) or isinstance(like, cupy.ndarray):
        return
    while _in_use and _in_use[0][0].done:
        _in_use.popleft()
    event = cupy.cuda.Event(disable_timing=True)
    event.record()
    _in_use.append((event, arrays))


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
