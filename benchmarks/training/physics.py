"""A physics-informed network for a heat equation with a fast-varying source.

    u_t = u_xx + f  on x, t in [0, 1],   u = exp(-t) sin(10 pi x) by choice of f

The source and the second derivative are of order (10 pi)², about 1000, so that the mean squared
residual starts between 4e5 and 4e8 times above the losses of the initial state, the data and the
boundary.
"""

from __future__ import annotations

import math

import torch
from rich.progress import track
from torch import Tensor, nn

from training.gradients import Recorded, descend, gramian

STAGES = (0, 2, 5, 10, 20, 40, 70, 100, 150, 200, 300, 400, 500, 600, 800, 1000)
WAVENUMBER = 10 * math.pi
FREQUENCIES = 6
POINTS = 128
COLLOCATED = 16


def solution(x: Tensor, t: Tensor) -> Tensor:
    """Return the exact temperature."""
    return torch.exp(-t) * torch.sin(WAVENUMBER * x)


def network() -> nn.Sequential:
    """Return an untrained network from Fourier features of x, and t, to u."""
    width = 2 * FREQUENCIES + 1
    return nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def temperature(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """Return the network's temperature at points (N,)."""
    waves = 2 * math.pi * x.unsqueeze(1) * torch.arange(1, FREQUENCIES + 1)
    values: Tensor = model(torch.cat((waves.sin(), waves.cos(), t.unsqueeze(1)), dim=1))
    return values.squeeze(1)


def squared_residuals(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """Return (u_t - u_xx - f)² at every point (N,)."""
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
    u = temperature(model, x, t)
    u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
    source = (WAVENUMBER**2 - 1) * solution(x, t).detach()
    return (u_t - u_xx - source).square()


def losses(model: nn.Module, points: torch.Generator) -> list[Tensor]:
    """Return the residual, initial, boundary and data losses on random points."""
    x, t = torch.rand(2, POINTS, generator=points)
    zeros, sides = torch.zeros(POINTS), (torch.arange(POINTS) % 2).to(x.dtype)
    sensors = ((8 * x).floor() + 0.5) / 8
    return [
        squared_residuals(model, x, t).mean(),
        (temperature(model, x, zeros) - solution(x, zeros)).square().mean(),
        temperature(model, sides, t).square().mean(),
        (temperature(model, sensors, t) - solution(sensors, t)).square().mean(),
    ]


def record_heat() -> Recorded:
    """Train with Adam on the plain sum; K = 4 losses, 3 of them, and 16 collocation points."""
    torch.manual_seed(0)
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    points = torch.Generator().manual_seed(0)
    x, t = torch.rand(2, COLLOCATED, generator=torch.Generator().manual_seed(1))
    for step in track(range(max(STAGES) + 1), description="physics-informed"):
        terms = losses(model, points)
        if step in STAGES:
            everything = gramian(terms, model.parameters())
            yield "physics-4", everything
            yield "physics-3", everything[:3, :3]
            yield "physics-points-16", gramian(list(squared_residuals(model, x, t)), model.parameters())
        descend(optimiser, torch.stack(terms).sum())
