"""What states from a checkpoint must look like, before anything is taken over from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._inputs import a_type


def check_entries(state: Any, names: Sequence[str]) -> None:
    """Raise unless `state` is a mapping with these entries, and no others.

    Raises
    ------
    InvalidTypeError
        If it is no mapping.
    InvalidInputError
        If an entry is missing, or there is one too many.
    """
    if not isinstance(state, Mapping):
        raise InvalidTypeError(f"state is {a_type(state)}; pass the dict that state_dict() returned")
    if set(state) != set(names):
        given = ", ".join(map(repr, state)) or "none"
        plural = "entry" if len(names) == 1 else "entries"
        raise InvalidInputError(
            f"state must have the {plural} {', '.join(map(repr, names))}, from state_dict(); got {given}"
        )


def check_numbers(value: Any, name: str, shape: str, ndim: int) -> None:
    """Raise unless an entry is a tensor of finite floating-point numbers with `ndim` equal axes.

    Parameters
    ----------
    value : object
    name : str
        Of the entry.
    shape : str
        How the shape is written, such as '(K, K)'.
    ndim : int

    Raises
    ------
    InvalidTypeError
        If it is no tensor, or of no floating-point dtype.
    InvalidInputError
        If it has another shape, or holds NaN or infinity.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        what = f"a tensor of dtype {value.dtype}" if isinstance(value, Tensor) else a_type(value)
        raise InvalidTypeError(
            f"state['{name}'] is {what}; it must be a floating-point tensor of shape {shape}, or None"
        )
    if value.ndim != ndim or value.numel() == 0 or len(set(value.shape)) != 1:
        raise InvalidInputError(
            f"state['{name}'] has shape {tuple(value.shape)}; it must have {shape}, with K losses"
        )
    if not value.is_meta and not bool(torch.isfinite(value).all()):
        raise InvalidInputError(f"state['{name}'] holds NaN or infinity, which no step leaves there")


def steps_of(value: Any) -> Tensor:
    """Return a number of steps as an int64 tensor of shape ().

    Raises
    ------
    InvalidTypeError
        If it is no integer.
    InvalidInputError
        If it is negative.
    """
    is_count = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, Tensor):
        kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
        is_count = value.ndim == 0 and value.dtype in kinds
    if not is_count:
        raise InvalidTypeError(
            f"state['steps'] must be an integer, or a tensor of shape () with one; got {value!r}"
        )
    steps = torch.as_tensor(value, dtype=torch.int64).clone()
    if not steps.is_meta and int(steps) < 0:
        raise InvalidInputError(f"state['steps'] must not be negative, got {int(steps)}")
    return steps
