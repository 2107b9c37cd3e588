"""Gradients that outlive their step: whose memory they are, what they keep alive, and in which precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mojd
import mojd.torch


def losses_of(module: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = module(x)
    return out.square().flatten(1).sum(1)


def test_an_input_that_is_overwritten() -> None:
    """Loops with static input buffers overwrite what a linear layer's gradients are made of."""
    module, buffer = nn.Linear(4, 3).double(), torch.randn(5, 4, dtype=torch.float64)
    engine = mojd.torch.Engine(module)
    gradients = engine.gradients(losses_of(module, buffer))
    buffer.copy_(torch.randn(5, 4, dtype=torch.float64))
    for use in (
        gradients.gramian,
        lambda: gradients.weighted(torch.ones(5)),
        lambda: gradients.times(gradients),
    ):
        with pytest.raises(mojd.InvalidInputError, match=r"changed in place .* give the model a copy"):
            use()


def test_optimiser_steps_in_between_are_fine() -> None:
    module, x = nn.Linear(4, 3).double(), torch.randn(5, 4, dtype=torch.float64)
    engine = mojd.torch.Engine(module)
    gradients = engine.gradients(losses_of(module, x))
    G = gradients.gramian()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    assert torch.equal(gradients.gramian(), G)


def test_small_views_of_large_tensors_are_copied() -> None:
    """A head on a class token must not keep the whole sequence alive."""
    head, trunk = nn.Linear(8, 3).double(), torch.randn(6, 50, 8, dtype=torch.float64)
    engine = mojd.torch.Engine(head)
    engine.add(losses_of(head, trunk[:, 0]))
    (held,) = engine._held
    storages = {t.untyped_storage().data_ptr() for factor in held.factors.values() for t in factor.tensors}
    assert trunk.untyped_storage().data_ptr() not in storages
    assert held.nbytes < trunk.nbytes / 10
    trunk.zero_()
    assert engine.backward().gramian.shape == (6, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_example_beside_others_in_half_precision(dtype: torch.dtype) -> None:
    module, x = nn.Linear(4, 3).to(dtype), torch.randn(5, 4).to(dtype)
    engine = mojd.torch.Engine(module)
    G = engine.gramian(losses_of(module, x))
    engine.add(losses_of(module, x[:4]))
    info = engine.backward(losses_of(module, x[4:]))
    assert info.gramian.dtype == torch.float32
    torch.testing.assert_close(info.gramian, G, rtol=2e-2, atol=2e-2 * float(G.diagonal().max()))


def test_squares_beyond_half_precision() -> None:
    module = nn.Linear(4, 3).half()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(4)
    G = mojd.torch.Engine(module).gramian(losses_of(module, torch.full((1, 4), 2.0).half()))
    # The output is 36, the gradient 2·36·(2, 2, 2, 2, 1) in each of 3 rows.
    assert G.item() == 3 * 72**2 * 17


def test_inside_an_autocast_region() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 40)), torch.randn(9, 3, 40)
    engine = mojd.torch.Engine(module)
    G = engine.gramian(losses_of(module, x))
    d = engine.gradients(losses_of(module, x)).weighted(torch.ones(9))["0.weight"]
    losses = losses_of(module, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = engine.gradients(losses)
        found, direction = gradients.gramian(), gradients.weighted(torch.ones(9))["0.weight"]
    torch.testing.assert_close(found, G, rtol=1e-6, atol=1e-6 * float(G.diagonal().max()))
    torch.testing.assert_close(direction, d, rtol=1e-5, atol=1e-6 * float(d.abs().max()))


def test_grad_has_the_layout_of_its_parameter() -> None:
    module = nn.Conv2d(8, 9, 3)
    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    mojd.torch.Engine(module).backward(losses_of(module, torch.randn(4, 8, 6, 6)))
    assert module.weight.grad is not None
    assert module.weight.grad.stride() == module.weight.stride()


def test_chunks_write_to_the_module_alone() -> None:
    """Whether chunks are held or computed again must not decide who gets a gradient."""
    torch.manual_seed(0)
    trunk, head = nn.Linear(6, 64).double(), nn.Linear(64, 3).double()
    x = torch.randn(12, 6, dtype=torch.float64)
    engine = mojd.torch.Engine(head)

    def compute(chunk: Tensor) -> Tensor:
        return losses_of(head, trunk(chunk))

    held = 2 * engine.gradients(compute(x[:3])).compacted().nbytes
    for limit in (held, 2**30):
        engine.backward_in_chunks(compute, torch.split(x, 3), memory_limit=limit)
        assert trunk.weight.grad is None
        assert head.weight.grad is not None


def jacobian(module: nn.Module, losses: Tensor) -> Tensor:
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
        parts = zip(found, module.parameters(), strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm(training: bool) -> None:
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)).double().train(training)
    losses = losses_of(module, torch.randn(4, 6, dtype=torch.float64))
    J = jacobian(module, losses)
    torch.testing.assert_close(mojd.torch.Engine(module).gramian(losses), J @ J.T, rtol=1e-12, atol=1e-12)


def test_gradients_that_vanish() -> None:
    """Subnormal numbers are rounded otherwise when they are scaled: that is no mixing of examples."""
    torch.manual_seed(0)
    module = nn.Sequential(*[layer for _ in range(120) for layer in (nn.Linear(32, 32), nn.ReLU())])
    losses = losses_of(module, torch.randn(4, 32))
    J = jacobian(module, losses).double()
    G = mojd.torch.Engine(module).gramian(losses).double()
    torch.testing.assert_close(G, J @ J.T, rtol=1e-5, atol=1e-5 * float((J @ J.T).diagonal().max()))


def test_outputs_without_elements() -> None:
    module = nn.Linear(5, 3).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    losses = losses_of(module, x) + module(x)[:, :0].sum(1)
    J = jacobian(module, losses)
    torch.testing.assert_close(mojd.torch.Engine(module).gramian(losses), J @ J.T, rtol=1e-12, atol=1e-12)


class OwnRows(nn.Module):
    """A parameter with a row for each example, and what comes before it in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.rows = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x).tanh() * self.rows
        return out.tanh()


def test_a_rule_that_does_not_suit_needs_the_graph() -> None:
    """The backward pass frees the graph, unless a parameter is used in a way that no rule is for."""
    torch.manual_seed(0)
    module, x = OwnRows().double(), torch.randn(5, 3, dtype=torch.float64)
    engine = mojd.torch.Engine(module)
    for _ in range(2):
        losses = losses_of(module, x)
        J = jacobian(module, losses)
        info = engine.backward(losses)
        torch.testing.assert_close(info.gramian, J @ J.T, rtol=1e-12, atol=1e-12)
