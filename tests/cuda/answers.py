"""What solver 'cuda' has to agree with: the same call on NumPy's arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mojd
from mojd._arrays import device_of, namespace
from tests.reference.families import FAMILIES, Floats, symmetric_gramian

Array = Any
Weigh = Callable[[Array], Array]

# Weights are rounded to the dtype of the Gramian, and pivots may round differently.
AGREEMENT = {"float64": 1e-8, "float32": 1e-5}


def directions(U: Floats) -> Weigh:
    """Return the projection of rows U of NumPy, brought to where the Gramian is."""
    return lambda G: mojd.project(beside(U, G), G)


def beside(values: Floats, like: Array) -> Array:
    """Return an array of NumPy in the library, dtype and device of another, for tests alone."""
    if isinstance(like, np.ndarray):
        return np.asarray(values, like.dtype)
    return namespace(like).asarray(values, dtype=like.dtype, device=device_of(like))


def methods(size: int) -> dict[str, Weigh]:
    """Return what is compared, from Gramians (..., K, K) to rows (..., K) or (..., R, K)."""
    found: dict[str, Weigh] = {
        "upgrad": mojd.upgrad,
        "dualproj": mojd.dualproj,
        "mgda": mojd.mgda,
        "project": directions(np.abs(np.random.default_rng(size).standard_normal((3, size)))),
    }
    if size > 1:
        found["pcd"] = partial(mojd.pcd, tau=0.1)
        found["pcd rescaled"] = partial(mojd.pcd, tau=0.3, rescale=True)
    return found


def random_gramians(count: int, size: int) -> Floats:
    rows = np.random.default_rng(size).standard_normal((count, size, 2 * size))
    return np.stack([symmetric_gramian(jacobian) for jacobian in rows])


def gramian_of(family: str, size: int, dtype: str) -> NDArray[Any]:
    sample = FAMILIES[family].sample(size, np.random.default_rng(size))
    with np.errstate(over="ignore"):
        return sample.gramian.astype(dtype)


def distance(gramian: NDArray[Any], weights: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return how far two directions are apart as the gradients see it, relative to their longest part.

    Weights themselves are not unique where gradients depend on each other.
    """
    G, w, v = (np.asarray(array, np.float64) for array in (gramian, weights, expected))
    lengths = np.sqrt(np.diagonal(G, axis1=-2, axis2=-1))
    lengths = np.where(lengths > 0, lengths, 1.0)
    if w.ndim == G.ndim:
        lengths = lengths[..., None, :]
        slopes = np.abs((w - v) @ G) / lengths
    else:
        slopes = np.abs(np.einsum("...ij,...j->...i", G, w - v)) / lengths
    size = np.max(np.maximum(np.abs(w), np.abs(v)) * lengths, axis=-1)
    return float(np.max(np.max(slopes, axis=-1) / np.maximum(size, np.finfo(np.float64).tiny)))
