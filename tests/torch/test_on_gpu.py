"""Training on a CUDA model: the same directions as on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mojd
import mojd.torch
from tests.torch.few_losses import Tasks

pytestmark = pytest.mark.gpu


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Compare what is on the GPU with what is on the CPU; sums there have another order."""
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-7, atol=1e-9)


def on_both(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A model on the CPU and its copy on the GPU."""
    return model, copy.deepcopy(model).cuda()


def assert_same_gradients(host: nn.Module, device: nn.Module) -> None:
    for ours, theirs in zip(host.parameters(), device.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None and theirs.grad is not None:
            assert theirs.grad.is_cuda
            assert_close(theirs.grad, ours.grad)


@pytest.mark.parametrize(
    ("name", "options"),
    [("UPGrad", {}), ("MGDA", {}), ("DualProj", {}), ("PCD", {"tau": 0.3}), ("Mean", {}), ("AlignedMTL", {})],
)
def test_steps_on_a_few_losses(name: str, options: dict[str, Any]) -> None:
    host, device = on_both(Tasks(4).double())
    methods, optimisers = [], []
    for model in (host, device):
        params = [p for p in model.parameters() if p.requires_grad]
        methods.append(getattr(mojd.torch, name)(params, **options))
        optimisers.append(torch.optim.SGD(params, 0.05))
    for _ in range(3):
        inputs = torch.randn(5, 2, 5, 5, dtype=torch.float64)
        for model, method, optimiser in zip((host, device), methods, optimisers, strict=True):
            optimiser.zero_grad()
            given = inputs.to(next(model.parameters()).device)
            assert isinstance(model, Tasks)
            info = method.backward(model.losses(given))
            assert info.weights.shape == (4,)
        assert_same_gradients(host, device)
        for optimiser in optimisers:
            optimiser.step()


def test_one_loss_per_example() -> None:
    layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 3))
    host, device = on_both(layers.double())
    x, y = torch.randn(24, 6, dtype=torch.float64), torch.randint(3, (24,))
    for model in (host, device):
        where = next(model.parameters()).device
        engine = mojd.torch.Engine(model)
        losses = functional.cross_entropy(model(x.to(where)), y.to(where), reduction="none")
        info = engine.backward(losses, mojd.upgrad)
        assert (info.cosines > -1e-6).all()
    assert_same_gradients(host, device)


def gramian_and_copy(size: int = 6) -> tuple[Tensor, Tensor]:
    jacobian = torch.randn((3, size, 2 * size), dtype=torch.float64)
    gramian = jacobian @ jacobian.mT
    return gramian, gramian.cuda()


@pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcd"])
class TestOperators:
    def test_derivatives(self, name: str) -> None:
        gradients = []
        for gramian in gramian_and_copy():
            leaf = gramian.detach().requires_grad_()
            weights = getattr(mojd.torch, name)(leaf)
            assert weights.device == leaf.device
            (gradient,) = torch.autograd.grad(weights.square().sum(), leaf)
            gradients.append(gradient)
        torch.testing.assert_close(gradients[1].cpu(), gradients[0], rtol=1e-6, atol=1e-8)

    def test_vmap_and_compile(self, name: str) -> None:
        function = getattr(mojd.torch, name)
        host, device = gramian_and_copy()
        expected = function(host)
        assert_close(torch.vmap(function)(device), expected)
        compiled = torch.compile(lambda G: 2.0 * function(G), fullgraph=True, backend="eager")
        assert_close(compiled(device), 2.0 * expected)
