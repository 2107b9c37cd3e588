"""Handwritten digits with one objective per example, as in instance-wise risk minimisation.

A network is trained with plain SGD on the mean cross-entropy of minibatches. At four stages the
Gramian of the losses of K random training examples is recorded, stacked under one name per stage.
Late in training the gradients of learnt examples are a million times shorter than those of
misclassified ones. That is where a ridge of 1e-4 of the trace hides most of the problem.
"""

from __future__ import annotations

import torch
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn

from training.gradients import Recorded, descend, per_example_gramian

STAGES = {0: "init", 20: "early", 200: "middle", 1000: "late"}
BATCH = 64


def images_and_classes() -> tuple[Tensor, Tensor]:
    """Return the 1797 images, (N, 64) in [0, 1], and their classes, (N,)."""
    data = load_digits()
    return torch.tensor(data.data / 16.0), torch.tensor(data.target)


def mlp() -> nn.Sequential:
    """Return an untrained multilayer perceptron with one hidden layer of 64 units."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Sequential:
    """Return an untrained network of two convolutions and one linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def record_mlp() -> Recorded:
    """Train the multilayer perceptron; K = 8, 32, 128 at every stage, K = 256 at two."""
    torch.manual_seed(0)
    yield from _train("digits-mlp", mlp(), {8: 4, 32: 2, 128: 1, 256: 1}, learning_rate=0.5)


def record_cnn() -> Recorded:
    """Train the convolutional network; K = 8 and 32 at every stage, K = 128 at two."""
    torch.manual_seed(0)
    yield from _train("digits-cnn", cnn(), {8: 4, 32: 2, 128: 1}, learning_rate=0.2)


def _train(title: str, network: nn.Module, batches: dict[int, int], learning_rate: float) -> Recorded:
    """Train and yield, at each stage, ``batches[K]`` Gramians of K examples; the largest K at two stages.

    One more Gramian a stage has two of its 32 examples twice, as happens when a batch is drawn with
    replacement: it is singular.
    """
    inputs, targets = images_and_classes()
    loss = nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(network.parameters(), lr=learning_rate)
    minibatches = torch.Generator().manual_seed(0)
    examples = torch.Generator().manual_seed(1)

    def draw(size: int) -> Tensor:
        return torch.randperm(len(inputs), generator=examples)[:size]

    def measure(chosen: Tensor) -> Tensor:
        return per_example_gramian(network, loss, inputs[chosen], targets[chosen])

    for step in track(range(max(STAGES) + 1), description=title):
        if stage := STAGES.get(step):
            for size, count in batches.items():
                if size < max(batches) or stage in ("early", "late"):
                    for _ in range(count):
                        yield f"{title}-{size}-{stage}", measure(draw(size))
            chosen = draw(30)
            yield f"{title}-32-repeated", measure(torch.cat((chosen, chosen[:2])))
        batch = torch.randint(len(inputs), (BATCH,), generator=minibatches)
        descend(optimiser, loss(network(inputs[batch]), targets[batch]))
