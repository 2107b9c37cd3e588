"""What training loops do: freezing, routing, masking, checkpointing, several tasks."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.torch.examples.zoo._case import Problem, Table, score, scores

training = Table()


def freeze(module: nn.Module, *names: str) -> nn.Module:
    """Freeze the parameters of these names."""
    for name in names:
        module.get_parameter(name).requires_grad_(False)
    return module


def small_network() -> nn.Module:
    """Return a network with most kinds of layers."""
    return nn.Sequential(
        nn.Conv1d(2, 4, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.LayerNorm(4)
    )


def frozen_network(*names: str) -> nn.Module:
    """Return that network with parameters frozen."""
    return freeze(small_network(), *names)


FROZEN = {
    "frozen_weights": ("0.weight", "1.weight", "4.weight", "5.weight"),
    "frozen_biases": ("0.bias", "1.bias", "4.bias", "5.bias"),
    "frozen_first_layers": ("0.weight", "0.bias", "1.weight", "1.bias"),
    "frozen_last_layers": ("4.weight", "4.bias", "5.weight", "5.bias"),
    "frozen_in_the_middle": ("1.weight", "1.bias", "4.weight"),
    "all_frozen_but_one_bias": ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "5.weight", "5.bias"),
}
for _name, _names in FROZEN.items():
    training.layer(_name, partial(frozen_network, *_names), 2, 4)


@training
def frozen_embedding(k: int) -> Problem:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    return Problem(freeze(module, "0.weight"), (torch.randint(5, (k, 4)),), scores)


@training
def inputs_that_need_gradients(k: int) -> Problem:
    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return scores(layers, x.detach().requires_grad_())

    return Problem(small_network(), (torch.randn(k, 2, 4),), losses)


@training
def parameters_that_no_loss_reaches(k: int) -> Problem:
    module = nn.ModuleDict({"body": nn.Linear(3, 4), "used": nn.Linear(4, 2), "unused": nn.Linear(4, 2)})

    def losses(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return score(layers["used"](layers["body"](x).relu()))

    return Problem(module, (torch.randn(k, 3),), losses)


@training
def detached_body(k: int) -> Problem:
    module = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2)})

    def losses(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return score(layers["head"](layers["body"](x).detach()))

    return Problem(module, (torch.randn(k, 3),), losses)


@training
def one_of_two_networks_for_each_example(k: int) -> Problem:
    """Routing by a mask: each network reaches some examples' losses only."""
    module = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)])

    def losses(layers: nn.ModuleList, x: Tensor) -> Tensor:
        gate = x[:, :1].detach() > 0
        return score(layers[2](torch.where(gate, layers[0](x), layers[1](x)).relu()))

    return Problem(module, (torch.randn(k, 3),), losses)


