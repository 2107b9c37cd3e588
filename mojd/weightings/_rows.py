"""What methods that need the gradients themselves do around their own mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import Array, as_array, device_float64, is_on_device, namespace, restore, to_float64
from mojd.weightings._shared import View


def by_rows(jacobian: Any, nonfinite: str, formula: Callable[[View], Array]) -> Array:
    """Compute directions (..., n) by a formula on finite float64 Jacobians (..., K, n).

    `formula` sees zeros where a Jacobian holds NaN or infinity, whose direction is NaN afterwards.
    Whatever the dtype, the result is rounded to it once.
    """
    original = as_array(jacobian, "jacobian")
    _checks.check_jacobian_shape(original)
    _checks.check_nonfinite(nonfinite)
    on_device = is_on_device(original)
    xp: Any = namespace(original) if on_device else np
    values = device_float64(original) if on_device else to_float64(original)
    if nonfinite == "raise" and not on_device:
        _checks.check_finite(values, "jacobian")
    finite = xp.all(xp.isfinite(values), axis=(-2, -1))
    clean = xp.where(finite[..., None, None], values, xp.zeros_like(values))
    directions = formula(View(original, clean, xp))
    spoilt = xp.full_like(directions, math.nan)
    return restore(xp.where(finite[..., None], directions, spoilt), original)
