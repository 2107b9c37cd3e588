"""Any operation: its own backward formula, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Dense, in_single_precision
from mojd.torch.examples.graph import Node


def one_by_one(node: Node, position: int, cotangents: Mapping[int, Cotangent], shape: torch.Size) -> Dense:
    """Return the gradients of the tensor that `node` takes as its input number `position`.

    The backward formula of the node is called with the gradient of one example at a time, zero elsewhere.
    That is right for any operation, and takes K times its work. vmap would call it once, but its batching
    rules are not all right: that of ``cdist``, in PyTorch 2.13, gives wrong numbers.

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
    total: Tensor | None = None
    for output, cotangent in cotangents.items():
        rows = []
        for gradient in cotangent.one_at_a_time():
            found = formula(*zeros[:output], gradient, *zeros[output + 1 :])
            # A node with one input returns its gradient bare.
            own: Tensor | None = found if isinstance(found, Tensor) else found[position]
            rows.append(torch.zeros(shape).to(gradient) if own is None else own.sum_to_size(shape))
        values = torch.stack(rows)
        total = values if total is None else total + values
    assert total is not None
    return Dense(in_single_precision(total))


def _formula(node: Node) -> Callable[..., Any]:
    """Return what computes the gradients of the inputs from those of the outputs."""
    # The node of a torch.autograd.Function is the context that its backward takes.
    formula: Callable[..., Any] = node if callable(node) else node.apply
    return formula
