"""Four tasks on the handwritten digits over one shared trunk.

The tasks are the class, the parity, whether the digit exceeds four, and the reconstruction of the
image. The gradients are those with respect to the trunk, the only parameters that the tasks share.
"""

from __future__ import annotations

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from training.digits import images_and_classes
from training.gradients import Recorded, descend, gramian

STAGES = (0, 2, 5, 10, 20, 40, 70, 100, 150, 200, 300, 400, 500, 600, 800, 1000)
BATCH = 64


class FourTasks(nn.Module):
    """A trunk of two layers with four linear heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU())
        self.digit = nn.Linear(24, 10)
        self.parity = nn.Linear(24, 1)
        self.large = nn.Linear(24, 1)
        self.image = nn.Linear(24, 64)

    def losses(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """Return the four scalar losses on a batch."""
        features = self.trunk(inputs)
        odd = (targets % 2).to(inputs.dtype)
        large = (targets > 4).to(inputs.dtype)
        return [
            functional.cross_entropy(self.digit(features), targets),
            functional.binary_cross_entropy_with_logits(self.parity(features).squeeze(1), odd),
            functional.binary_cross_entropy_with_logits(self.large(features).squeeze(1), large),
            functional.mse_loss(self.image(features), inputs),
        ]


def record_tasks() -> Recorded:
    """Train on the sum of the losses; all four tasks, and the pair of class and reconstruction."""
    torch.manual_seed(0)
    network = FourTasks()
    inputs, targets = images_and_classes()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    minibatches = torch.Generator().manual_seed(0)
    for step in track(range(max(STAGES) + 1), description="multitask"):
        batch = torch.randint(len(inputs), (BATCH,), generator=minibatches)
        losses = network.losses(inputs[batch], targets[batch])
        if step in STAGES:
            tasks = gramian(losses, network.trunk.parameters())
            yield "multitask-4", tasks
            yield "multitask-2", tasks[::3, ::3]
        descend(optimiser, torch.stack(losses).sum())
