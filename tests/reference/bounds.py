"""How large a residual may be: the bars of the project, and what no solver could do better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import certify, exact
from .families import FAMILIES, Floats, Sample
from .nnqp import squared_distance

WELL_POSED = 1e-12
HARD = 1e-9
# A Gramian holds squares: rows closer than √ε to a dependency look dependent, or feign one, and the
# slack of x is as uncertain as that. For some members of these families exact.residual_floor proves
# that nothing reaches 1e-9; for others only weights of 1e7 and more do, which point into the noise.
UNRESOLVED = 2 * float(np.sqrt(np.finfo(np.float64).eps))
UNRESOLVED_FAMILIES = ("near_antiparallel", "nearly_weakly_stationary_1e-8")
# Larger weights (in units of max |q|, for rows of norm one) are no excuse for a larger residual.
LARGEST_WEIGHT = 1e3


def stored_gramian(family: str, sample: Sample) -> NDArray[Any]:
    """The Gramian in the precision in which its family computes it."""
    return sample.gramian.astype(np.float32) if family.startswith("float32") else sample.gramian


def residual_bar(family: str) -> float:
    """The scale-free residual to reach on a Gramian that is positive semidefinite to rounding."""
    if FAMILIES[family].well_posed:
        return WELL_POSED
    return UNRESOLVED if family in UNRESOLVED_FAMILIES else HARD


def residual_bound(family: str, gramian: Floats, linear: Floats, x: Floats) -> float:
    """The scale-free residual that an exact solver's x may have.

    That is the family's bar, but for Gramians that float32 made indefinite: those need not have a KKT
    point. Exact for the nearest semidefinite Gramian, x still leaves that Gramian's distance times its
    size on the given one. For K <= 6, what is unavoidable is known exactly, whatever the size of x.
    """
    bar = residual_bar(family)
    if not family.startswith("float32"):
        return bar
    norms = certify.row_norms(gramian)
    largest = float(np.abs(linear / norms).max())
    weight = float(np.abs(x * norms).max()) / largest if largest else 0.0
    unavoidable = 100 * certify.indefiniteness(gramian) * min(max(1.0, weight), LARGEST_WEIGHT)
    if len(linear) <= 6:
        unavoidable = max(unavoidable, 3 * exact.residual_floor(gramian, linear))
    return max(bar, unavoidable)


def direction_error(weights: Floats, truth: Sequence[Fraction], gramian: Floats) -> float:
    """The error of J'w, relative to J'w*, or to what cancels in it, or to the largest gradient.

    The last is for exact weights that are all on gradients of zero: w may be on others that cancel.
    """
    error = exact.direction_error(weights, truth, gramian)
    if math.isinf(error):
        size = float(np.abs(weights).max() * np.sqrt(np.diagonal(gramian)).max())
        return math.sqrt(squared_distance(weights, truth, gramian)) / size
    return error
