"""Linear layers, chains of them, and what stands between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch.examples.zoo._case import Problem, Table, score

linear = Table()

linear.layer("linear", lambda: nn.Linear(3, 4), 3)
linear.layer("linear_without_bias", lambda: nn.Linear(3, 4, bias=False), 3)
linear.layer("linear_to_one", lambda: nn.Linear(3, 1), 3)
linear.layer("linear_from_one", lambda: nn.Linear(1, 3), 1)
linear.layer("linear_on_sequences", lambda: nn.Linear(3, 4), 7, 3)
linear.layer("linear_on_sequences_without_bias", lambda: nn.Linear(3, 4, bias=False), 7, 3)
linear.layer("linear_on_long_sequences", lambda: nn.Linear(2, 2), 40, 2)
linear.layer("linear_on_sequences_of_one", lambda: nn.Linear(3, 4), 1, 3)
linear.layer("linear_on_grids", lambda: nn.Linear(3, 4), 3, 2, 3)
linear.layer("linear_on_grids_without_bias", lambda: nn.Linear(3, 4, bias=False), 3, 2, 3)
linear.layer("bilinear_between_linears", lambda: Bilinear(bias=True), 3)
linear.layer("bilinear_without_bias", lambda: Bilinear(bias=False), 3)
linear.layer("bilinear_on_sequences", lambda: Bilinear(bias=True), 4, 3)
linear.layer("prelu", lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2)), 3)
linear.layer("prelu_per_channel", lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.PReLU(4)), 2, 6)
linear.layer(
    "chain_in_place",
    lambda: nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)
    ),
    5,
)
linear.layer(
    "chain_of_activations",
    lambda: nn.Sequential(
        *(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4), nn.Tanh()),
        *(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 4), nn.Softmax(dim=-1), nn.Linear(4, 4), nn.LogSigmoid()),
        *(nn.Linear(4, 4), nn.LeakyReLU(inplace=True), nn.Linear(4, 2)),
    ),
    4,
)
linear.layer(
    "dropout_in_eval_mode", lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).eval(), 3
)
linear.layer("residual", lambda: Residual(), 4)
linear.layer("residual_on_sequences", lambda: Residual(), 3, 4)


class Bilinear(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 3)
        self.product = nn.Bilinear(2, 3, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.product(self.left(x), self.right(x))
        return output


class Residual(nn.Module):
    """Activations that are used twice, and added to in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        h = h + self.second(h)
        y: Tensor = self.third(h) * h
        y += h
        return y


@linear
def fixed_dropout_masks(k: int) -> Problem:
    module = nn.ModuleList([nn.Linear(3, 8), nn.Linear(8, 4)])

    def losses(layers: nn.ModuleList, x: Tensor, mask: Tensor) -> Tensor:
        return score(layers[1](layers[0](x) * mask))

    return Problem(module, (torch.randn(k, 3), 2.0 * torch.randint(2, (k, 8))), losses)


@linear
def cross_entropy(k: int) -> Problem:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def losses(layers: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(layers(x), y, reduction="none", label_smoothing=0.1)

    return Problem(module, (torch.randn(k, 4), torch.randint(3, (k,))), losses)


@linear
def squared_error_of_a_scalar(k: int) -> Problem:
    """Outputs of shape (K,)."""
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def losses(layers: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(layers(x).squeeze(-1), y, reduction="none")

    return Problem(module, (torch.randn(k, 4), torch.randn(k)), losses)


@linear
def skips_and_branches(k: int) -> Problem:
    """Branches that split, are sliced, written into slices, and meet again."""
    module = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abcd"})

    def losses(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        a = layers["a"](x)
        left, right = a.chunk(2, dim=-1)
        b = layers["b"](torch.cat([left.sigmoid() * right, x[..., 1:3]], dim=-1))
        c = torch.zeros_like(b)
        c[:, :2] = layers["c"](b)[:, 2:]
        c[:, 2:] = left
        top, _ = torch.maximum(layers["d"](c), a).sort(dim=-1)
        return score(top + torch.where(b > 0, b, a * b))

    return Problem(module, (torch.randn(k, 4),), losses)


def bmm_losses(module: nn.Module, x: Tensor) -> Tensor:
    """Every layer of a ModuleList through its own slice of x."""
    assert isinstance(module, nn.ModuleList)
    return torch.stack([score(layer(x[:, i])) for i, layer in enumerate(module)]).sum(0)


@linear
def one_layer_per_position(k: int) -> Problem:
    return Problem(nn.ModuleList([nn.Linear(3, 2) for _ in range(4)]), (torch.randn(k, 4, 3),), bmm_losses)
