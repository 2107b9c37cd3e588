"""What an operation does with a parameter: a rule for each kind of node.

``rule(node, position, cotangent, shape)`` returns the per-example gradients of the tensor that the node
takes as its input number `position`, or None if it does not cover the case; :mod:`.anything` then does.
To add a rule, write it and name its node here.
"""

from collections.abc import Callable, Mapping

import torch

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Factor
from mojd.torch.examples.graph import Node
from mojd.torch.examples.rules import convolution, elementwise, embedding, matrices, normalisation
from mojd.torch.examples.rules.anything import one_by_one

__all__ = ["RULES", "Rule", "one_by_one"]

Rule = Callable[[Node, int, Cotangent, torch.Size], Factor | None]

RULES: Mapping[str, Rule] = {
    "AddBackward0": elementwise.add,
    "AddmmBackward0": matrices.addmm,
    "ConvolutionBackward0": convolution.convolution,
    "CudnnBatchNormBackward0": normalisation.batch_norm,
    "EmbeddingBackward0": embedding.embedding,
    "ExpandBackward0": elementwise.expand,
    "MmBackward0": matrices.mm,
    "MulBackward0": elementwise.mul,
    "NativeBatchNormBackward0": normalisation.batch_norm,
    "NativeGroupNormBackward0": normalisation.group_norm,
    "NativeLayerNormBackward0": normalisation.layer_norm,
    "SubBackward0": elementwise.sub,
}
