"""One primary task with secondary penalties, for preference-constrained descent.

Row 0 is the cross-entropy on the digits. The secondaries are a group lasso over the hidden layer's
inputs, or the l1 norm and the nuclear norm of its weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.progress import track
from torch import Tensor, nn

from training.digits import images_and_classes, mlp
from training.gradients import Recorded, descend, gramian

EVERY = 20
STEPS = 640
BATCH = 64


def group_lasso(weight: Tensor) -> list[Tensor]:
    """Return the sum of the Euclidean norms of the columns."""
    return [torch.linalg.vector_norm(weight, dim=0).sum()]


def sparse_and_low_rank(weight: Tensor) -> list[Tensor]:
    """Return the sum of magnitudes and the sum of singular values."""
    return [weight.abs().sum(), torch.linalg.matrix_norm(weight, ord="nuc")]


def record_pairs() -> Recorded:
    """Train task and group lasso: (2, 2) Gramians."""
    yield from _train("pcd-group-lasso", group_lasso, strength=1e-3)


def record_triples() -> Recorded:
    """Train task, l1 norm and nuclear norm: (3, 3) Gramians."""
    yield from _train("pcd-l1-nuclear", sparse_and_low_rank, strength=3e-4)


def _train(name: str, penalties: Callable[[Tensor], list[Tensor]], strength: float) -> Recorded:
    torch.manual_seed(0)
    network = mlp()
    hidden = network[0]
    assert isinstance(hidden, nn.Linear)
    inputs, targets = images_and_classes()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.2)
    minibatches = torch.Generator().manual_seed(0)
    for step in track(range(STEPS), description=name):
        batch = torch.randint(len(inputs), (BATCH,), generator=minibatches)
        task = nn.functional.cross_entropy(network(inputs[batch]), targets[batch])
        secondaries = penalties(hidden.weight)
        if step % EVERY == 0:
            yield name, gramian([task, *secondaries], network.parameters())
        descend(optimiser, task + strength * torch.stack(secondaries).sum())
