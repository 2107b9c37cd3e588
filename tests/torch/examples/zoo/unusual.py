"""Layouts in which the examples are no axis of what a layer sees.

The losses are per example all the same. An engine may refuse them, but must never be wrong.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.torch.examples.zoo._case import Problem, Table, score, scores

unusual = Table()


def network() -> nn.Module:
    """Return a small network on features."""
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@unusual
def loop_over_examples(k: int) -> Problem:
    """One call per example: no tensor but the losses has an axis for the examples."""

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return torch.stack([score(layers(row), 0).sum() for row in x])

    return Problem(network(), (torch.randn(k, 4),), losses)


@unusual
def loop_over_batches_of_one(k: int) -> Problem:
    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([scores(layers, row) for row in torch.split(x, 1)])

    return Problem(network(), (torch.randn(k, 4),), losses)


@unusual
def two_halves_of_a_batch(k: int) -> Problem:
    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([scores(layers, part) for part in torch.split(x, 2)])

    return Problem(network(), (torch.randn(k, 4),), losses)


@unusual
def two_views_in_one_batch(k: int) -> Problem:
    """Both views of all examples in one batch of 2K rows."""

    def losses(layers: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        first, second = layers(torch.cat([x, y])).chunk(2)
        return score(first * second)

    return Problem(network(), (torch.randn(k, 4), torch.randn(k, 4)), losses)


@unusual
def each_example_repeated(k: int) -> Problem:
    """Three augmented copies, one after the other."""

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        copies = (
            x.repeat_interleave(3, 0) * torch.linspace(0.5, 1.5, 3, dtype=x.dtype).repeat(len(x))[:, None]
        )
        return scores(layers, copies).view(-1, 3).mean(1)

    return Problem(network(), (torch.randn(k, 4),), losses)


@unusual
def experts_on_parts_of_the_batch(k: int) -> Problem:
    """Each expert sees the examples that are routed to it."""
    module = nn.ModuleList([network(), network()])

    def losses(experts: nn.ModuleList, x: Tensor) -> Tensor:
        goes_to = (x[:, 0] > 0).long()
        output = x.new_zeros(len(x), 3)
        for number, expert in enumerate(experts):
            (rows,) = torch.nonzero(goes_to == number, as_tuple=True)
            output = output.index_add(0, rows, expert(x[rows]))
        return score(output)

    return Problem(module, (torch.randn(k, 4),), losses)


@unusual
def tokens_without_padding(k: int) -> Problem:
    """Sequences of different lengths, one after the other, as graph networks have their nodes."""

    def losses(layers: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        owner, _ = torch.nonzero(mask, as_tuple=True)
        per_token = layers(x[mask > 0]).sin().sum(-1)
        return x.new_zeros(len(x)).index_add(0, owner, per_token)

    lengths = 1 + (3 * torch.arange(k)) % 4
    mask = (torch.arange(4) < lengths[:, None]).long()
    return Problem(network(), (torch.randn(k, 4, 4), mask), losses)


@unusual
def packed_sequences(k: int) -> Problem:
    module = nn.GRU(3, 4, batch_first=True)

    def losses(layer: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return score(pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=4)[0])

    return Problem(module, (torch.randn(k, 4, 3), 1 + torch.arange(k) % 4), losses)


@unusual
def embedding_bag_with_offsets(k: int) -> Problem:
    """All tokens in one axis, and where each example's begin."""
    module = nn.EmbeddingBag(7, 4)

    def losses(layer: nn.Module, words: Tensor) -> Tensor:
        return score(layer(words.flatten(), torch.arange(0, words.numel(), words.shape[1])))

    return Problem(module, (torch.randint(7, (k, 3)),), losses)


@unusual
def sparse_embedding(k: int) -> Problem:
    module = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Linear(4, 3))
    return Problem(module, (torch.randint(7, (k, 3)),), scores)


@unusual
def examples_as_channels(k: int) -> Problem:
    """A convolution of one image whose groups are the examples, with weights that are repeated."""

    def losses(layer: nn.Conv2d, x: Tensor) -> Tensor:
        count = len(x)
        weight = layer.weight.repeat(count, 1, 1, 1)
        output = F.conv2d(x.flatten(0, 1).unsqueeze(0), weight, groups=count)
        return score(output.view(count, -1))

    return Problem(nn.Conv2d(2, 3, 3, bias=False), (torch.randn(k, 2, 5, 5),), losses)


def scaled_by_frequency(k: int) -> Problem:
    """PyTorch divides each token's gradient by its count in the whole batch."""
    module = nn.Sequential(nn.Embedding(5, 4, scale_grad_by_freq=True), nn.Linear(4, 3))
    return Problem(module, (torch.randint(5, (k, 4)),), scores)


def permuted(k: int) -> Problem:
    """Loss k is that of another example."""

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return scores(layers, x).roll(1)

    return Problem(network(), (torch.randn(k, 4),), losses)


def losses_of_some_examples(k: int) -> Problem:
    """The batch has examples that have no loss, in front and between."""

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        padded = torch.cat([x[:1], x, x]).sin()
        return scores(layers, padded)[1::2][: len(x)]

    return Problem(network(), (torch.randn(k, 4),), losses)


unusual.add("embedding_scaled_by_frequency", scaled_by_frequency, separable=False)
unusual.add("permuted_losses", permuted, separable=False)
unusual.add("losses_of_some_examples", losses_of_some_examples, separable=False)
