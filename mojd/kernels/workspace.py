"""The work space of the kernels: two flat arrays, owned by the caller and cut into pieces here.

Allocating inside of compiled code would more than double the time that numba takes to compile it.
"""

from __future__ import annotations

from mojd.kernels.compiling import inner
from mojd.kernels.lanes import WIDTH

# Rows of a panel of the lanes' factorisation, an even number: 64 bytes · 32 · K fits the cache.
PANEL = 32


def scalar_sizes(K: int) -> tuple[int, int]:
    """Return the floats and integers that the scalar solver needs."""
    return 2 * K * K + 9 * K, 2 * (K + 1)


def lane_sizes(K: int, shared: bool) -> tuple[int, int]:
    """Return the floats and integers that the lanes need, if they share a Gramian or not."""
    matrices = 1 if shared else WIDTH
    padded = K + 2
    floats = matrices * (K * K + K) + K + WIDTH * (padded * padded + 8 * padded + 2 * PANEL + 4)
    return floats, WIDTH * (2 * padded + 9)


@inner
def matrix(floats, at, rows, columns):
    """Return the matrix that begins at `at`, and where it ends."""
    end = at + rows * columns
    return floats[at:end].reshape(rows, columns), end


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
    weakest, wanted, lowest, magnitude = small[0], small[1], small[2], small[3]
    return U, y, x, s, inverse, diagonal, right, factors, weakest, wanted, lowest, q, magnitude


@inner
def lane_integers(integers, K):
    """Cut the integers of the lanes: two arrays by index, nine by lane."""
    vector = WIDTH * (K + 2)
    passive, state = integers[:vector], integers[vector : vector + WIDTH * K]
    return passive, state, integers[2 * vector : 2 * vector + 9 * WIDTH].reshape(9, WIDTH)
