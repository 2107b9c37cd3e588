"""The work space of the kernels: two flat arrays, owned by the caller and cut into pieces here.

Allocating inside of compiled code would more than double the time that numba takes to compile it.
"""

from __future__ import annotations

import numpy as np

from mojd.kernels.compiling import inner
from mojd.kernels.lanes import WIDTH
from mojd.kernels.sizes import LARGEST_TABLEAU

# Rows of a panel of the lanes' factorisation, an even number: 64 bytes · 32 · K fits the cache.
PANEL = 32


def tableau_size(K: int) -> int:
    """Return the floats that a Gramian and its tableau need: see :func:`tableau_arrays`.

    They must be 0 at first, and none of them may have held anything for another K.
    """
    stride = -(-K // WIDTH) * WIDTH
    return ((2 * K + 10) if K <= LARGEST_TABLEAU else K + 4) * stride


def scalar_sizes(K: int) -> tuple[int, int]:
    """Return the floats and integers that it takes to solve one problem."""
    stride = -(-K // WIDTH) * WIDTH
    return tableau_size(K) + (K + 9) * stride, 2 * (K + 1)


def batch_sizes(K: int) -> tuple[int, int]:
    """Return the floats and integers that it takes to solve many problems."""
    rows, stride = K + 2, -(-K // WIDTH) * WIDTH
    lanes = WIDTH * (rows * rows + 8 * rows + 2 * PANEL + 4)
    return tableau_size(K) + K * stride + lanes, WIDTH * (2 * rows + 7)


@inner
def padded(K):
    """Return K, rounded up to whole vectors."""
    return (K + WIDTH - 1) // WIDTH * WIDTH


@inner
def matrix(floats, at, rows, columns):
    """Return the matrix that begins at `at`, and where it ends."""
    end = at + rows * columns
    return floats[at:end].reshape(rows, columns), end


@inner
def tableau_arrays(floats, K):
    """Cut out the padded A, the linear term and the scale, and if K is small, what a tableau needs.

    All begin at whole vectors, so that they lie well in memory if `floats` does. Returns (A, linear,
    room for two more vectors, S, y, work, scale, where they end).
    """
    stride = padded(K)
    A, at = matrix(floats, np.int64(0), K, stride)
    linear, scale = floats[at : at + stride], floats[at + stride : at + stride + K]
    pair, at = matrix(floats, at + 2 * stride, np.int64(2), stride)
    if K > LARGEST_TABLEAU:
        none, _ = matrix(floats, at, np.int64(0), stride)
        return A, linear, pair, floats[at:at], floats[at:at], none, scale, at
    end = at + K * stride
    S, y = floats[at:end], floats[end : end + stride]
    work, at = matrix(floats, end + stride, np.int64(5), stride)
    return A, linear, pair, S, y, work, scale, at


@inner
def lane_arrays(floats, at, K):
    """Cut the arrays of lanes out of `floats` from `at` on; their order is that of the names."""
    vector = WIDTH * (K + 2)
    square = at + vector * (K + 2)
    U = floats[at:square]
    vectors, at = matrix(floats, square, 8, vector)
    factors = floats[at : at + 2 * PANEL * WIDTH]
    small, at = matrix(floats, at + 2 * PANEL * WIDTH, 4, WIDTH)
    y, x, s, inverse = vectors[0], vectors[1], vectors[2], vectors[3]
    diagonal, right, q = vectors[4], vectors[5], vectors[6, : WIDTH * K]
    condition, wanted, lowest, magnitude = small[0], small[1], small[2], small[3]
    return U, y, x, s, inverse, diagonal, right, factors, condition, wanted, lowest, q, magnitude


@inner
def lane_integers(integers, K):
    """Cut the integers of the lanes: two arrays by index, seven by lane."""
    vector = WIDTH * (K + 2)
    passive, state = integers[:vector], integers[vector : vector + WIDTH * K]
    return passive, state, integers[2 * vector : 2 * vector + 7 * WIDTH].reshape(7, WIDTH)
