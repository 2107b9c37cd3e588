"""Which kernels solve a problem, and on how many threads. Nothing in here waits for the device."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import Array, Precision
from mojd.kernels.sizes import LARGEST_TABLEAU
from mojd.solvers._cuda.devices import Device
from mojd.solvers._cuda.source import WIDTHS
from mojd.solvers._registry import RawSolution

# The constants of the kernels: BATCH, TILE_THREADS, Block::strip and the like.
BATCH, TILE_THREADS = 128, 64
LARGEST_CLOSED_FORM = 3
# Vectors of a block of this many indices fit into the shared memory of every GPU since 2016.
LARGEST_BLOCK = 1024
# How many blocks of small problems keep a multiprocessor busy.
BLOCKS_PER_PROCESSOR = 8
# How many bytes work space may take: matrices of problems that wait, and factors of those that run.
ROOM = 2**28
FACTOR_ROOM = 2**30


class Vectors(NamedTuple):
    """A vector of each problem (B, M), one for all (1, M), or a number in all places.

    Attributes
    ----------
    array : float64 array, or None
        The vectors, in row-major order.
    constant : float
        The number, if there are none.
    """

    array: Array | None
    constant: float = 0.0

    def arguments(self, device: Device, first: int) -> tuple[np.generic, ...]:
        """Return what kernels get, from problem `first` on."""
        if self.array is None:
            return np.uintp(0), np.int64(0), np.float64(self.constant)
        count, length = self.array.shape
        step = length if count > 1 else 0
        return np.uintp(device.pointer(self.array) + 8 * first * step), np.int64(step), np.float64(0.0)


def number_of(array: Array) -> tuple[str, int]:
    """Return the C++ type of an array's numbers, and their bytes."""
    return ("float", 4) if str(array.dtype).endswith("float32") else ("double", 8)


def width_of(size: int) -> int:
    """Return the lanes of the narrowest tile for K indices."""
    return next(width for width in WIDTHS if size <= width)


def _tile_bytes(width: int) -> int:
    """Return the shared memory of a tile: see TileMemory in tiles.cuh."""
    strip = min(width, 8)
    return 8 * (2 * width * (width + 1) + 11 * width + strip * (strip + width) + width)


def _launch_tiles(
    device: Device, kernel: str, number: str, width: int, problems: int, leftovers: bool, *arguments: Any
) -> None:
    tiles = TILE_THREADS // width
    # Where nearly all problems are settled, threads look through their statuses, many at a time.
    threads = math.ceil(problems / 4) if leftovers else problems * width
    blocks = min(math.ceil(threads / TILE_THREADS), device.processors * BLOCKS_PER_PROCESSOR * 4)
    name = f"mojd::{kernel}_tiles<{number}, {width}>"
    device.launch(name, max(blocks, 1), TILE_THREADS, tiles * _tile_bytes(width), arguments)


def _launch_closed(
    device: Device, kernel: str, number: str, size: int, problems: int, row: int, *arguments: Any
) -> None:
    """Launch a thread for every problem; `row` is how many numbers of each lie in shared memory."""
    blocks = min(math.ceil(problems / BATCH), device.processors * 64)
    name = f"mojd::{kernel}_closed<{number}, {size}>"
    device.launch(name, max(blocks, 1), BATCH, 8 * BATCH * row, arguments)


def _odd(length: int) -> int:
    return length | 1


def _pointers(device: Device, *arrays: Array) -> tuple[np.generic, ...]:
    return tuple(np.uintp(device.pointer(array)) for array in arrays)


def solve(
    device: Device,
    gramian: Array,
    linear: Array,
    precision: Precision,
    *,
    bounded: bool = False,
    keep_refusals: bool = False,
) -> RawSolution:
    """Solve NNQP(G, q) for G (B, K, K) and q (B, R, K), both in float64 or both in float32, 1 ≤ K ≤ 1024.

    `bounded` promises that there are minimisers. Where G is no Gramian, the status is MAX_ITER and x NaN, or
    with `keep_refusals` one of :mod:`mojd.kernels.status` that says why.
    """
    count, rows, size = linear.shape
    x = device.empty((count, rows, size), "float64")
    status = device.empty((count, rows), "int8")
    iterations = device.empty((count, rows), "int32")
    if count * rows == 0:
        return RawSolution(x, status, iterations)
    number, _ = number_of(gramian)
    shape = np.int64(count), np.int64(rows)
    flags = np.int32(bounded), np.int32(keep_refusals)
    tolerances = tuple(np.float64(value) for value in precision)
    if size > LARGEST_TABLEAU:
        _solve_blocks(device, gramian, linear, RawSolution(x, status, iterations), precision, flags)
        return RawSolution(x, status, iterations)
    pointers = _pointers(device, gramian, linear, x, status, iterations)
    small = size <= LARGEST_CLOSED_FORM
    if small:
        row = _odd(size * size) + 2 * _odd(size)
        arguments = (*pointers, *shape, tolerances[0])
        _launch_closed(device, "solve", number, size, count * rows, row, *arguments)
    arguments = (*pointers, *shape, np.int32(size), *flags, np.int32(small), *tolerances)
    _launch_tiles(device, "solve", number, width_of(size), count * rows, small, *arguments)
    return RawSolution(x, status, iterations)


