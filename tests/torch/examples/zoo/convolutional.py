"""Convolutions, in any layout, and what comes with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch.examples.zoo._case import Problem, Table, score, scores

convolutional = Table()


def behind(make: Callable[[], nn.Module]) -> nn.Module:
    """Put a layer behind another one, so that gradients go through it, too."""
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.Tanh(), make())


convolutional.layer("conv1d", lambda: nn.Conv1d(3, 4, 3), 3, 8)
convolutional.layer("conv1d_full_options", lambda: nn.Conv1d(4, 6, 3, 2, 2, 2, groups=2), 4, 9)
convolutional.layer("conv1d_depthwise", lambda: nn.Conv1d(4, 8, 3, padding="same", groups=4), 4, 6)
convolutional.layer("conv1d_length_one", lambda: nn.Conv1d(4, 3, 1, bias=False), 4, 1)
convolutional.layer("conv3d", lambda: nn.Conv3d(2, 3, (1, 2, 3)), 2, 3, 4, 5)
convolutional.layer("conv3d_full_options", lambda: nn.Conv3d(2, 4, 2, 2, 1, (1, 2, 1), groups=2), 2, 4, 5, 4)
CONV2D: dict[str, Callable[[], nn.Module]] = {
    "conv2d": lambda: nn.Conv2d(4, 3, 3),
    "conv2d_without_bias": lambda: nn.Conv2d(4, 3, 3, bias=False),
    "conv2d_stride": lambda: nn.Conv2d(4, 3, 3, stride=(2, 3)),
    "conv2d_stride_leaves_a_rest": lambda: nn.Conv2d(4, 3, 2, stride=4),
    "conv2d_padding": lambda: nn.Conv2d(4, 3, (3, 2), padding=(2, 1)),
    "conv2d_dilation": lambda: nn.Conv2d(4, 3, (2, 3), dilation=(3, 2)),
    "conv2d_groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "conv2d_depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
    "conv2d_depthwise_multiplier": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "conv2d_full_options": lambda: nn.Conv2d(4, 6, (2, 3), (2, 1), (1, 3), (2, 2), groups=2),
    "conv2d_same": lambda: nn.Conv2d(4, 3, 3, padding="same"),
    "conv2d_unequal_padding": lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(4, 3, (2, 4))),
    "conv2d_reflect": lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
    "conv2d_circular": lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
    "conv2d_replicate": lambda: nn.Conv2d(4, 3, 3, padding="same", padding_mode="replicate"),
    "conv2d_1x1": lambda: nn.Conv2d(4, 3, 1),
    "conv2d_1x1_stride": lambda: nn.Conv2d(4, 3, 1, stride=2, bias=False),
    "conv2d_whole_image": lambda: nn.Conv2d(4, 3, (6, 7)),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(4, 3, 3),
    "conv_transpose2d_full_options": lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=2),
    "conv_transpose2d_without_bias": lambda: nn.ConvTranspose2d(4, 3, 2, stride=2, bias=False),
}
for _name, _layer in CONV2D.items():
    convolutional.layer(_name, partial(behind, _layer), 2, 6, 7)
convolutional.layer("conv_transpose1d", lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1), 3, 6)
convolutional.layer("conv_transpose3d", lambda: nn.ConvTranspose3d(2, 3, 2, groups=1), 2, 3, 2, 3)
convolutional.layer(
    "small_cnn",
    lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, groups=2), nn.ELU()),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3)),
    ),
    *(3, 14, 14),
)
convolutional.layer(
    "cnn_with_global_pooling",
    lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.ReLU(), nn.Upsample(scale_factor=2)),
        *(nn.Conv2d(4, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ),
    *(3, 6, 6),
)
convolutional.layer(
    "pixel_shuffle",
    lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 2, 3), nn.PixelUnshuffle(2)),
    *(2, 5, 5),
)


@convolutional
def channels_last(k: int) -> Problem:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 1))
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return scores(layers, x.contiguous(memory_format=torch.channels_last))

    return Problem(module, (torch.randn(k, 3, 8, 7),), losses)


@convolutional
def images_that_are_not_contiguous(k: int) -> Problem:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 2))

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return scores(layers, x.transpose(2, 3)[:, :, ::2, 1:])

    return Problem(module, (torch.randn(k, 3, 6, 10),), losses)


@convolutional
def frames_of_videos(k: int) -> Problem:
    """Examples and time in one axis: (K·T, C, H, W)."""
    module = nn.ModuleList([nn.Conv2d(2, 3, 3), nn.Conv1d(3, 4, 2)])

    def losses(layers: nn.ModuleList, x: Tensor) -> Tensor:
        frames = layers[0](x.flatten(0, 1)).relu().mean((2, 3))
        return score(layers[1](frames.unflatten(0, x.shape[:2]).transpose(1, 2)))

    return Problem(module, (torch.randn(k, 4, 2, 5, 5),), losses)


@convolutional
def convolution_by_unfolding(k: int) -> Problem:
    def losses(layer: nn.Module, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3, stride=2).transpose(1, 2)
        return score(F.fold(layer(patches).transpose(1, 2), (7, 7), 3, stride=2))

    return Problem(nn.Linear(18, 9), (torch.randn(k, 2, 7, 7),), losses)
