"""The differentiable weightings, as functions of one Gramian, and problems to try them on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import mojd.torch

Weights = Callable[[Tensor], Tensor]


def preference(gramian: Tensor) -> Tensor:
    """Return preferences 1, 2, 3, ... with a zero."""
    return torch.arange(gramian.shape[-1], dtype=gramian.dtype)


def project_rows(gramian: Tensor) -> Tensor:
    """Project three fixed vectors of either sign."""
    size = gramian.shape[-1]
    rows = torch.linspace(-1.0, 2.0, 3 * size, dtype=gramian.dtype).sin().reshape(3, size)
    return mojd.torch.project(rows, gramian)


def scaled_pcd(gramian: Tensor) -> Tensor:
    """Run PCD with scales, a threshold for each secondary, and the rescaling."""
    size = gramian.shape[-1]
    tau = torch.linspace(0.1, 0.6, size - 1, dtype=gramian.dtype)
    scales = torch.linspace(0.5, 2.0, size, dtype=gramian.dtype)
    return mojd.torch.pcd(gramian, tau, scales=scales, rescale=True)


CASES: dict[str, Weights] = {
    "upgrad": mojd.torch.upgrad,
    "upgrad, preferring": lambda gramian: mojd.torch.upgrad(gramian, preference(gramian)),
    "dualproj": mojd.torch.dualproj,
    "dualproj, preferring": lambda gramian: mojd.torch.dualproj(gramian, preference(gramian)),
    "mgda": mojd.torch.mgda,
    "pcd": lambda gramian: mojd.torch.pcd(gramian, 0.3),
    "pcd, scaled": scaled_pcd,
    "project": project_rows,
}


def jacobian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return gradients in conflict: random ones, less a common part."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (rows - 0.8 * rows.mean(dim=-2, keepdim=True)).to(dtype)


def gramian_of(J: Tensor) -> Tensor:
    """Return J Jᵀ, symmetric to the last bit."""
    G = J @ J.mT
    return 0.5 * (G + G.mT)


def derivative(weights: Weights, at: Tensor) -> Tensor:
    """Return the derivatives of all weights, on the tape, one weight after the other."""
    leaf = at.detach().clone().requires_grad_()
    w = weights(leaf)
    rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0] for entry in w.flatten()]
    return torch.stack(rows).reshape(*w.shape, *at.shape)