@training
def gradients_that_are_zero_for_some(k: int) -> Problem:
    """Every second example is masked."""

    def losses(layers: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        return scores(layers, x) * mask

    return Problem(small_network(), (torch.randn(k, 2, 4), torch.arange(k) % 2.0), losses)


@training
def gradients_that_are_zero_for_all_but_one(k: int) -> Problem:
    """Four time steps and features, so that shapes alone do not say which axis counts what."""

    def losses(layers: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        return scores(layers, x) * mask

    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    return Problem(module, (torch.randn(k, 4, 4), (torch.arange(k) == k // 2).double()), losses)


@training
def gradients_that_are_zero_for_all(k: int) -> Problem:
    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return scores(layers, x) * 0.0

    return Problem(small_network(), (torch.randn(k, 2, 4),), losses)


@training
def gradients_that_are_zero_but_for_one_step(k: int) -> Problem:
    """Each example's loss sees the time step of its own number only: diagonal gradients."""

    def losses(layers: nn.Module, x: Tensor, seen: Tensor) -> Tensor:
        per_step: Tensor = layers(x).sin().sum(-1)
        return (per_step * seen).sum(1)

    seen = torch.eye(k, 4) if k <= 4 else torch.eye(4).repeat(k, 1)[:k]
    return Problem(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (torch.randn(k, 4, 3), seen), losses)


@training
def hinge_losses(k: int) -> Problem:
    """Most gradients are exactly zero."""

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return F.relu(scores(layers, x) - 1.0)

    return Problem(small_network(), (torch.randn(k, 2, 4),), losses)


@training
def equal_examples(k: int) -> Problem:
    """The same example K times, by `expand`: strides of zero, and a Gramian of rank one."""

    def losses(layers: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return scores(layers, x[:1].expand_as(x)) + 0.0 * y

    return Problem(nn.Linear(3, 4), (torch.ones(k, 5, 3), torch.zeros(k)), losses)


@training
def inputs_that_are_not_contiguous(k: int) -> Problem:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        return scores(layers, x.transpose(1, 2)[:, ::2].flip(1))

    return Problem(module, (torch.randn(k, 3, 6),), losses)


class Checkpointed(nn.Module):
    """Activations of the middle are computed again during the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 4), nn.Linear(4, 2)
        self.middle = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        middle = checkpoint(self.middle, self.enter(x), use_reentrant=False)
        output: Tensor = self.leave(middle)
        return output


training.layer("checkpointed", Checkpointed, 3)
training.layer("checkpointed_on_sequences", Checkpointed, 5, 3)


def detached_statistics(k: int) -> Problem:
    """Losses divided by a statistic of all examples through which no gradient flows."""

    def losses(layers: nn.Module, x: Tensor) -> Tensor:
        plain = scores(layers, x)
        return plain / (1.0 + plain.detach().abs().mean())

    return Problem(small_network(), (torch.randn(k, 2, 4),), losses)


training.add("detached_statistics", detached_statistics, separable=False)


class Tasks(nn.Module):
    """A body and one head for each of three tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        self.heads = nn.ModuleList([nn.Linear(5, outputs) for outputs in (1, 2, 3)])

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.body(x).relu()
        return [head(features) for head in self.heads]


def task_losses(module: nn.Module, x: Tensor) -> Tensor:
    """Return losses of shape (K, 3)."""
    return torch.stack([score(output) for output in module(x)], dim=1)


training.add("tasks", lambda k: Problem(Tasks(), (torch.randn(k, 4),), task_losses))
training.add("tasks_on_sequences", lambda k: Problem(Tasks(), (torch.randn(k, 3, 4),), task_losses))


@training
def one_task(k: int) -> Problem:
    return Problem(small_network(), (torch.randn(k, 2, 4),), lambda m, x: scores(m, x).unsqueeze(1))


@training
def tasks_that_some_examples_lack(k: int) -> Problem:
    def losses(module: nn.Module, x: Tensor, labelled: Tensor) -> Tensor:
        return torch.where(labelled > 0, task_losses(module, x), 0.0)

    labelled = (torch.arange(3 * k).view(k, 3) % 4 != 1).double()
    return Problem(Tasks(), (torch.randn(k, 4), labelled), losses)


@training
def one_loss_per_output(k: int) -> Problem:
    """Losses (K, 4) that are the elements of one output."""
    module = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 4))

    def losses(layers: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(layers(x), y, reduction="none")

    return Problem(module, (torch.randn(k, 2, 4), torch.randint(2, (k, 4)).double()), losses)


@training
def one_loss_per_step(k: int) -> Problem:
    """Losses (K, 4) of a recurrent network: task m reaches the steps up to m."""
    module = nn.GRU(3, 4, batch_first=True)
    return Problem(module, (torch.randn(k, 4, 3),), lambda m, x: m(x)[0].sin().sum(-1))


@training
def task_weights_that_are_learned(k: int) -> Problem:
    """A log-variance per task: a parameter of shape (3,) that meets the losses themselves."""

    class Weighted(Tasks):
        def __init__(self) -> None:
            super().__init__()
            self.log_variance = nn.Parameter(torch.randn(3))

    def losses(module: Weighted, x: Tensor) -> Tensor:
        return task_losses(module, x) * torch.exp(-module.log_variance) + module.log_variance

    return Problem(Weighted(), (torch.randn(k, 4),), losses)
