"""Models with a few losses, and their gradients by ``loss.backward()``, one loss at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]


class Tasks(nn.Module):
    """A shared trunk, a head per task, a parameter that nothing uses and a frozen one."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 6), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(6, 2) for _ in range(tasks)])
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def losses(self, inputs: Tensor) -> list[Tensor]:
        features = self.trunk(inputs) * self.frozen
        return [(head(features) - k).square().mean() * (k + 1) for k, head in enumerate(self.heads)]


@dataclass
class Problem:
    """What a test differentiates: fresh losses at every call, and all parameters."""

    losses: Callable[[], list[Tensor]]
    params: list[Tensor]


def tasks(count: int = 3, dtype: torch.dtype = torch.float64, batch: int = 5) -> Problem:
    torch.manual_seed(0)
    model = Tasks(count).to(dtype)
    inputs = torch.randn(batch, 2, 5, 5, dtype=dtype)
    return Problem(lambda: model.losses(inputs), list(model.parameters()))


def rows(losses: Callable[[], Sequence[Tensor]], params: Sequence[Tensor]) -> Floats:
    """The Jacobian in float64, with every loss on a graph of its own; zeros for what a loss misses."""
    kept = [p for p in params if p.requires_grad]
    before = [p.grad for p in kept]
    found = []
    for k in range(len(losses())):
        for p in kept:
            p.grad = None
        loss = losses()[k]
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        parts = [np.zeros(p.numel()) if p.grad is None else flat(p.grad) for p in kept]
        found.append(np.concatenate(parts))
    for p, gradient in zip(kept, before, strict=True):
        p.grad = gradient
    return np.stack(found)


def flat(tensor: Tensor) -> Floats:
    values: Floats = tensor.detach().double().contiguous().view(-1).numpy().copy()
    return values


def written(params: Sequence[Tensor]) -> Floats:
    """All of .grad, 0 where there is none."""
    kept = [p for p in params if p.requires_grad]
    return np.concatenate([np.zeros(p.numel()) if p.grad is None else flat(p.grad) for p in kept])


def gramian_error(found: Tensor, jacobian: Floats) -> float:
    """The largest error relative to the two norms."""
    expected = jacobian @ jacobian.T
    norms = np.sqrt(np.diagonal(expected))
    scale = np.outer(norms, norms)
    difference = np.abs(found.double().numpy() - expected)
    return float(np.max(difference / np.where(scale > 0, scale, 1.0)))


def direction_error(found: Floats, jacobian: Floats, weights: Tensor) -> float:
    """The error of d relative to the sizes of its terms."""
    w = weights.double().numpy()
    size = np.abs(w) @ np.linalg.norm(jacobian, axis=1)
    return float(np.linalg.norm(found - jacobian.T @ w) / size)
