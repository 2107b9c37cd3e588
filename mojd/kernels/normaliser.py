"""The exponential moving average of squared gradient norms, and the scales that come of it."""

from __future__ import annotations

import math

from numba import types

from mojd.kernels.compiling import entry_point
from mojd.kernels.signatures import MATRIX, VECTOR


@entry_point(types.boolean(MATRIX, VECTOR, VECTOR, VECTOR, types.float64, types.float64, types.float64))
def update_scales(G, average, new_average, scales, beta, correction, eps):
    """Write v' = β·v + (1 − β)·diag G and s = 1/√(v'/correction + ε), which is 0 where that is 1/0.

    Returns False, and leaves the rest undone, if G is not finite or has a negative diagonal.
    """
    check = 0.0
    for i in range(G.shape[0]):
        for j in range(G.shape[0]):
            check += G[i, j] * 0.0
        if G[i, i] < 0.0:
            return False
    if not math.isfinite(check):
        return False
    for i in range(G.shape[0]):
        new_average[i] = beta * average[i] + (1.0 - beta) * G[i, i]
        square = new_average[i] / correction + eps
        scales[i] = 1.0 / math.sqrt(square) if square > 0.0 else 0.0 * square
    return True
