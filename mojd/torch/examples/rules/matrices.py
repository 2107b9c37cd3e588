"""Products of matrices: linear layers, and parameters used by ``@``."""

from __future__ import annotations

import torch
from torch import Tensor

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Factor, Outer, in_single_precision
from mojd.torch.examples.graph import Node
from mojd.torch.examples.layout import Layout
from mojd.torch.examples.rules.elementwise import broadcast, is_shared, times


def addmm(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of a term or factor of beta·bias + alpha·(left @ right)."""
    if position == 0:
        return broadcast(times(cotangent.raw, node._saved_beta), cotangent, shape)
    scaled = _scaled(cotangent, node._saved_alpha)
    return _factor(position - 1, scaled, node, ("_saved_mat1", "_saved_mat2"), shape)


def mm(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of a factor of left @ right."""
    return _factor(position, cotangent, node, ("_saved_self", "_saved_mat2"), shape)


def suits_addmm(position: int, layout: Layout, output: torch.Size, shape: torch.Size) -> bool:
    """Whether the rule for bias + left @ right holds."""
    return (
        is_shared(layout, output, shape) if position == 0 else suits_mm(position - 1, layout, output, shape)
    )


def suits_mm(position: int, layout: Layout, output: torch.Size, shape: torch.Size) -> bool:
    """Whether the examples are the rows of the other factor of left @ right, or its columns."""
    del output, shape
    return layout.axis == 1 - position


def _factor(
    position: int, cotangent: Cotangent, node: Node, saved: tuple[str, str], shape: torch.Size
) -> Factor:
    """Return the gradients of the matrix on the left (position 0) or right (1) of a product.

    With Y = XW the gradient of W is XᵀB, and example by example the rows of X and of B that belong to it.
    W on the left is W on the right of the transposed product.
    """
    if position == 1:
        data: Tensor = getattr(node, saved[0])
        return Outer(_grouped(cotangent.saved(data)), _grouped(cotangent.first), shape)
    flipped = cotangent.transposed()
    data = getattr(node, saved[1]).t()
    return Outer(_grouped(flipped.first), _grouped(flipped.saved(data)), shape)


def _grouped(rows: Tensor) -> Tensor:
    """Return (N, T, a) as (N, 1, T, a), in single precision at least."""
    return in_single_precision(rows).unsqueeze(1)


def _scaled(cotangent: Cotangent, factor: float) -> Cotangent:
    if factor == 1:
        return cotangent
    return Cotangent(times(cotangent.raw, factor), cotangent.layout, cotangent.size)
