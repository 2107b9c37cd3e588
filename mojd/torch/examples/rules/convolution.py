"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.factors import Dense, Factor, Outer, in_single_precision
from mojd.torch.examples.graph import Node
from mojd.torch.examples.layout import Layout, examples_first
from mojd.torch.examples.rules.elementwise import over_channels, suits_channels

# Below this many input channels per group, a matrix product with copied patches is faster than the library's
# convolutions.
_FEW_CHANNELS = 8


class Geometry(NamedTuple):
    """The numbers of a convolution, one per spatial axis, and its groups."""

    kernel: torch.Size
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def convolution(node: Node, position: int, cotangent: Cotangent, shape: torch.Size) -> Factor:
    """Return the gradients of weight (position 1) or bias (2).

    The gradient of the weight of a convolution is the sum over output places of the gradient there, times
    the patch of the input that the place sees. A transposed convolution exchanges inputs and outputs.
    """
    if position == 2:
        return over_channels(cotangent.raw, cotangent, shape)
    geometry = Geometry(
        shape[2:], node._saved_stride, node._saved_padding, node._saved_dilation, node._saved_groups
    )
    if node._saved_transposed:
        return _transposed(node._saved_input, cotangent, shape, geometry)
    channels = shape[1]
    places = cotangent.raw[0].shape[2:].numel()
    images = cotangent.raw[0].shape[0] // cotangent.size
    size = cotangent.size * cotangent.tasks
    few = 1 < channels < _FEW_CHANNELS
    if few or Outer.is_cheap(
        size, geometry.groups, places * images, shape[0] // geometry.groups, shape[1:].numel()
    ):
        return _by_patches(node._saved_input, cotangent, shape, geometry)
    return Dense(_by_groups(node._saved_input, cotangent, shape, geometry))


def suits(position: int, layout: Layout, output: torch.Size, shape: torch.Size) -> bool:
    """Whether the examples are images, and the tensor is the weight or the bias."""
    if position == 2:
        return suits_channels(position, layout, output, shape)
    return layout.axis == 0 and position == 1


def _by_patches(inputs: Tensor, cotangent: Cotangent, shape: torch.Size, geometry: Geometry) -> Outer:
    seen = patches(inputs, geometry, cotangent.raw[0].shape[2:])
    left = cotangent.gathered([raw.flatten(2) for raw in cotangent.raw])
    right = cotangent.saved(seen.flatten(-len(geometry.kernel)))
    groups = geometry.groups
    return Outer(_by_position(left, groups), _by_position(right.flatten(2, -2), groups), shape)


def _transposed(inputs: Tensor, cotangent: Cotangent, shape: torch.Size, geometry: Geometry) -> Outer:
    seen = [patches(raw, geometry, inputs.shape[2:]) for raw in cotangent.raw]
    left = cotangent.saved(inputs.flatten(2))
    right = cotangent.gathered([tensor.flatten(-len(geometry.kernel)) for tensor in seen])
    groups = geometry.groups
    return Outer(_by_position(left, groups), _by_position(right.flatten(2, -2), groups), shape)


def _by_groups(inputs: Tensor, cotangent: Cotangent, shape: torch.Size, geometry: Geometry) -> Tensor:
    """Return per-example gradients by one convolution in which each image has groups of its own."""
    images = len(inputs)
    groups = geometry.groups
    if shape[1] == 1 and shape[0] > groups:
        # The libraries have no fast depthwise kernels for several outputs per channel.
        inputs = inputs.repeat_interleave(shape[0] // groups, dim=1)
        groups = shape[0]
    folded = inputs.reshape(1, -1, *inputs.shape[2:])
    weight = inputs.new_empty((1, *shape[1:])).expand(images * shape[0], *shape[1:])
    rows = []
    for raw in cotangent.raw:
        _, gradient, _ = torch.ops.aten.convolution_backward(
            raw.reshape(1, -1, *raw.shape[2:]),
            folded,
            weight,
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            False,
            [0] * len(geometry.kernel),
            images * groups,
            [False, True, False],
        )
        own = examples_first(gradient.view(images, *shape), cotangent.layout, cotangent.size)
        rows.append(own[:, 0] if own.shape[1] == 1 else own.sum(1))
    values = rows[0] if len(rows) == 1 else torch.stack(rows, dim=1).flatten(0, 1)
    return in_single_precision(values)


def patches(inputs: Tensor, geometry: Geometry, places: torch.Size) -> Tensor:
    """View all patches (N, C, *kernel, *places) that a kernel sees of inputs (N, C, *spatial)."""
    kernel, stride, padding, dilation, _ = geometry
    if any(padding):
        inputs = nn.functional.pad(inputs, [amount for pad in reversed(padding) for amount in (pad, pad)])
    steps = inputs.stride()[2:]
    return inputs.as_strided(
        (*inputs.shape[:2], *kernel, *places),
        (
            *inputs.stride()[:2],
            *(step * apart for step, apart in zip(steps, dilation, strict=True)),
            *(step * jump for step, jump in zip(steps, stride, strict=True)),
        ),
        inputs.storage_offset(),
    )


def _by_position(rows: Tensor, groups: int) -> Tensor:
    """Return (N, images, groups·a, places) as (N, groups, images·places, a), in single precision at least."""
    size, images, channels, places = rows.shape
    apart = in_single_precision(rows).reshape(size, images, groups, channels // groups, places)
    if images == 1:
        return apart[:, 0].mT
    return apart.permute(0, 2, 1, 4, 3).reshape(size, groups, images * places, channels // groups)
