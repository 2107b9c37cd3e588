"""What every method does that sees the values of the losses and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mojd import _checks
from mojd._arrays import (
    Array,
    as_array,
    device_float64,
    is_array,
    is_on_device,
    namespace,
    restore,
    to_float64,
)
from mojd.errors import InvalidInputError


class LossView(NamedTuple):
    """Losses as the caller gave them and in float64, with the namespace of the latter."""

    original: Array
    values: Array
    xp: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., K)."""
        return tuple(self.original.shape)

    def beside(self, value: Any) -> Array:
        """Return an array or number in float64, on the device of the losses."""
        if self.xp is np:
            return to_float64(value) if is_array(value) else np.asarray(value, dtype=np.float64)
        if is_array(value) and is_on_device(value):
            return device_float64(value)
        host = to_float64(value) if is_array(value) else np.asarray(value, dtype=np.float64)
        return self.xp.asarray(host, dtype=self.xp.float64, device=self.original.device)


def view_losses(losses: Any, name: str = "losses") -> LossView:
    """Check the type and the shape of losses, and look at them in float64 without moving them."""
    original = as_array(losses, name)
    shape = tuple(original.shape)
    if not shape or shape[-1] < 1:
        raise InvalidInputError(
            f"{name} must have shape (..., K) with K >= 1, one per objective; got {shape}"
        )
    if is_on_device(original):
        return LossView(original, device_float64(original), namespace(original))
    return LossView(original, to_float64(original), np)


def check_losses(losses: LossView, nonfinite: str, name: str = "losses") -> None:
    """Raise if there is NaN among losses on the CPU, unless it is to propagate."""
    _checks.check_nonfinite(nonfinite)
    if losses.xp is np and nonfinite == "raise":
        _checks.check_finite(losses.values, name)


def loss_argument(value: Any, name: str, losses: LossView) -> Array:
    """Check an argument that is a number or one per loss, and return it in float64 beside the losses."""
    array = as_array(value, name)
    if array.ndim:
        _checks.check_rows(array, losses.shape[-1], name, "one entry per loss")
        _checks.broadcast_batch(losses.shape[:-1], tuple(array.shape[:-1]), f"losses and {name}")
    if not is_on_device(array):
        _checks.check_finite(to_float64(array), name, "it must be finite")
    return losses.beside(array)


def by_losses(losses: Any, nonfinite: str, formula: Callable[[LossView], Array]) -> Array:
    """Compute weights by a formula on finite float64 losses.

    `formula` sees ones where losses hold NaN or infinity, the weights of which are NaN afterwards.
    """
    seen = view_losses(losses)
    check_losses(seen, nonfinite)
    xp = seen.xp
    finite = xp.all(xp.isfinite(seen.values), axis=-1, keepdims=True)
    clean = xp.where(finite, seen.values, xp.ones_like(seen.values))
    weights = formula(LossView(seen.original, clean, xp))
    return restore(xp.where(finite, weights, xp.full_like(weights, math.nan)), seen.original)
