"""The explicit Jacobian of a vector of losses: one backward pass per loss, in whatever dtype the losses have.

It shares no code with the engine: what it says is what `torch.autograd.grad` says about each loss alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Jacobian:
    """Gradients of all losses: for each trainable parameter an array of shape (number of losses, *shape)."""

    rows: dict[str, Tensor]
    reached: frozenset[str]

    def gramian(self) -> Tensor:
        """Return J Jᵀ."""
        flat = torch.cat([rows.reshape(len(rows), -1) for rows in self.rows.values()], dim=1)
        return flat @ flat.T

    def norms(self) -> Tensor:
        """Return the norm of each loss's gradient."""
        return self.gramian().diagonal().sqrt()

    def weighted(self, weights: Tensor) -> dict[str, Tensor]:
        """Return Jᵀw, parameter by parameter."""
        return {name: torch.einsum("k...,k->...", rows, weights) for name, rows in self.rows.items()}

    def derivatives(self, direction: dict[str, Tensor]) -> Tensor:
        """Return J d: how each loss changes along a direction."""
        products = [
            (rows * direction[name]).reshape(len(rows), -1).sum(1) for name, rows in self.rows.items()
        ]
        return torch.stack(products).sum(0)


def jacobian(module: nn.Module, losses: Tensor) -> Jacobian:
    """Return the Jacobian with one row per element of `losses`, in order; the graph survives."""
    names, parameters = zip(*((n, p) for n, p in module.named_parameters() if p.requires_grad), strict=True)
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    reached: set[str] = set()
    for loss in losses.flatten():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
            rows[name].append(torch.zeros_like(parameter) if gradient is None else gradient.to_dense())
            if gradient is not None:
                reached.add(name)
    stacked = {name: torch.stack(parts).double() for name, parts in rows.items()}
    return Jacobian(stacked, frozenset(reached))
