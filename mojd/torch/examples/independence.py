"""Whether examples that were apart in one step are sure to be apart in the next.

The probe finds what a step has done. A graph of the same structure does the same with the examples if each
of its operations is bound to, whatever the values: an element-wise operation, a sum over another axis, a
linear layer. A product with a matrix that depends on data, or a look-up, may leave the examples apart today
and mix them tomorrow; after these the probe is needed in every step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mojd.torch.examples.graph import Above, Consumer, Edge, Graph
from mojd.torch.examples.layout import Layout

# What these do with the axes of a tensor depends on nothing but what a graph's signature says.
_BOUND = frozenset(
    """
    Abs Acos Acosh Add Addcdiv Addcmul Alias Asin Asinh Atan Atan2 Atanh BinaryCrossEntropy
    BinaryCrossEntropyWithLogits Ceil Celu Clamp ClampMax ClampMin Clone Copysign Cos Cosh Digamma Div Elu Erf
    Erfc Erfinv Exp Exp2 Expm1 Floor Fmod Frac Gelu Glu Hardshrink Hardsigmoid Hardswish Hardtanh HuberLoss
    Hypot KlDiv LeakyRelu Lerp Lgamma Log Log10 Log1P Log2 LogSigmoid Logaddexp Logaddexp2 Logit MaskedFill
    Maximum Minimum Mish MseLoss Mul NanToNum NativeDropout Neg Pow PreluKernel Reciprocal Relu Remainder
    Round RreluWithNoise Rsqrt Rsub Sgn Sigmoid Sign Silu Sin Sinc Sinh SmoothL1Loss SoftMarginLoss Softplus
    Softshrink Sqrt Square Sub Tan Tanh Threshold ToCopy Trunc Where Xlogy

    AsStrided Cat ConstantPadNd Diagonal Expand Flip Im2Col Col2Im Movedim Narrow
    Permute PixelShuffle PixelUnshuffle ReflectionPad1D ReflectionPad2D ReflectionPad3D Repeat
    ReplicationPad1D ReplicationPad2D ReplicationPad3D Reshape ReshapeAlias Roll Select Slice Split
    SplitWithSizes Squeeze Stack T Transpose Unbind Unflatten Unfold UnsafeSplit UnsafeView Unsqueeze View
    ViewAsComplex ViewAsReal

    Amax Amin Cummax Cumprod Cumsum LinalgVectorNorm LogSoftmax Logcumsumexp Logsumexp Max Mean Min NllLoss
    NllLoss2D Norm Prod Softmax Std StdMean Sum Var VarMean

    AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D AvgPool2D AvgPool3D
    MaxPool2DWithIndices MaxPool3DWithIndices MkldnnMaxPool2D UpsampleBicubic2D UpsampleBilinear2D
    UpsampleLinear1D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleTrilinear3D

    CudnnBatchNorm CudnnRnn FusedRmsNorm MkldnnRnnLayer NativeBatchNorm NativeGroupNorm NativeLayerNorm
    ThnnFusedGruCell ThnnFusedLstmCell

    FftC2C FftC2R FftR2C
    """.split()  # noqa: SIM905 - as a table of names it can be read
)
# Which inputs of a product of matrices are on the left and on the right.
_PRODUCTS = {"Addmm": (1, 2), "Baddbmm": (1, 2), "Bmm": (0, 1), "Mm": (0, 1), "Mv": (0, 1)}


def nodes_between(graph: Graph, uses: Sequence[int], consumers: dict[Edge, list[Consumer]]) -> list[Edge]:
    """Return the edges that lead from nodes that use parameters to the losses."""
    takers: dict[int, list[Edge]] = {}
    for edge in consumers:
        takers.setdefault(edge.node, []).append(edge)
    waiting = list(dict.fromkeys(uses))
    seen = set(waiting)
    found = []
    for number in waiting:  # grows on the way
        for edge in takers.get(number, []):
            found.append(edge)
            fresh = [taker.node for taker in consumers[edge] if taker.node not in seen]
            seen.update(fresh)
            waiting += dict.fromkeys(fresh)
    return found


def is_bound_to_keep_apart(graph: Graph, edge: Edge, layout: Layout, above: Sequence[Above]) -> bool:
    """Return whether an operation whose output has the examples at `layout` can never mix them."""
    children = graph.children[edge.node]
    if all(child is None or above[child.node] is Above.PARAMETERS for child in children):
        return True
    # Nodes of PyTorch's own have a number. A Function of the user's may have any other name.
    name = re.sub(r"Backward\d+$", "", graph.nodes[edge.node].name())
    if name in _PRODUCTS:
        # The rows of a product depend on the same rows of the left factor, and on all of the right one.
        left, right = _PRODUCTS[name]
        axis = layout.axis - (len(graph.shape(edge)) - 2 if name != "Mv" else 0)
        if axis < 0:
            return True
        other = children[right if axis == 0 else left]
        return other is None or above[other.node] is Above.PARAMETERS
    if name == "Convolution":
        return layout.axis == 0
    if name in ("Gather", "IndexSelect"):
        return bool(graph.nodes[edge.node]._saved_dim % len(graph.shape(edge)) != layout.axis)
    if name.startswith("ScaledDotProduct"):
        return layout.axis in (0, 1)
    return name in _BOUND
