"""One parameter in several places: cross terms between its uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch.examples.zoo._case import Problem, Table, score, scores

sharing = Table()


@sharing
def module_used_twice(k: int) -> Problem:
    def losses(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return score(layer(x).tanh() * layer(y))

    return Problem(nn.Linear(3, 4), (torch.randn(k, 3), torch.randn(k, 3)), losses)


@sharing
def module_used_on_one_and_on_many(k: int) -> Problem:
    """Once on vectors, once on sequences, once on sequences of another length."""

    def losses(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return score(layer(x)) + score(layer(y)) * score(layer(y[:, 1:].sin()))

    return Problem(nn.Linear(3, 4), (torch.randn(k, 3), torch.randn(k, 4, 3)), losses)


@sharing
def same_activations_used_twice(k: int) -> Problem:
    module = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 3)])

    def losses(layers: nn.ModuleList, x: Tensor) -> Tensor:
        h = layers[0](x).relu()
        return score(layers[1](h)) + score(layers[2](h) * layers[1](h))

    return Problem(module, (torch.randn(k, 3),), losses)


@sharing
def weight_of_two_modules(k: int) -> Problem:
    module = nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)
    )
    module[2].weight = module[0].weight
    return Problem(module, (torch.randn(k, 4),), scores)


@sharing
def bias_of_two_modules(k: int) -> Problem:
    module = nn.Sequential(nn.Conv2d(2, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4))
    module[3].bias = module[0].bias
    return Problem(module, (torch.randn(k, 2, 3, 3),), scores)


class Autoencoder(nn.Module):
    """The decoder's weight is the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(5, 3), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encoder(x).sigmoid(), self.encoder.weight.T, self.bias)


sharing.layer("autoencoder", Autoencoder, 5)
sharing.layer("autoencoder_on_sequences", Autoencoder, 4, 5)


@sharing
def convolutional_autoencoder(k: int) -> Problem:
    def losses(layer: nn.Conv2d, x: Tensor) -> Tensor:
        return score(F.conv_transpose2d(layer(x).tanh(), layer.weight, stride=2))

    return Problem(nn.Conv2d(2, 3, 3, stride=2), (torch.randn(k, 2, 5, 5),), losses)


@sharing
def convolution_and_linear(k: int) -> Problem:
    """One parameter as the weight of a convolution and of a linear layer."""

    def losses(layer: nn.Conv2d, x: Tensor) -> Tensor:
        h = layer(x).tanh()
        return score(F.linear(h.flatten(1)[:, :12], layer.weight.flatten(1), layer.bias))

    return Problem(nn.Conv2d(3, 4, 2), (torch.randn(k, 3, 4, 4),), losses)


@sharing
def tied_embeddings(k: int) -> Problem:
    module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 7, bias=False))
    module[3].weight = module[0].weight

    def losses(layers: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(layers(x).transpose(1, 2), y, reduction="none").sum(1)

    return Problem(module, (torch.randint(7, (k, 5)), torch.randint(7, (k, 5))), losses)


@sharing
def tied_embeddings_with_padding(k: int) -> Problem:
    """The padding token has a gradient through the output only."""
    module = nn.Sequential(nn.Embedding(5, 4, padding_idx=0), nn.Tanh(), nn.Linear(4, 5, bias=False))
    module[2].weight = module[0].weight
    return Problem(module, (torch.randint(5, (k, 6)),), scores)


@sharing
def norm_used_twice(k: int) -> Problem:
    class TwoNorms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.linear(self.norm(x)).relu())
            return y

    return Problem(TwoNorms(), (torch.randn(k, 3, 4),), scores)


@sharing
def convolution_used_at_two_scales(k: int) -> Problem:
    def losses(layer: nn.Module, x: Tensor) -> Tensor:
        return score(layer(x)) + score(layer(F.avg_pool2d(x, 2)))

    return Problem(nn.Conv2d(2, 3, 2), (torch.randn(k, 2, 6, 6),), losses)


@sharing
def siamese(k: int) -> Problem:
    """Two views of an example, one after the other through one network."""
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def losses(layers: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return 1.0 - F.cosine_similarity(layers(x), layers(y))

    return Problem(module, (torch.randn(k, 4), torch.randn(k, 4)), losses)


@sharing
def layer_and_raw_product(k: int) -> Problem:
    """The weight of a layer is also used by itself, in three more ways."""

    def losses(layer: nn.Linear, x: Tensor) -> Tensor:
        h = layer(x).tanh()
        return score(h @ layer.weight) + score(x * layer.weight[0]) + score(h.square() * layer.weight.sum())

    return Problem(nn.Linear(4, 4), (torch.randn(k, 4),), losses)


@sharing
def one_network_for_all_positions(k: int) -> Problem:
    """A list of calls, one per position, joined along another axis than the examples'."""
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return score(torch.stack([layers(x[:, i]) for i in range(4)], dim=0), axis=1)

    return Problem(module, (torch.randn(k, 4, 3),), losses)
