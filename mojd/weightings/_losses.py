"""What every method does that sees the values of the losses and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mojd import _checks
from mojd._arrays import Array, as_array, is_on_device, to_float64
from mojd.errors import InvalidInputError
from mojd.weightings._shared import beside, look, where_finite


class LossView(NamedTuple):
    """Losses as the caller gave them and in float64, with the namespace of the latter."""

    original: Array
    values: Array
    xp: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., K)."""
        return tuple(self.original.shape)


def view_losses(losses: Any, name: str = "losses") -> LossView:
    """Check the type and the shape of losses, and look at them in float64 without moving them."""
    original = as_array(losses, name)
    shape = tuple(original.shape)
    if not shape or shape[-1] < 1:
        raise InvalidInputError(
            f"{name} must have shape (..., K) with K >= 1, one per objective; got {shape}"
        )
    return LossView(original, *look(original))


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
    return beside(array, losses)


def by_losses(losses: Any, nonfinite: str, formula: Callable[[LossView], Array]) -> Array:
    """Compute weights by a formula on finite float64 losses.

    `formula` sees ones where losses hold NaN or infinity, the weights of which are NaN afterwards.
    """
    seen = view_losses(losses)
    check_losses(seen, nonfinite)
    return where_finite(seen, 1, 1.0, lambda clean: formula(LossView(seen.original, clean, seen.xp)))
