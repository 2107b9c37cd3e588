"""The networks on which training steps are measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


def mlp(width: int = 1024) -> nn.Module:
    """Return three Linear layers: two of `width` units, then one output per class."""
    return nn.Sequential(
        *(nn.Linear(width, width), nn.ReLU()),
        *(nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, CLASSES),
    )


def svhn_cnn() -> nn.Module:
    """Return the network for SVHN of Jacobian descent's paper; an example is 3 × 32 × 32.

    References
    ----------
    P. Quinton and V. Rey, Jacobian Descent for Multi-Objective Optimization, arXiv:2406.16232,
    the appendix on experimental settings.
    """
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ELU()),
        *(nn.Conv2d(16, 32, 3, groups=16), nn.MaxPool2d(2), nn.ELU()),
        *(nn.Conv2d(32, 32, 3, groups=32), nn.MaxPool2d(3), nn.ELU()),
        nn.Flatten(),
        *(nn.Linear(512, 64), nn.ELU()),
        nn.Linear(64, CLASSES),
    )


class TransformerBlock(nn.Module):
    """A pre-norm transformer block, and a linear head on the mean over the sequence.

    Parameters
    ----------
    width : int
        Of the residual stream; the hidden layer is four times as wide.
    heads : int
        Of the attention.
    """

    def __init__(self, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 4 * width)
        self.back = nn.Linear(4 * width, width)
        self.head_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences (K, T, width) to scores (K, classes)."""
        shape = x.shape
        together = self.query_key_value(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = together.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.projection(attended.transpose(1, 2).reshape(shape))
        x = x + self.back(functional.gelu(self.hidden(self.hidden_norm(x))))
        scores: Tensor = self.head(self.head_norm(x).mean(1))
        return scores


class _Residual(nn.Module):
    """Two convolutions around which the input goes too, as in ResNet-18."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.around = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.inner(x) + self.around(x))


class ResNet18(nn.Module):
    """ResNet-18 for images of 32 × 32, with a head per task.

    The trunk has the usual 11.2 million parameters; as usual for such small images, it begins with a
    3 × 3 convolution and without pooling.

    References
    ----------
    K. He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385.
    """

    def __init__(self, tasks: int, classes: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 64
        for out in (64, 128, 256, 512):
            blocks += [_Residual(channels, out, 1 if out == 64 else 2), _Residual(out, out, 1)]
            channels = out
        stem = (nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.trunk = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.heads = nn.ModuleList(nn.Linear(512, classes) for _ in range(tasks))

    def losses(self, features: Tensor, labels: Sequence[Tensor]) -> list[Tensor]:
        """Return the cross-entropy of each task, from the trunk's output."""
        return [
            functional.cross_entropy(head(features), y) for head, y in zip(self.heads, labels, strict=True)
        ]
