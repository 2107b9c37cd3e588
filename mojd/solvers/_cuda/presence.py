"""Whether there is a CUDA device, and whether an array lies on one: without importing anything for it."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import os
import sys
import warnings
from typing import Any

from mojd._arrays import Array
from mojd.solvers._cuda.plans import LARGEST_BLOCK


@functools.cache
def _count_devices() -> int:
    """Return how many GPUs NVIDIA's driver manages.

    By its management library, which makes no context: a process that has one can't be forked any more.
    """
    name = "nvml.dll" if os.name == "nt" else ctypes.util.find_library("nvidia-ml")
    try:
        library = ctypes.CDLL(name or "libnvidia-ml.so.1")
    except OSError:
        return 0
    if library.nvmlInit_v2() != 0:
        return 0
    count = ctypes.c_uint(0)
    failed = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    library.nvmlShutdown()
    return 0 if failed else count.value


def obstacle() -> str:
    """Return why CUDA kernels can't run in this process, or ''."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs"
    return "" if _count_devices() else "there is no CUDA device, or no driver for it"


def has_cupy() -> bool:
    """Whether CuPy is installed."""
    return "cupy" in sys.modules or importlib.util.find_spec("cupy") is not None


def _is_cuda_tensor(array: Array) -> bool:
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(array, torch.Tensor):
        return False
    # ROCm's devices call themselves cuda too.
    return array.device.type == "cuda" and torch.version.hip is None


def _is_cupy_array(array: Array) -> bool:
    cupy: Any = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray) and not cupy.cuda.runtime.is_hip


def _is_cuda_jax_array(array: Array) -> bool:
    jax: Any = sys.modules.get("jax")
    if jax is None or not isinstance(array, jax.Array) or isinstance(array, jax.core.Tracer):
        return False
    # What is spread over several devices stays with JAX.
    devices = array.devices()
    if len(devices) != 1:
        return False
    client = next(iter(devices)).client
    return client.platform == "gpu" and "cuda" in client.platform_version.lower()


def is_cuda(array: Array) -> bool:
    """Whether an array is PyTorch's, CuPy's or JAX's, and lies on one CUDA device."""
    return _is_cuda_tensor(array) or _is_cupy_array(array) or _is_cuda_jax_array(array)


@functools.cache
def _hint() -> None:
    """Say once what is missing."""
    warnings.warn(
        "mojd's CUDA kernels need CuPy, which is not installed: arrays on this GPU are solved by many small "
        "operations instead, some hundred times slower; pip install 'mojd[cuda]'",
        stacklevel=2,
    )


def takes(array: Array, size: int, *, hint: bool = True) -> bool:
    """Whether the CUDA kernels are to take K × K Gramians of this kind; hints once at what is missing."""
    if size > LARGEST_BLOCK or not is_cuda(array):
        return False
    found = has_cupy()
    if not found and hint:
        _hint()
    return found
