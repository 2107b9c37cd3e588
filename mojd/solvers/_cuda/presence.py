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


@functools.cache
def trouble_with_cupy() -> str:
    """Return why CuPy can't be used, or ''; imports it where it is installed."""
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        return "is not installed"
    try:
        stream = importlib.import_module("cupy").cuda.Stream
    except (ImportError, AttributeError) as error:
        return f"can't be imported ({error})"
    return "" if hasattr(stream, "from_external") else "is too old"


def _is_cuda_tensor(array: Array) -> bool:
    torch: Any = sys.modules.get("torch")
    # Other types, such as distributed tensors, may have no memory of their own.
    if torch is None or type(array) not in (torch.Tensor, torch.nn.Parameter):
        return False
    # ROCm's devices call themselves cuda too.
    if array.device.type != "cuda" or torch.version.hip is not None:
        return False
    return array.layout is torch.strided and not array.is_nested


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
def _hint(trouble: str) -> None:
    """Say once what is missing."""
    warnings.warn(
        f"mojd's CUDA kernels need CuPy 14, which {trouble}: arrays on this GPU are solved by many small "
        "operations instead, which takes far longer; pip install 'mojd[cuda]'",
        stacklevel=2,
    )


def takes(array: Array, size: int, *, hint: bool = True) -> bool:
    """Whether the CUDA kernels are to take K × K Gramians of this kind; hints once at what is missing."""
    if size > LARGEST_BLOCK or not is_cuda(array):
        return False
    trouble = trouble_with_cupy()
    if trouble:
        if hint:
            _hint(trouble)
        return False
    # Here, because it imports CuPy.
    largest: int = importlib.import_module("mojd.solvers._cuda.libraries").largest_size(array)
    return size <= largest
