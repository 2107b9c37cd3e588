"""Layer, group and batch normalisation: the scale and shift after it."""

from __future__ import annotations

import torch
from torch import Tensor

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Factor
from mojd.torch.examples.graph import Node
from mojd.torch.examples.rules.elementwise import broadcast, over_channels


def layer_norm(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of weight (position 1) or bias (2) over the last axes."""
    if position == 2:
        return broadcast(cotangent.raw, cotangent, shape)
    normalised = (node._saved_input - node._saved_result1) * node._saved_result2
    return broadcast([tensor * normalised for tensor in cotangent.raw], cotangent, shape)


def group_norm(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of weight (position 1) or bias (2) over the channels."""
    if position == 2:
        return over_channels(cotangent.raw, cotangent, shape)
    inputs: Tensor = node._saved_input
    batch = len(inputs)
    groups = node._saved_group
    apart = inputs.reshape(batch, groups, -1)
    mean, factor = (saved.reshape(batch, groups, 1) for saved in (node._saved_result1, node._saved_result2))
    normalised = ((apart - mean) * factor).reshape(inputs.shape)
    return over_channels([tensor * normalised for tensor in cotangent.raw], cotangent, shape)


def batch_norm(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of weight (position 1) or bias (2) over the channels."""
    if position == 2:
        return over_channels(cotangent.raw, cotangent, shape)
    if node._saved_training:
        mean, factor = node._saved_result1, node._saved_result2
    else:
        mean = node._saved_running_mean
        factor = torch.rsqrt(node._saved_running_var + _epsilon(node))
    inputs: Tensor = node._saved_input
    channels = (-1, *(1 for _ in inputs.shape[2:]))
    normalised = (inputs - mean.view(channels)) * factor.view(channels)
    return over_channels([tensor * normalised for tensor in cotangent.raw], cotangent, shape)


def _epsilon(node: Node) -> float:
    return float(node._saved_eps if hasattr(node, "_saved_eps") else node._saved_epsilon)
