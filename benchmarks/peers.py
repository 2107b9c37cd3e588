"""The libraries that mojd is measured against, each called as its own users would call it.

What can be prepared is prepared outside of the clock: the peers get tensors instead of NumPy arrays
where they want tensors, and factors where they want factors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gramians import FloatArray
from scipy.optimize import nnls
from torchjd.aggregation import PCDWeighting, UPGradWeighting

import mojd
from mojd.qp import Solution

Solve = Callable[[], FloatArray]

# A peer that misses this scale-free KKT residual has not solved the problem.
SOLVED = 1e-6


def torchjd_upgrad(gramian: FloatArray) -> Solve:
    """Return a call of TorchJD's UPGradWeighting with its own defaults, on a tensor."""
    tensor, weighting = torch.from_numpy(gramian), UPGradWeighting()
    return lambda: weighting(tensor).numpy()


def torchjd_pcd(gramian: FloatArray, tau: float) -> Solve:
    """Return a step of TorchJD's PCDWeighting, moving average included, on a tensor."""
    tensor, weighting = torch.from_numpy(gramian), PCDWeighting(tau=tau)
    return lambda: weighting(tensor).numpy()


def _quadprog(gramian: FloatArray, linear: FloatArray) -> Solve:
    import quadprog  # type: ignore[import-not-found]

    ascent, constraints, bounds = -linear, np.eye(linear.size), np.zeros(linear.size)

    def call() -> FloatArray:
        x: FloatArray = quadprog.solve_qp(gramian, ascent, constraints, bounds)[0]
        return x

    return call


def _daqp(gramian: FloatArray, linear: FloatArray) -> Solve:
    import daqp  # type: ignore[import-not-found]

    size = linear.size
    upper, lower = np.full(size, 1e30), np.zeros(size)
    no_rows, sense = np.empty((0, size)), np.zeros(size, np.int32)

    def call() -> FloatArray:
        x: FloatArray = daqp.solve(gramian, linear, no_rows, upper, lower, sense)[0]
        return x

    return call


def _nnls(gramian: FloatArray, linear: FloatArray) -> Solve:
    eigenvalues, vectors = np.linalg.eigh(gramian)
    kept = eigenvalues > linear.size * np.finfo(np.float64).eps * eigenvalues[-1]
    roots, basis = np.sqrt(eigenvalues[kept]), vectors[:, kept]
    factor, target = np.ascontiguousarray(roots[:, None] * basis.T), -(basis.T @ linear) / roots

    def call() -> FloatArray:
        x: FloatArray = nnls(factor, target)[0]
        return x

    return call


SOLVERS: dict[str, Callable[[FloatArray, FloatArray], Solve]] = {
    "quadprog": _quadprog,
    "daqp": _daqp,
    "nnls": _nnls,
}


def normalised(gramian: FloatArray, linear: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the problem in units of gradients of norm 1, free of charge for the peers.

    Their tolerances are absolute: on gradients of norm 1e6, or 1e-6, they would fail.
    """
    norms = np.sqrt(np.diagonal(gramian))
    scale = 1.0 / np.where(norms > 0, norms, 1.0)
    scaled = linear * scale
    return gramian * scale[:, None] * scale, scaled / np.abs(scaled).max()


def has_solved(call: Solve, gramian: FloatArray, linear: FloatArray) -> bool:
    """Whether a peer's answer meets the KKT conditions, as mojd certifies them."""
    try:
        x = call()
    except (ValueError, RuntimeError):
        return False
    if x is None or not np.isfinite(x).all():
        return False
    return bool(Solution(mojd.NNQP(gramian, linear), x, 0, 0).kkt_residual <= SOLVED)
