"""A step with a few losses on one network: K backward passes, and UPGrad and PCD by mojd and TorchJD.

No optimiser takes part: its step is the same for all, and would make the share of what is measured smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from networks import ResNet18
from torch import Tensor
from torchjd.aggregation import UPGrad as TorchJDUPGrad
from torchjd.autojac import backward as torchjd_backward
from torchjd.autojac import jac_to_grad, mtl_backward

import mojd
import mojd.torch

Step = Callable[[], object]

# Together as many outputs as ResNet-18 has for ImageNet.
OUTPUTS = 1000
TAU = 0.1


class Problem:
    """A ResNet-18 with K tasks, and a batch of images of 32 × 32 for it.

    Parameters
    ----------
    tasks : int
        K.
    images : int
        In the batch.
    """

    def __init__(self, tasks: int, images: int) -> None:
        classes = OUTPUTS // tasks
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.network = ResNet18(tasks, classes)
            self.images = torch.randn(images, 3, 32, 32)
            self.labels = [torch.randint(classes, (images,)) for _ in range(tasks)]
        self.parameters = list(self.network.parameters())

    def forward(self) -> tuple[Tensor, list[Tensor]]:
        """Drop the gradients of the step before; return the trunk's output and the losses."""
        self.network.zero_grad()
        features = self.network.trunk(self.images)
        return features, self.network.losses(features, self.labels)


def passes(problem: Problem) -> Step:
    """Return the forward pass and K backward passes, whose gradients are dropped."""

    def step() -> None:
        _, losses = problem.forward()
        for number, loss in enumerate(losses, start=1):
            torch.autograd.grad(
                loss, problem.parameters, retain_graph=number < len(losses), allow_unused=True
            )

    return step


def upgrad(problem: Problem) -> Step:
    """Return a step of UPGrad."""
    method = mojd.torch.UPGrad(problem.parameters)
    return lambda: method.backward(problem.forward()[1])


def pcd(problem: Problem) -> Step:
    """Return a step of PCD, moving average included."""
    method = mojd.torch.PCD(problem.parameters, tau=TAU)
    return lambda: method.backward(problem.forward()[1])


def torchjd(problem: Problem) -> Step:
    """Return a step of UPGrad by TorchJD's backward."""
    aggregator = TorchJDUPGrad()

    def step() -> None:
        torchjd_backward(problem.forward()[1])
        jac_to_grad(problem.parameters, aggregator)

    return step


def torchjd_multitask(problem: Problem) -> Step:
    """Return the step that TorchJD has for multi-task learning: UPGrad on the trunk, plain in the heads."""
    aggregator, trunk = TorchJDUPGrad(), list(problem.network.trunk.parameters())

    def step() -> None:
        features, losses = problem.forward()
        mtl_backward(losses, features)
        jac_to_grad(trunk, aggregator)

    return step


OURS: dict[str, Callable[[Problem], Step]] = {"UPGrad": upgrad, "PCD": pcd}
WEIGHTINGS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "UPGrad": lambda: mojd.upgrad,
    "PCD": lambda: mojd.torch.PCDWeighting(tau=TAU),
}
THEIRS: dict[str, Callable[[Problem], Step]] = {
    "torchjd_backward": torchjd,
    "torchjd_mtl_backward": torchjd_multitask,
}


class Beyond:
    """Do a step's parts one by one: the passes first, then what comes on top of them.

    Parameters
    ----------
    problem : Problem
    weighting : callable
        From a Gramian (K, K) to weights (K,).
    """

    def __init__(self, problem: Problem, weighting: Callable[[Tensor], Tensor]) -> None:
        self.problem, self.weighting = problem, weighting
        self.held = mojd.torch.LossGradients(problem.parameters)

    def seconds(self) -> dict[str, float]:
        """Return how long the Gramian, the weights, and the gradient that is written took, one run each."""
        self.held.add(self.problem.forward()[1])
        times = [time.perf_counter()]
        gramian = self.held.gramian()
        times.append(time.perf_counter())
        weights = self.weighting(gramian)
        times.append(time.perf_counter())
        self.held.write(weights)
        times.append(time.perf_counter())
        names = ("gramian", "weights", "write")
        return {name: end - start for name, start, end in zip(names, times, times[1:], strict=False)}
