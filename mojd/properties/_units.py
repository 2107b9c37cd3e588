"""Units: of an error of a direction, and of the rows of a Jacobian."""

from __future__ import annotations

import numpy as np

from mojd._arrays import FloatArray
from mojd.certificates import power_of_two

# How many roundings of the weights a direction is granted.
_ROUNDINGS = 16.0


def largest(jacobian: FloatArray, *directions: FloatArray) -> float:
    """Return the length of the longest row or direction; 1 if all are zero."""
    rows = float(np.linalg.norm(jacobian, axis=-1).max(initial=0.0))
    longest = max([rows, *(float(np.linalg.norm(direction)) for direction in directions)])
    return longest or 1.0


def beyond_rounding(difference: FloatArray, *sizes: float) -> float:
    """Return the length of a difference of directions, less what rounding of the weights explains.

    `sizes` are Σ |wᵢ|·‖gᵢ‖ of the directions: no weights in float64 fix a direction to better than
    2⁻⁵³ of that, which shows where long combinations of gradients nearly cancel.
    """
    return max(0.0, float(np.linalg.norm(difference)) - _ROUNDINGS * 2.0**-53 * sum(sizes))


def unit_rows(jacobian: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return J with rows of norms between 1 and 2, and the powers of two that made them so."""
    # By the largest entry first, whose square might not fit into a float64.
    factors = 1.0 / power_of_two(np, np.abs(jacobian).max(axis=-1, initial=0.0))
    factors /= power_of_two(np, np.linalg.norm(jacobian * factors[:, None], axis=-1))
    return jacobian * factors[:, None], factors
