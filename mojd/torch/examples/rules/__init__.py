"""What an operation does with a parameter: a rule for each kind of node.

To add a rule, write it and name its node here. What no rule suits, :mod:`.anything` does.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Factor
from mojd.torch.examples.graph import Node
from mojd.torch.examples.layout import Layout
from mojd.torch.examples.rules import convolution, elementwise, embedding, matrices, normalisation
from mojd.torch.examples.rules.anything import one_by_one

__all__ = ["RULES", "Rule", "one_by_one"]


class Rule(NamedTuple):
    """How per-example gradients come out of a node.

    Attributes
    ----------
    gradients : callable
        ``gradients(node, position, cotangent, shape)`` returns those of the tensor, of that shape, that the
        node takes as its input number `position`.
    suits : callable
        ``suits(position, layout, output shape, shape)``: whether that holds, with the examples at that place
        in the output. It is known before the backward pass, which frees the graph that the other way needs.
    """

    gradients: Callable[[Node, int, Cotangent, torch.Size], Factor]
    suits: Callable[[int, Layout, torch.Size, torch.Size], bool]


RULES: Mapping[str, Rule] = {
    "AddBackward0": Rule(elementwise.add, elementwise.suits),
    "AddmmBackward0": Rule(matrices.addmm, matrices.suits_addmm),
    "ConvolutionBackward0": Rule(convolution.convolution, convolution.suits),
    "CudnnBatchNormBackward0": Rule(normalisation.batch_norm, elementwise.suits_channels),
    "EmbeddingBackward0": Rule(embedding.embedding, embedding.suits),
    "ExpandBackward0": Rule(elementwise.expand, elementwise.suits),
    "MmBackward0": Rule(matrices.mm, matrices.suits_mm),
    "MulBackward0": Rule(elementwise.mul, elementwise.suits),
    "NativeBatchNormBackward0": Rule(normalisation.batch_norm, elementwise.suits_channels),
    "NativeGroupNormBackward0": Rule(normalisation.group_norm, elementwise.suits_channels),
    "NativeLayerNormBackward0": Rule(normalisation.layer_norm, elementwise.suits),
    "SubBackward0": Rule(elementwise.sub, elementwise.suits),
}
