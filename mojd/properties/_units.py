"""The unit in which an error of a direction is measured."""

from __future__ import annotations

import numpy as np

from mojd._arrays import FloatArray


def largest(jacobian: FloatArray, *directions: FloatArray) -> float:
    """Return the length of the longest row or direction; 1 if all are zero."""
    rows = float(np.linalg.norm(jacobian, axis=-1).max(initial=0.0))
    longest = max([rows, *(float(np.linalg.norm(direction)) for direction in directions)])
    return longest or 1.0
