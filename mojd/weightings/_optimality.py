"""By how much weights miss the conditions of a projection or another NNQP: float64 NumPy arrays only."""

from __future__ import annotations

import math

import numpy as np

from mojd._arrays import FloatArray
from mojd.certificates import accurate_slack, equilibrate
from mojd.qp import NNQP
from mojd.solvers import solve
from mojd.status import Status


def lengths(gramian: FloatArray) -> FloatArray:
    """Return the norms of the gradients, shape (..., K)."""
    return np.sqrt(np.diagonal(gramian, axis1=-2, axis2=-1))


def slopes(gramian: FloatArray, x: FloatArray, linear: FloatArray | float = 0.0) -> FloatArray:
    """Return (Gx + q)ᵢ/‖gᵢ‖, shape (..., K), with about 80 bits; where gᵢ is 0, qᵢ as it is."""
    size = gramian.shape[-1]
    offsets = np.asarray(linear) + np.zeros(size)
    batch = np.broadcast_shapes(gramian.shape[:-2], x.shape[:-1], offsets.shape[:-1])
    matrices = np.broadcast_to(gramian, (*batch, size, size)).reshape(-1, size, size)
    vectors = np.broadcast_to(x, (*batch, size)).reshape(-1, 1, size)
    terms = np.broadcast_to(offsets, (*batch, size)).reshape(-1, 1, size)
    problem = equilibrate(np, matrices, terms, vectors)
    slack = accurate_slack(np, problem)[:, 0, :] * problem.magnitude
    norms = np.sqrt(np.diagonal(problem.gramian, axis1=-2, axis2=-1))
    return np.reshape(slack / np.where(norms > 0, norms, 1.0), (*batch, size))


def relative_maximum(values: FloatArray, size: FloatArray) -> FloatArray:
    """Return max|values| / max|size| along the last axis; 0 for 0/0."""
    worst = np.max(np.abs(values), axis=-1, initial=0.0)
    largest = np.max(np.abs(size), axis=-1, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(worst == 0.0, 0.0, worst / largest)


def ray_residual(problem: NNQP) -> FloatArray:
    """Return how far from a ray the best candidate is, shape (...); infinite if q does not fall along it.

    The candidate is the solver's ray, or its x: next to a contradiction, x runs away along one.
    """
    solution = solve(problem)
    infeasible = solution.codes == int(Status.INFEASIBLE)
    ray: FloatArray = np.where(infeasible[..., None], np.asarray(solution.ray), np.asarray(solution.x))
    quality = relative_maximum(slopes(problem.gramian, ray), ray * lengths(problem.gramian))
    return np.where(np.sum(problem.linear * ray, axis=-1) < 0, quality, math.inf)
