"""How close the engine has to come to the explicit Jacobian, and what its errors must say."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from tests.torch.examples.reference import Jacobian, jacobian
from tests.torch.examples.zoo import Problem

DTYPES = (torch.float64, torch.float32)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def reference_of(problem: Problem) -> Jacobian:
    """Return the Jacobian in float64, at the parameters as they are."""
    exact = problem.to(torch.float64)
    return jacobian(exact.module, exact.losses())


def assert_gramians_close(G: Tensor, reference: Tensor, tolerance: float) -> None:
    """Compare entry by entry, relative to the norms of the two gradients; where they are 0, exactly."""
    assert G.shape == reference.shape
    assert not G.requires_grad
    norms = reference.diagonal().sqrt()
    error = (G.double() - reference).abs()
    allowed = tolerance * torch.outer(norms, norms)
    worst = (error / allowed.clamp(min=torch.finfo(torch.float64).tiny)).max().item() * tolerance
    assert bool((error <= allowed).all()), f"relative error {worst:.1e}"


def assert_directions_close(
    found: dict[str, Tensor], reference: Jacobian, weights: Tensor, tolerance: float
) -> None:
    """Compare Jᵀw parameter by parameter, relative to what is added up.

    Where a parameter's gradient is nothing but rounding (the keys' bias of an attention layer), the
    rounding of the whole gradient is what counts.
    """
    weights = weights.double()
    expected = reference.weighted(weights)
    assert set(found) <= set(expected)
    assert set(found) >= reference.reached
    rounding = torch.finfo(torch.float64 if tolerance < 1e-9 else torch.float32).eps
    whole = (weights.abs() * reference.norms()).sum()
    for name, direction in expected.items():
        if name not in found:
            continue
        rows = reference.rows[name].reshape(len(weights), -1)
        allowed = tolerance * (weights.abs() * rows.norm(dim=1)).sum() + rounding * whole
        assert found[name].shape == direction.shape, name
        assert not found[name].requires_grad, name
        error = (found[name].double() - direction).norm()
        assert error <= allowed, f"{name}: {error:.1e} is more than {allowed:.1e}"


def names_something_of(module: nn.Module, message: str) -> bool:
    """Whether a message has the name of a parameter or of a part of the module, as a word."""
    names = [name for name, _ in (*module.named_parameters(), *module.named_modules()) if name]
    return any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", message) for name in names)
