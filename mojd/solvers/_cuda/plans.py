"""Which kernels solve a problem, on how many threads and with what work space: plans, which are mere data.

A plan depends on shapes alone, and is made once for each. To run one takes an allocation for the work space
and one launch a step. Nothing waits for the device.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import Precision
from mojd.kernels.sizes import LARGEST_TABLEAU
from mojd.solvers._cuda.source import WIDTHS

# The constants of the kernels: BATCH, TILE_THREADS, and what a block shares beside its vectors.
BATCH, TILE_THREADS = 128, 64
LARGEST_CLOSED_FORM = 3
# What a block has to share then is 83 KiB.
LARGEST_BLOCK = 1024
# How many blocks of tiles keep a multiprocessor busy, and how many more wait in line.
BLOCKS_PER_PROCESSOR, WAVES = 8, 4
# How many bytes of work space matrices of problems that wait may take, and factors of those that run.
ROOM = 2**28
FACTOR_ROOM = 2**30


class Pointer(NamedTuple):
    """A place in one of the arrays that a plan is run on, or in its work space.

    Attributes
    ----------
    base : str
        The name of the array.
    offset : int
        How many bytes after its beginning.
    """

    base: str
    offset: int = 0

    def after(self, count: int) -> Pointer:
        """Return the place so many bytes further on."""
        return Pointer(self.base, self.offset + count)


class Step(NamedTuple):
    """One launch.

    Attributes
    ----------
    kernel : str
        A name of :mod:`mojd.solvers._cuda.source`.
    grid, block, shared : int
        Blocks, threads of a block, and bytes of shared memory of a block.
    arguments : tuple
        NumPy scalars, and :class:`Pointer`.
    """

    kernel: str
    grid: int
    block: int
    shared: int
    arguments: tuple[Any, ...]


class Plan(NamedTuple):
    """Launches in their order, and the bytes of work space that they share."""

    steps: tuple[Step, ...]
    room: int


class Shape(NamedTuple):
    """What a plan depends on.

    Attributes
    ----------
    gramians, rows, size : int
        B Gramians with R right-hand sides each, of K objectives.
    number : str
        'float' or 'double': the numbers of the Gramians.
    processors : int
        Multiprocessors of the device.
    precision : Precision
        What the caller's dtype says about rounding.
    """

    gramians: int
    rows: int
    size: int
    number: str
    processors: int
    precision: Precision

    @property
    def bytes(self) -> int:
        """Bytes of a number of the Gramians."""
        return 4 if self.number == "float" else 8

    @property
    def tolerances(self) -> tuple[np.generic, ...]:
        """The precision, as kernels take it."""
        return np.float64(self.precision.tolerance), np.float64(self.precision.tiny)


class Vectors(NamedTuple):
    """A vector of each problem, one for all, or a number in all places.

    Attributes
    ----------
    base : str
        The name of a float64 array (B, M) or (1, M); '' for a number.
    step : int
        How far apart the vectors of two problems are: M, or 0 if they share one.
    constant : float
        The number.
    """

    base: str
    step: int
    constant: float

    def arguments(self, first: int) -> tuple[Any, ...]:
        """Return what kernels get, from problem `first` on."""
        pointer = Pointer(self.base, 8 * first * self.step) if self.base else np.uintp(0)
        return pointer, np.int64(self.step), np.float64(self.constant)


class _Room:
    """Work space that is dealt out piece by piece."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, size: int) -> Pointer:
        """Return the beginning of `size` bytes, on a boundary of 256."""
        place = Pointer("work", self.taken)
        self.taken += -(-size // 256) * 256
        return place


def width_of(size: int) -> int:
    """Return the lanes of the narrowest tile for K indices."""
    return next(width for width in WIDTHS if size <= width)


def _odd(length: int) -> int:
    return length | 1


def _tile_bytes(width: int) -> int:
    """Return the shared memory of a tile: see TileMemory in tiles.cuh."""
    strip = min(width, 8)
    return 8 * (2 * width * (width + 1) + 11 * width + strip * (strip + width) + width)


def _block_bytes(size: int) -> int:
    """Return the shared memory of a block: see solve_blocks.cu."""
    return 8 * (64 + 9 * size + 8 * (8 + 32) + size)


def largest_block(shared: int) -> int:
    """Return the largest K for which a block has no more shared memory than that."""
    each = _block_bytes(1) - _block_bytes(0)
    return max(0, min(LARGEST_BLOCK, (shared - _block_bytes(0)) // each))


def _tiles(kernel: str, shape: Shape, size: int, problems: int, leftovers: bool, *arguments: Any) -> Step:
    """Return the launch of a tile for every problem of `size` unknowns.

    With `leftovers`, nearly all problems are settled, and threads look through their statuses.
    """
    width = width_of(size)
    threads = math.ceil(problems / 4) if leftovers else problems * width
    most = shape.processors * BLOCKS_PER_PROCESSOR * WAVES
    blocks = max(1, min(math.ceil(threads / TILE_THREADS), most))
    name = f"mojd::{kernel}_tiles<{shape.number}, {width}>"
    return Step(name, blocks, TILE_THREADS, TILE_THREADS // width * _tile_bytes(width), arguments)


def _closed(kernel: str, shape: Shape, problems: int, row: int, *arguments: Any) -> Step:
    """Return the launch of a thread for every problem; `row` is how many numbers of each are shared."""
    blocks = max(1, min(math.ceil(problems / BATCH), shape.processors * 64))
    return Step(
        f"mojd::{kernel}_closed<{shape.number}, {shape.size}>", blocks, BATCH, 8 * BATCH * row, arguments
    )


class _Problems(NamedTuple):
    """Where the problems of a part of a plan are, and where their solutions go."""

    gramian: Pointer
    linear: Pointer
    x: Pointer
    status: Pointer
    iterations: Pointer

    def after(self, count: int, rows: int, size: int, number: int) -> _Problems:
        """Return the places `count` Gramians further on, for numbers of so many bytes."""
        return _Problems(
            self.gramian.after(count * size * size * number),
            self.linear.after(count * rows * size * number),
            self.x.after(count * rows * size * 8),
            self.status.after(count * rows),
            self.iterations.after(count * rows * 4),
        )


def _solve_steps(
    shape: Shape, problems: _Problems, room: _Room, bounded: bool, keep_refusals: bool
) -> list[Step]:
    count, rows, size = shape.gramians, shape.rows, shape.size
    flags = np.int32(bounded), np.int32(keep_refusals)
    if size > LARGEST_TABLEAU:
        return _block_steps(shape, problems, room, flags)
    steps, small = [], size <= LARGEST_CLOSED_FORM
    extent = np.int64(count), np.int64(rows)
    if small:
        row = _odd(size * size) + 2 * _odd(size)
        arguments = (*problems, *extent, shape.tolerances[0])
        steps.append(_closed("solve", shape, count * rows, row, *arguments))
    options = (np.int32(size), *flags, np.int32(small), *shape.tolerances)
    steps.append(_tiles("solve", shape, size, count * rows, small, *problems, *extent, *options))
    return steps


def _block_steps(shape: Shape, problems: _Problems, room: _Room, flags: tuple[np.generic, ...]) -> list[Step]:
    """Return the launches for K > 32: some Gramians at a time, a block for every right-hand side."""
    count, rows, size = shape.gramians, shape.rows, shape.size
    part = min(count, max(1, ROOM // (8 * size * size)))
    work = room.take(8 * part * size * size), room.take(8 * part * size), room.take(part * size)
    factor = 8 * (size * (size + 1) // 2)
    busy = min(part * rows, shape.processors * max(1, 512 // size), max(1, FACTOR_ROOM // factor))
    factors = room.take(busy * factor)
    threads = 128 if size <= 128 else 256 if size <= 512 else 512
    shared = _block_bytes(size)
    steps = []
    for first in range(0, count, part):
        here, own = min(part, count - first), problems.after(first, rows, size, shape.bytes)
        extent = np.int64(here), np.int32(size)
        warps = min(math.ceil(here * size / 8), 2**20)
        arguments: tuple[Any, ...] = (own.gramian, *work, *extent, *shape.tolerances)
        steps.append(Step(f"mojd::equilibrate_rows<{shape.number}>", warps, 256, 0, arguments))
        arguments = (*work, *own[1:], factors, np.int64(here), np.int64(rows), np.int32(size), *flags)
        arguments += (shape.tolerances[0],)
        blocks = min(busy, here * rows)
        steps.append(Step(f"mojd::solve_blocks<{shape.number}>", blocks, threads, shared, arguments))
    return steps


@functools.lru_cache(maxsize=256)
def solve(shape: Shape, *, bounded: bool = False, keep_refusals: bool = False) -> Plan:
    """Solve NNQP(G, q) for 1 ≤ K ≤ 1024 and B·R > 0: from 'gramian' and 'linear', row-major.

    Writes float64 'x' (B, R, K), int8 'status' and int32 'iterations' (B, R). `bounded` promises that there
    are minimisers. Where G is no Gramian, the status is MAX_ITER and x NaN, or with `keep_refusals` one of
    :mod:`mojd.kernels.status` that says why.
    """
    room = _Room()
    problems = _Problems(*(Pointer(name) for name in ("gramian", "linear", "x", "status", "iterations")))
    steps = _solve_steps(shape, problems, room, bounded, keep_refusals)
    return Plan(tuple(steps), room.taken)


@functools.lru_cache(maxsize=256)
def upgrad(shape: Shape, preference: Vectors) -> Plan:
    """Write UPGrad 'weights' (B, K) of 'gramian', in its dtype; NaN where it is none. R is K here."""
    count, size, room = shape.gramians, shape.size, _Room()
    gramian, weights = Pointer("gramian"), Pointer("weights")
    small = 1 < size <= LARGEST_CLOSED_FORM
    steps = []
    tiles = TILE_THREADS // width_of(size) if size <= LARGEST_TABLEAU else 0
    if size <= LARGEST_CLOSED_FORM or count >= shape.processors * BLOCKS_PER_PROCESSOR * tiles > 0:
        status: Any = np.uintp(0)
        own = preference.arguments(0)
        if small:
            status = room.take(count)
            arguments = (gramian, *own, weights, status, np.int64(count), shape.tolerances[0])
            steps.append(_closed("upgrad", shape, count, _odd(size * size) + _odd(size), *arguments))
        arguments = (gramian, *own, weights, status, np.int64(count), np.int32(size), *shape.tolerances)
        steps.append(_tiles("upgrad", shape, size, count, small, *arguments))
        return Plan(tuple(steps), room.taken)
    # A tile or block for every projection: the more threads, the sooner they are done.
    part, most = min(count, max(1, ROOM // (8 * size * size))), 0
    places = room.take(8 * part * size * size), room.take(part * size), room.take(4 * part * size)
    for first in range(0, count, part):
        here, matrices = min(part, count - first), gramian.after(first * size * size * shape.bytes)
        problems = _Problems(matrices, matrices, *places)
        # The parts run one after the other, and so in the same room.
        own_room = _Room()
        own_room.taken = room.taken
        some = shape._replace(gramians=here, rows=size)
        steps += _solve_steps(some, problems, own_room, True, False)
        arguments = (places[0], *preference.arguments(first), weights.after(first * size * shape.bytes))
        arguments += (np.int64(here), np.int32(size))
        blocks = min(math.ceil(here * size / 128), 2**20)
        steps.append(Step(f"mojd::add_projections<{shape.number}>", blocks, 128, 0, arguments))
        most = max(most, own_room.taken)
    return Plan(tuple(steps), most)


@functools.lru_cache(maxsize=256)
def pcd(shape: Shape, tau: Vectors, scales: Vectors, rescale: bool) -> Plan:
    """Write PCD 'weights' (B, K) of 'gramian', 2 ≤ K ≤ 33, in its dtype; NaN where it is none."""
    count, size, room = shape.gramians, shape.size, _Room()
    given = (Pointer("gramian"), *tau.arguments(0), *scales.arguments(0), Pointer("weights"))
    small, steps, flag = size <= LARGEST_CLOSED_FORM, [], np.int32(rescale)
    status: Any = np.uintp(0)
    if small:
        status = room.take(count)
        arguments = (*given, status, np.int64(count), flag, shape.tolerances[0])
        steps.append(_closed("pcd", shape, count, _odd(size * size) + _odd(size), *arguments))
    arguments = (*given, status, np.int64(count), np.int32(size), flag, *shape.tolerances)
    steps.append(_tiles("pcd", shape, size - 1, count, small, *arguments))
    return Plan(tuple(steps), room.taken)
