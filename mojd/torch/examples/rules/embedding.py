"""Embeddings: rows of a table, chosen by integers."""

from __future__ import annotations

import torch

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Factor, Rows, in_single_precision
from mojd.torch.examples.graph import Node
from mojd.torch.examples.layout import Layout


def embedding(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of a table of which rows were taken."""
    del position
    values = cotangent.first.flatten(1, -2)
    indices = cotangent.saved(node._saved_indices).flatten(1)
    padding = node._saved_padding_idx
    # PyTorch writes "none" as -1 and as its largest unsigned number.
    if 0 <= padding < shape[0]:
        values = values * (indices != padding)[..., None]
    return Rows(indices, in_single_precision(values), shape)


def suits(position: int, layout: Layout, output: torch.Size, shape: torch.Size) -> bool:
    """Whether the examples are among the indices, and not the entries of a row."""
    del position, shape
    return layout.axis != len(output) - 1
