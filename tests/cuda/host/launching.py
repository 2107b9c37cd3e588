"""Launch kernels that were compiled for the CPU."""

from __future__ import annotations

import ctypes
import mmap
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# How threads, warps and blocks take turns: a number is the seed of a shuffle.
Order = Literal["ascending", "descending"] | int
KINDS = {"ascending": 0, "descending": 1}
# What may be passed for a parameter, as the kinds of NumPy's dtypes.
ACCEPTED = {"p": "u", "i": "iub", "f": "f", "s": "V"}
MEANING = {"p": "a pointer", "i": "an integer", "f": "a floating-point number", "s": "a structure"}
MESSAGE_SIZE = 4096
# How many bytes beyond the end of an array cannot be touched.
GUARD = 2**20
# Signals have one handler in a process, and each kernel has one set of fibers.
LOCK = threading.Lock()
# Those of all libraries so far; the first is used by all.
SHARED_STACKS: list[int] = []


class LaunchError(RuntimeError):
    """What CUDA would hang at, or leave undefined."""


class Request(ctypes.Structure):
    """The structure Launch of runtime.hpp."""

    _fields_ = (
        ("grid", ctypes.c_uint),
        ("block", ctypes.c_uint),
        ("shared_bytes", ctypes.c_ulonglong),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_ulonglong),
        ("stacks", ctypes.c_void_p),
    )


class Kernel:
    """One compiled kernel."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.source = name, source
        library = ctypes.CDLL(str(path))
        library.mojd_host_kinds.restype = ctypes.c_char_p
        library.mojd_host_sizes.restype = ctypes.POINTER(ctypes.c_int)
        library.mojd_host_stacks.restype = ctypes.c_void_p
        SHARED_STACKS.append(library.mojd_host_stacks())
        self._launch = library.mojd_host_launch
        self._launch.restype = ctypes.c_bool
        self.kinds: str = library.mojd_host_kinds().decode()
        self.sizes: list[int] = library.mojd_host_sizes()[: len(self.kinds)]

    def checked(self, arguments: Sequence[np.generic]) -> list[NDArray[Any]]:
        """Return arguments as arrays without axes.

        Raises
        ------
        TypeError
            If there are more or fewer than parameters, or one has another size or kind.
        """
        if len(arguments) != len(self.kinds):
            raise TypeError(f"{self.name} takes {len(self.kinds)} arguments, not {len(arguments)}")
        for i, (argument, kind, size) in enumerate(zip(arguments, self.kinds, self.sizes, strict=True)):
            if not isinstance(argument, np.generic):
                raise TypeError(
                    f"argument {i} of {self.name} is no NumPy scalar but {type(argument).__name__}"
                )
            if argument.dtype.itemsize != size or argument.dtype.kind not in ACCEPTED[kind]:
                raise TypeError(
                    f"argument {i} of {self.name} is {argument.dtype} where the kernel takes {MEANING[kind]} "
                    f"of {size} bytes"
                )
        return [np.array(argument) for argument in arguments]

    def launch(self, request: Request, arguments: Sequence[np.generic]) -> None:
        """Run a grid; see `Library.launch`."""
        values = self.checked(arguments)
        pointers = (ctypes.c_void_p * max(1, len(values)))(*[value.ctypes.data for value in values])
        message = ctypes.create_string_buffer(MESSAGE_SIZE)
        request.stacks = SHARED_STACKS[0]
        with LOCK:
            done = self._launch(pointers, ctypes.byref(request), message, MESSAGE_SIZE)
        if not done:
            raise LaunchError(self._quoted(message.value.decode(errors="replace")))

    def _quoted(self, message: str) -> str:
        """Add the lines of the source that a message is about."""
        numbers = sorted({int(number) for number in re.findall(r" in line (\d+)", message)})
        lines = self.source.splitlines()
        quotes = [f"\n  line {i}: {lines[i - 1].strip()}" for i in numbers if 0 < i <= len(lines)]
        return f"{self.name}: {message}{''.join(quotes)}"


class Library:
    """Kernels by their names."""

    def __init__(self, kernels: Mapping[str, Kernel]) -> None:
        self.kernels = dict(kernels)

    def launch(
        self,
        name: str,
        grid: int,
        block: int,
        shared_bytes: int,
        arguments: Sequence[np.generic],
        order: Order = "ascending",
    ) -> None:
        """Run a kernel on a grid of blocks.

        Parameters
        ----------
        name
            One of the names that were built.
        grid, block
            How many blocks there are, and how many threads each has.
        shared_bytes
            How much dynamic shared memory each block gets.
        arguments
            NumPy scalars of the parameters' sizes and kinds; pointers are np.uintp.
        order
            How the threads between two collectives, the warps between two barriers, and the blocks take
            turns: "ascending", "descending", or a seed for a shuffle.

        Raises
        ------
        LaunchError
            If threads don't meet where they should, or touch memory that isn't theirs.
        TypeError
            If the arguments don't fit the parameters.
        """
        kind, seed = (KINDS[order], 0) if isinstance(order, str) else (2, order)
        request = Request(grid, block, shared_bytes, kind, seed)
        self.kernels[name].launch(request, arguments)


def guarded(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that ends where readable memory does: a launch that goes beyond fails."""
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + GUARD)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    # 0 is PROT_NONE.
    if libc.mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(GUARD), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy
