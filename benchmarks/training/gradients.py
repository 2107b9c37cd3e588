"""Jacobians and Gramians of several losses with respect to a network's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Recorded: TypeAlias = Iterator[tuple[str, Tensor]]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def per_example_gramian(network: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the (K, K) Gramian of the losses of K examples, one objective each."""
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(network, parameters, (x.unsqueeze(0),)), y.unsqueeze(0))

    gradients: dict[str, Tensor] = vmap(grad(one), in_dims=(None, 0, 0))(parameters, inputs, targets)
    jacobian = torch.cat([value.flatten(start_dim=1) for value in gradients.values()], dim=1)
    return jacobian @ jacobian.T


def gramian(losses: Sequence[Tensor], parameters: Iterable[Tensor]) -> Tensor:
    """Return the (K, K) Gramian of K scalar losses; a loss need not depend on every parameter."""
    targets = list(parameters)
    rows = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, targets, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step of the optimiser on the loss."""
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()
