"""Any operation: its own backward formula, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Dense
from mojd.torch.examples.graph import Node

# How many numbers the masked gradients of one call may have.
_BLOCK = 2**24


def by_masking(node: Node, position: int, cotangents: Mapping[int, Cotangent], shape: torch.Size) -> Dense:
    """Return the gradients of the tensor that `node` takes as its input number `position`.

    The backward formula of the node is called with the gradient of one example at a time, zero elsewhere,
    vectorised over examples by vmap. That is right for any operation, and takes K times its work.

    Parameters
    ----------
    node, position
        The operation, and which of its inputs.
    cotangents
        The gradients of its outputs, by their numbers.
    shape
        Of the input. The formulas of some operations leave it to autograd to sum over broadcast axes.
    """
    formula = _formula(node)
    zeros = [torch.zeros(m.shape, dtype=m.dtype, device=m.device) for m in node._input_metadata]

    def masked(output: int, cotangent: Cotangent, raw: Tensor) -> Tensor:
        def one(mask: Tensor) -> Tensor:
            found = formula(*zeros[:output], raw * mask, *zeros[output + 1 :])
            # A node with one input returns its gradient bare.
            gradient: Tensor = found if isinstance(found, Tensor) else found[position]
            return gradient.sum_to_size(shape)

        with torch.no_grad():
            rows = torch.vmap(one, chunk_size=max(1, _BLOCK // raw.numel()))(_masks(cotangent))
        return rows

    total: Tensor | None = None
    for output, cotangent in cotangents.items():
        rows = [masked(output, cotangent, raw) for raw in cotangent.raw]
        values = rows[0] if len(rows) == 1 else torch.stack(rows, dim=1).flatten(0, 1)
        total = values if total is None else total + values
    assert total is not None
    return Dense(total.float() if total.dtype in (torch.float16, torch.bfloat16) else total)


def _masks(cotangent: Cotangent) -> Tensor:
    """Return for each example (K, ...) where its part of the gradient is, to be broadcast against it."""
    axis, _, inner = cotangent.layout
    shape = cotangent.raw[0].shape
    index = torch.arange(shape[axis], device=cotangent.raw[0].device)
    owner = ((index // inner) % cotangent.size).view(-1, *(1 for _ in shape[axis + 1 :]))
    number = torch.arange(cotangent.size, device=owner.device)
    return number.view(-1, *(1 for _ in shape)) == owner


def _formula(node: Node) -> Callable[..., Any]:
    """Return what computes the gradients of the inputs from those of the outputs."""
    if callable(node):
        return node
    # A torch.autograd.Function: its node is the context that its backward takes.
    formula: Callable[..., Any] = node.apply
    return formula
