"""A step on a batch of per-example losses: SGD, and UPGrad by mojd and by TorchJD.

Every side has a network of its own, from the same seed, that its steps train. All go through the same
few batches, so that the network neither stands still nor learns one batch by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from networks import CLASSES, TransformerBlock, mlp, svhn_cnn
from torch import Tensor, nn
from torch.nn import functional
from torchjd.aggregation import UPGradWeighting
from torchjd.autogram import Engine as AutogramEngine

import mojd
import mojd.torch

Step = Callable[[], object]

BATCHES = 8
RATE = 1e-2


@dataclass(frozen=True, slots=True)
class Case:
    """A network, and the batches to train it on.

    Attributes
    ----------
    network : callable
        Makes the network.
    shape : tuple of int
        Of one example.
    size : int
        How many examples a batch has, and so losses: K.
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    size: int

    def build(self) -> nn.Module:
        """Return the network, always the same."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return self.network()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go round and round the same batches: examples (K, …) and labels (K,)."""
        source = torch.Generator().manual_seed(1)
        return cycle(
            [
                (
                    torch.randn(self.size, *self.shape, generator=source),
                    torch.randint(CLASSES, (self.size,), generator=source),
                )
                for _ in range(BATCHES)
            ]
        )


CASES = {
    "MLP 1024-1024-1024-10, K = 64": Case(mlp, (1024,), 64),
    "MLP 1024-1024-1024-10, K = 256": Case(mlp, (1024,), 256),
    "CNN for SVHN, K = 32": Case(svhn_cnn, (3, 32, 32), 32),
    "transformer block, K = 32": Case(TransformerBlock, (32, 128), 32),
}


def plain(case: Case) -> Step:
    """Return a step of SGD on the mean loss."""
    network, batches = case.build(), case.batches()
    optimizer = torch.optim.SGD(network.parameters(), RATE)

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def with_mojd(case: Case) -> Step:
    """Return a step of SGD along UPGrad's direction."""
    network, batches = case.build(), case.batches()
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    engine = mojd.torch.Engine(network)

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        losses = functional.cross_entropy(network(x), y, reduction="none")
        engine.backward(losses, mojd.upgrad)
        optimizer.step()

    return step


def with_torchjd(case: Case) -> Step:
    """Return the same step with TorchJD's Gramian engine and its weighting, as its documentation has it."""
    network, batches = case.build(), case.batches()
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    engine, weighting = AutogramEngine(network, batch_dim=0), UPGradWeighting()

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        losses = functional.cross_entropy(network(x), y, reduction="none")
        losses.backward(weighting(engine.compute_gramian(losses)))  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


SIDES: dict[str, Callable[[Case], Step]] = {"plain": plain, "mojd": with_mojd, "torchjd": with_torchjd}


def _first_losses(case: Case, network: nn.Module) -> Tensor:
    x, y = next(case.batches())
    return functional.cross_entropy(network(x), y, reduction="none")


def mojd_gramian(case: Case) -> Tensor:
    """Return the Gramian of the first batch by mojd's engine."""
    network = case.build()
    return mojd.torch.Engine(network).gramian(_first_losses(case, network))


def torchjd_gramian(case: Case) -> Tensor:
    """Return the Gramian of the first batch by TorchJD's engine."""
    network = case.build()
    engine = AutogramEngine(network, batch_dim=0)
    gramian: Tensor = engine.compute_gramian(_first_losses(case, network)).detach()
    return gramian
