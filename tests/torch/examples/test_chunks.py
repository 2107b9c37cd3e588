"""Batches in chunks under a memory limit: Gramian and direction of the whole batch, whatever is held."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mojd
import mojd.torch
from mojd.torch.examples import PerExampleGradients

Losses = Callable[[Tensor], Tensor]


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 4)).double()


def losses_of(module: nn.Module) -> Losses:
    def losses(x: Tensor) -> Tensor:
        squares: Tensor = module(x).square()
        return squares.sum(-1)

    return losses


def batch(size: int = 12) -> Tensor:
    return torch.randn(size, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def grads(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])


def bytes_of(module: nn.Module, x: Tensor) -> int:
    return mojd.torch.Engine(module).gradients(losses_of(module)(x)).compacted().nbytes


# How many chunks of three examples fit, of four.
LIMITS = [2, 3, 4]


@pytest.mark.parametrize("held", LIMITS)
def test_the_whole_batch(held: int) -> None:
    module, x = network(), batch()
    whole = mojd.torch.Engine(module).backward(losses_of(module)(x))
    expected = grads(module)
    module.zero_grad()
    limit = held * bytes_of(module, x[:3])
    info = mojd.torch.Engine(module).backward_in_chunks(
        losses_of(module), torch.split(x, 3), memory_limit=limit
    )
    torch.testing.assert_close(info.gramian, whole.gramian, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads(module), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [[5, 3, 4], [1, 1, 10], [10, 1, 1], [12]])
def test_chunks_of_different_sizes(sizes: list[int]) -> None:
    module, x = network(), batch()
    G = mojd.torch.Engine(module).gramian(losses_of(module)(x))
    limit = bytes_of(module, x) + bytes_of(module, x[: max(sizes)])
    info = mojd.torch.Engine(module).backward_in_chunks(
        losses_of(module), torch.split(x, sizes), memory_limit=limit
    )
    torch.testing.assert_close(info.gramian, G, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("held", "passes"), [(2, (4 + 3 + 2 + 1) + 4), (3, (4 + 2) + 4), (4, 4)])
def test_no_chunk_is_computed_more_often_than_needed(held: int, passes: int) -> None:
    module, x = network(), batch()
    limit = held * bytes_of(module, x[:3])
    calls = 0

    def compute(chunk: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return losses_of(module)(chunk)

    mojd.torch.Engine(module).backward_in_chunks(compute, torch.split(x, 3), memory_limit=limit)
    assert calls <= passes


@pytest.mark.parametrize("held", LIMITS)
def test_no_more_is_held_than_the_limit(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = network(), batch()
    limit = held * bytes_of(module, x[:3])
    alive: weakref.WeakSet[PerExampleGradients] = weakref.WeakSet()
    most = 0
    created = PerExampleGradients.__init__

    def counted(self: PerExampleGradients, *arguments: object) -> None:
        nonlocal most
        created(self, *arguments)  # type: ignore[arg-type]
        alive.add(self)
        tensors = (t for held in alive for factor in held.factors.values() for t in factor.tensors)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        storages.pop(x.untyped_storage().data_ptr(), None)  # the caller's own
        most = max(most, sum(storages.values()))

    monkeypatch.setattr(PerExampleGradients, "__init__", counted)
    mojd.torch.Engine(module).backward_in_chunks(losses_of(module), torch.split(x, 3), memory_limit=limit)
    assert 0 < most <= limit


def test_dropout_is_the_same_each_time() -> None:
    """Recomputed chunks see the masks of the first time; random numbers go on after these."""
    module, x = network(dropout=0.5), batch()
    torch.manual_seed(11)
    engine = mojd.torch.Engine(module)
    for chunk in torch.split(x, 3):
        engine.add(losses_of(module)(chunk))
    expected, following = engine.backward(), torch.rand(3)
    written = grads(module)
    module.zero_grad()
    limit = 2 * bytes_of(network(), x[:3])
    torch.manual_seed(11)
    info = engine.backward_in_chunks(losses_of(module), torch.split(x, 3), memory_limit=limit)
    assert torch.equal(torch.rand(3), following)
    torch.testing.assert_close(info.gramian, expected.gramian, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads(module), written, rtol=1e-12, atol=1e-12)


def test_pairs_as_chunks_and_tasks() -> None:
    module, x = network(), batch()
    y = torch.arange(12) % 4

    def tasks(pair: tuple[Tensor, Tensor]) -> Tensor:
        out = module(pair[0])
        entropy = nn.functional.cross_entropy(out, pair[1], reduction="none")
        return torch.stack([entropy, out.square().sum(1)], dim=1)

    whole = mojd.torch.Engine(module).gramian(tasks((x, y)))
    chunks = zip(torch.split(x, 4), torch.split(y, 4), strict=True)
    limit = 2 * mojd.torch.Engine(module).gradients(tasks((x[:4], y[:4]))).compacted().nbytes
    info = mojd.torch.Engine(module).backward_in_chunks(tasks, chunks, memory_limit=limit)
    torch.testing.assert_close(info.gramian, whole, rtol=1e-12, atol=1e-12)


def test_what_does_not_fit() -> None:
    module, x = network(), batch()
    limit = 2 * bytes_of(module, x[:3]) - 1
    with pytest.raises(mojd.InvalidInputError, match=r"smaller chunks or a larger limit"):
        mojd.torch.Engine(module).backward_in_chunks(losses_of(module), torch.split(x, 3), memory_limit=limit)
    assert all(p.grad is None for p in module.parameters())


def test_no_chunks() -> None:
    module = network()
    with pytest.raises(mojd.InvalidInputError, match="chunks is empty"):
        mojd.torch.Engine(module).backward_in_chunks(losses_of(module), [])


def test_losses_that_are_drawn_elsewhere() -> None:
    """Random numbers that are not PyTorch's can't be set back; other losses than before are noticed."""
    module, x = network(), batch()
    draws = np.random.default_rng(0)

    def noisy(chunk: Tensor) -> Tensor:
        return losses_of(module)(chunk) * draws.uniform(0.5, 1.5)

    with pytest.raises(mojd.InvalidInputError, match="the same losses each time"):
        mojd.torch.Engine(module).backward_in_chunks(
            noisy, torch.split(x, 3), memory_limit=2 * bytes_of(module, x[:3])
        )


def test_losses_that_are_held_already() -> None:
    module, x = network(), batch()
    engine = mojd.torch.Engine(module)
    engine.add(losses_of(module)(x))
    with pytest.raises(mojd.InvalidInputError, match="still held"):
        engine.backward_in_chunks(losses_of(module), [x])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"compute_losses": torch.ones(3)}, "compute_losses"),
        ({"chunks": 3}, "chunks"),
        ({"memory_limit": "1GB"}, "memory_limit"),
        ({"memory_limit": 0}, "memory_limit"),
    ],
)
def test_arguments_of_other_kinds(changed: dict[str, Any], named: str) -> None:
    module, x = network(), batch()
    arguments = {"compute_losses": losses_of(module), "chunks": [x], "memory_limit": 2**20, **changed}
    with pytest.raises(mojd.InvalidTypeError, match=named):
        mojd.torch.Engine(module).backward_in_chunks(**arguments)


def test_losses_that_change_their_number() -> None:
    module, x = network(), batch()
    seen: dict[int, int] = {}

    def fickle(chunk: Tensor) -> Tensor:
        seen[len(seen)] = 1
        return losses_of(module)(chunk[: 3 if len(seen) < 5 else 2])

    with pytest.raises(mojd.InvalidInputError, match="the same losses each time"):
        mojd.torch.Engine(module).backward_in_chunks(
            fickle, torch.split(x, 3), memory_limit=2 * bytes_of(module, x[:3])
        )


def test_gradients_that_are_held_do_not_change() -> None:
    """The engine's memory for per-example gradients is used again only when nobody holds them."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)).double()
    engine = mojd.torch.Engine(module)
    x = torch.randn(6, 32, 64, dtype=torch.float64)

    def losses(x: Tensor) -> Tensor:
        squares: Tensor = module(x).square()
        return squares.sum((1, 2))

    held = engine.gradients(losses(x))
    G, d = held.gramian(), held.weighted(torch.ones(6, dtype=torch.float64))["0.weight"].clone()
    for step in range(3):
        engine.backward(losses(x * step))
    assert torch.equal(held.gramian(), G)
    assert torch.equal(held.weighted(torch.ones(6, dtype=torch.float64))["0.weight"], d)


def test_a_known_structure_is_not_probed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0
    differentiate = torch.autograd.grad

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal passes
        passes += 1
        return differentiate(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    module, x = network(), batch()
    seen = []
    for probe in ("new", "always"):
        engine = mojd.torch.Engine(module, probe=probe)
        for _ in range(3):
            passes = 0
            engine.gradients(losses_of(module)(x))
            seen.append(passes)
    assert seen[1:3] == [1, 1]
    assert min(seen[0], *seen[3:]) > 1
