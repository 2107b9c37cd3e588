"""Sums and products with a parameter that is broadcast over the examples."""

from __future__ import annotations

import torch
from torch import Tensor

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Dense, Factor, in_single_precision
from mojd.torch.examples.graph import Node
from mojd.torch.examples.layout import Layout


def add(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of a term of left + alpha·right."""
    return broadcast(times(cotangent.raw, node._saved_alpha if position == 1 else 1), cotangent, shape)


def sub(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of a term of left − alpha·right."""
    return broadcast(times(cotangent.raw, -node._saved_alpha if position == 1 else 1), cotangent, shape)


def mul(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of a factor of left·right, element by element."""
    other = node._saved_other if position == 0 else node._saved_self
    return broadcast([tensor * other for tensor in cotangent.raw], cotangent, shape)


def expand(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of what was repeated, without a copy, along the axis of the examples."""
    del node, position
    return broadcast(cotangent.raw, cotangent, shape)


def is_shared(layout: Layout, output: torch.Size, shape: torch.Size) -> bool:
    """Whether a tensor of `shape`, broadcast to an output, has no rows of its own for the examples."""
    missing = len(output) - len(shape)
    return layout.axis < missing or shape[layout.axis - missing] == 1


def suits(position: int, layout: Layout, output: torch.Size, shape: torch.Size) -> bool:
    """Whether the rules for what is broadcast hold."""
    del position
    return is_shared(layout, output, shape)


def suits_channels(position: int, layout: Layout, output: torch.Size, shape: torch.Size) -> bool:
    """Whether the rules for what is broadcast along axis 1 hold."""
    del position
    return is_shared(layout, output, as_channels(shape, output))


def broadcast(tensors: list[Tensor], cotangent: Cotangent, shape: torch.Size) -> Dense:
    """Sum products (..., examples, ...) over all that a tensor was broadcast over, but the examples."""
    missing = tensors[0].dim() - len(shape)
    rows = in_single_precision(cotangent.gathered(tensors))
    kept = [index for index, length in enumerate(shape) if length != 1]
    summed = [
        index for index in range(1, rows.dim()) if index - 1 - missing not in kept and rows.shape[index] > 1
    ]
    values = rows.sum(summed) if summed else rows
    return Dense(values.reshape(len(values), *shape))


def over_channels(tensors: list[Tensor], cotangent: Cotangent, shape: torch.Size) -> Dense:
    """Sum tensors (N, C, ...) over all axes but that of the examples and the channels."""
    summed = broadcast(tensors, cotangent, as_channels(shape, tensors[0].shape))
    return Dense(summed.values.reshape(-1, *shape))


def as_channels(shape: torch.Size, output: torch.Size) -> torch.Size:
    """Return the shape in which one number per channel is broadcast to outputs (N, C, ...)."""
    return torch.Size((*shape, *(1 for _ in output[2:])))


def times(tensors: list[Tensor], factor: float) -> list[Tensor]:
    """Return multiples of tensors."""
    return tensors if factor == 1 else [tensor * factor for tensor in tensors]
