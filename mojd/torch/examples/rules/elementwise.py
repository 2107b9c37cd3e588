"""Sums and products with a parameter that is broadcast over the examples."""

from __future__ import annotations

import torch
from torch import Tensor

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Dense, Factor, in_single_precision
from mojd.torch.examples.graph import Node


def add(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor | None:
    """Return the gradients of a term of left + alpha·right."""
    return broadcast(times(cotangent.raw, node._saved_alpha if position == 1 else 1), cotangent, shape)


def sub(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor | None:
    """Return the gradients of a term of left − alpha·right."""
    return broadcast(times(cotangent.raw, -node._saved_alpha if position == 1 else 1), cotangent, shape)


def mul(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor | None:
    """Return the gradients of a factor of left·right, element by element."""
    other = node._saved_other if position == 0 else node._saved_self
    return broadcast([tensor * other for tensor in cotangent.raw], cotangent, shape)


def expand(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor | None:
    """Return the gradients of what was repeated, without a copy, along the axis of the examples."""
    del node, position
    return broadcast(cotangent.raw, cotangent, shape)


def broadcast(tensors: list[Tensor], cotangent: Cotangent, shape: torch.Size) -> Dense | None:
    """Sum products (..., examples, ...) over all that a tensor of `shape` was broadcast over, but examples.

    There is no such sum if the tensor has rows of its own for the examples.
    """
    axis = cotangent.layout.axis
    missing = tensors[0].dim() - len(shape)
    if axis >= missing and shape[axis - missing] != 1:
        return None
    rows = in_single_precision(cotangent.gathered(tensors))
    kept = [index for index, length in enumerate(shape) if length != 1]
    summed = [
        index for index in range(1, rows.dim()) if index - 1 - missing not in kept and rows.shape[index] > 1
    ]
    values = rows.sum(summed) if summed else rows
    return Dense(values.reshape(len(values), *shape))


def over_channels(tensors: list[Tensor], cotangent: Cotangent, shape: torch.Size) -> Dense | None:
    """Sum tensors (N, C, ...) over all axes but that of the examples and the channels."""
    channels = torch.Size((*shape, *(1 for _ in tensors[0].shape[2:])))
    summed = broadcast(tensors, cotangent, channels)
    return None if summed is None else Dense(summed.values.reshape(-1, *shape))


def times(tensors: list[Tensor], factor: float) -> list[Tensor]:
    """Return multiples of tensors."""
    return tensors if factor == 1 else [tensor * factor for tensor in tensors]
