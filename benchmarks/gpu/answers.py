"""How wrong the answers are that were timed: a figure from wrong answers is none."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from figures import Figure
from torch import Tensor

import mojd
from gpu.machine import on_host
from mojd import Solution
from mojd.weightings import get_method

# Certificates hold several matrices of each problem at once; so many numbers of one at a time.
PART = 2**24
# Weights of so many problems are compared with those of certified solutions on the CPU.
SAMPLE = 200
# Solutions are in float64; weights in the dtype of the Gramians.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def worst_of_solution(solution: Solution) -> float:
    """Return the largest KKT residual of all answers; infinity if any problem is unsolved."""
    problem, codes, x = solution.problem, solution.codes, solution.x_float64
    count, size = problem.batch_shape[0], problem.size
    part, worst = max(1, PART // (size * size)), 0.0
    for first in range(0, count, part):
        here = slice(first, first + part)
        own = mojd.NNQP(problem.gramian[here], problem.linear[here])
        certified = Solution(own, x[here], codes[here, None], codes[here, None])
        largest = float(certified.kkt_residual.max())
        if not math.isfinite(largest) or int(codes[here].max()):
            return math.inf
        worst = max(worst, largest)
    return worst


def worst_of_weights(method: str, weights: Tensor, gramian: Tensor) -> float:
    """Return the largest residual of the weights (B, K) of a method, of a sample of the Gramians."""
    # Anywhere in the batch, so that every kernel and the last of all blocks has its share.
    places = torch.from_numpy(np.linspace(0, len(gramian) - 1, min(SAMPLE, len(gramian))).astype(np.int64))
    chosen = places.to(gramian.device)
    rows, matrices = (on_host(array[chosen]).astype(np.float64) for array in (weights, gramian))
    programme: Any = get_method(method)
    found = programme.residual(rows, matrices)
    worst = float(np.max(found))
    return worst if math.isfinite(worst) else math.inf


def trusted(figure: Figure, worst: float, dtype: torch.dtype) -> Figure:
    """Return a figure with the residual behind it, and without a value if that is too large."""
    details = {**figure.details, "kkt_residual": worst}
    if worst <= TOLERANCE[dtype]:
        return dataclasses.replace(figure, details=details)
    note = "; ".join(part for part in (figure.note, f"WRONG ANSWERS: residual {worst:.1e}") if part)
    return dataclasses.replace(figure, details=details, value=math.nan, note=note)
