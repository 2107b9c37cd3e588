"""Embeddings: rows of a table, chosen by integers."""

from __future__ import annotations

import torch

from mojd.errors import InvalidInputError
from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Factor, Rows
from mojd.torch.examples.graph import Node


def embedding(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor | None:
    """Return the gradients of a table of which rows were taken.

    Raises
    ------
    InvalidInputError
        If the gradient of an example depends on the others, or is to be sparse.
    """
    del position
    if node._saved_scale_grad_by_freq:
        raise InvalidInputError(
            f"an embedding of shape {tuple(shape)} has scale_grad_by_freq=True: it divides the gradient of an "
            "example by counts over the batch, so that there is no gradient per example; set it to False"
        )
    if node._saved_sparse:
        raise InvalidInputError(
            f"an embedding of shape {tuple(shape)} has sparse=True, but what mojd writes into .grad is dense; "
            "set it to False"
        )
    if cotangent.layout.axis == cotangent.raw[0].dim() - 1:
        return None
    values = cotangent.first.flatten(1, -2)
    indices = cotangent.saved(node._saved_indices).flatten(1)
    padding = node._saved_padding_idx
    # PyTorch writes "none" as -1 and as its largest unsigned number.
    if 0 <= padding < shape[0]:
        values = values * (indices != padding)[..., None]
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    return Rows(indices, values, shape)
