"""Shapes of operators' results, known before anything is computed, and the place of vmap's axis in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mojd import _checks
from mojd._arrays import as_array
from mojd.errors import InvalidInputError


def check_gramian(gramian: Tensor, name: str = "gramian") -> None:
    """Raise unless `gramian` has real numbers and the shape (..., K, K)."""
    _checks.check_gramian_shape(as_array(gramian, name), name)


def check_rows(tensor: Tensor | None, size: int, name: str, meaning: str) -> None:
    """Raise unless `tensor` is absent, or has real numbers and the shape (..., size)."""
    if tensor is not None:
        _checks.check_rows(as_array(tensor, name), size, name, meaning)


def batch_of(tensors: dict[str, Tensor | None], cores: Sequence[int]) -> torch.Size:
    """Return the broadcast leading axes of tensors, the last `cores` axes of which are no batch axes.

    NumPy would turn symbolic sizes into numbers.
    """
    shapes = {
        name: tensor.shape[: tensor.ndim - core]
        for (name, tensor), core in zip(tensors.items(), cores, strict=True)
        if tensor is not None
    }
    try:
        shape: torch.Size = torch.broadcast_shapes(*shapes.values())  # type: ignore[no-untyped-call]
    except RuntimeError:
        shown = ", ".join(f"{tuple(shape)} of {name}" for name, shape in shapes.items())
        raise InvalidInputError(f"leading (batch) axes do not broadcast: {shown}") from None
    return shape


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return what a weighting returns for a Gramian such as `like`, with any values."""
    dtype = like.dtype if like.is_floating_point() else torch.float64
    return torch.empty(tuple(shape), dtype=dtype, device=like.device)


def with_leading_axis(
    tensors: Sequence[Tensor | None], axes: Sequence[int | None], cores: Sequence[int]
) -> list[Tensor | None]:
    """Move vmap's axis of each tensor in front of all its batch axes, and line the latter up.

    Batch axes broadcast from the right, so that whoever has fewer of them gets axes of length 1 between
    vmap's and its own. Tensors without vmap's axis broadcast as they are.
    """
    present = [
        (tensor.ndim - core - (axis is not None))
        for tensor, axis, core in zip(tensors, axes, cores, strict=True)
        if tensor is not None
    ]
    rank = max(present)
    moved: list[Tensor | None] = []
    for tensor, axis, core in zip(tensors, axes, cores, strict=True):
        if tensor is None or axis is None:
            moved.append(tensor)
            continue
        first = tensor.movedim(axis, 0)
        missing = rank - (first.ndim - 1 - core)
        moved.append(first.reshape(first.shape[0], *(1,) * missing, *first.shape[1:]))
    return moved
