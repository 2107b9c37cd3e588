"""What methods that need the gradients themselves do around their own mathematics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import Array, as_array
from mojd.weightings._shared import View, look, where_finite


def by_rows(jacobian: Any, nonfinite: str, formula: Callable[[View], Array]) -> Array:
    """Compute directions (..., n) by a formula on finite float64 Jacobians (..., K, n).

    `formula` sees zeros where a Jacobian holds NaN or infinity, whose direction is NaN afterwards.
    Whatever the dtype, the result is rounded to it once.
    """
    original = as_array(jacobian, "jacobian")
    _checks.check_jacobian_shape(original)
    _checks.check_nonfinite(nonfinite)
    rows = View(original, *look(original))
    if nonfinite == "raise" and rows.xp is np:
        _checks.check_finite(rows.values, "jacobian")
    return where_finite(rows, 2, 0.0, lambda clean: formula(View(original, clean, rows.xp)))