def _solve_blocks(
    device: Device,
    gramian: Array,
    linear: Array,
    solution: RawSolution,
    precision: Precision,
    flags: tuple[np.generic, ...],
) -> None:
    """Solve for K > 32, some Gramians at a time; writes to `solution`."""
    count, rows, size = linear.shape
    number, width = number_of(gramian)
    part = min(count, max(1, ROOM // (8 * size * size)))
    matrices = device.empty((part, size, size), "float64")
    scales, codes = device.empty((part, size), "float64"), device.empty((part, size), "int8")
    factor = size * (size + 1) // 2
    blocks = min(part * rows, device.processors * max(1, 512 // size), max(1, FACTOR_ROOM // (8 * factor)))
    factors = device.empty((blocks, factor), "float64")
    threads = 128 if size <= 128 else 256 if size <= 512 else 512
    shared = 8 * (64 + 9 * size + 8 * (8 + 32) + size)
    work = _pointers(device, matrices, scales, codes)
    tolerances = tuple(np.float64(value) for value in precision)
    given, terms, *results = (device.pointer(array) for array in (gramian, linear, *solution))
    for first in range(0, count, part):
        here = min(part, count - first)
        own = np.uintp(given + first * size * size * width)
        warps = math.ceil(here * size / 8)
        arguments = (own, *work, np.int64(here), np.int32(size), *tolerances)
        device.launch(f"mojd::equilibrate_rows<{number}>", min(warps, 2**20), 256, 0, arguments)
        places = [terms + first * rows * size * width]
        places += [place + first * rows * each for place, each in zip(results, (8 * size, 1, 4), strict=True)]
        pointers = tuple(np.uintp(place) for place in places)
        arguments = (*work, *pointers, *_pointers(device, factors), np.int64(here), np.int64(rows))
        arguments += (np.int32(size), *flags, tolerances[0])
        device.launch(f"mojd::solve_blocks<{number}>", min(blocks, here * rows), threads, shared, arguments)


def upgrad(device: Device, gramian: Array, preference: Vectors, precision: Precision) -> Array:
    """Return UPGrad weights (B, K) of G (B, K, K), in its dtype; NaN where it is none."""
    count, size = gramian.shape[:2]
    number, each = number_of(gramian)
    weights = device.empty((count, size), f"float{8 * each}")
    if count == 0:
        return weights
    tolerances = tuple(np.float64(value) for value in precision)
    given, written = _pointers(device, gramian, weights)
    own = preference.arguments(device, 0)
    tiles = TILE_THREADS // width_of(size) if size <= LARGEST_TABLEAU else 0
    closed = 2 <= size <= LARGEST_CLOSED_FORM
    if closed or count >= device.processors * BLOCKS_PER_PROCESSOR * tiles > 0:
        status: np.generic = np.uintp(0)
        if closed:
            codes = device.empty((count,), "int8")
            (status,) = _pointers(device, codes)
            arguments = (given, *own, written, status, np.int64(count), tolerances[0])
            row = _odd(size * size) + _odd(size)
            _launch_closed(device, "upgrad", number, size, count, row, *arguments)
        arguments = (given, *own, written, status, np.int64(count), np.int32(size), *tolerances)
        _launch_tiles(device, "upgrad", number, width_of(size), count, closed, *arguments)
        return weights
    # A tile or block for every projection: the more threads, the sooner they are done.
    part = min(count, max(1, ROOM // (8 * size * size)))
    for first in range(0, count, part):
        some = gramian if part == count else gramian[first : first + part]
        x, _, _ = solve(device, some, some, precision, bounded=True)
        here = some.shape[0]
        arguments = (*_pointers(device, x), *preference.arguments(device, first))
        arguments += (np.uintp(int(written) + first * size * each), np.int64(here), np.int32(size))
        blocks = min(math.ceil(here * size / 128), 2**20)
        device.launch(f"mojd::add_projections<{number}>", blocks, 128, 0, arguments)
    return weights


def pcd(
    device: Device, gramian: Array, tau: Vectors, scales: Vectors, rescale: bool, precision: Precision
) -> Array:
    """Return PCD weights (B, K) of G (B, K, K), 2 ≤ K ≤ 33, in its dtype; NaN where it is none."""
    count, size = gramian.shape[:2]
    number, each = number_of(gramian)
    weights = device.empty((count, size), f"float{8 * each}")
    if count == 0:
        return weights
    tolerances = tuple(np.float64(value) for value in precision)
    given, written = _pointers(device, gramian, weights)
    options = (*tau.arguments(device, 0), *scales.arguments(device, 0))
    flag = np.int32(rescale)
    status: np.generic = np.uintp(0)
    closed = size <= LARGEST_CLOSED_FORM
    if closed:
        codes = device.empty((count,), "int8")
        (status,) = _pointers(device, codes)
        arguments = (given, *options, written, status, np.int64(count), flag, tolerances[0])
        _launch_closed(device, "pcd", number, size, count, _odd(size * size) + _odd(size), *arguments)
    arguments = (given, *options, written, status, np.int64(count), np.int32(size), flag, *tolerances)
    _launch_tiles(device, "pcd", number, width_of(size - 1), count, closed, *arguments)
    return weights
