"""What a case is: a module, a batch of inputs and one loss (or several) per example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Problem:
    """A module with a batch.

    `axes` says which axis of each input counts the examples; None: the input is the same for all.
    """

    module: nn.Module
    inputs: Inputs
    losses_of: Callable[..., Tensor]
    axes: tuple[int | None, ...] = (0,)

    def losses(self) -> Tensor:
        """Run the module: losses of shape (K,) or (K, tasks), with a new graph."""
        return self.losses_of(self.module, *self.inputs)

    def to(self, dtype: torch.dtype) -> Problem:
        """Return a copy in another precision; integers stay what they are."""
        inputs = tuple(x.to(dtype) if x.is_floating_point() else x.clone() for x in self.inputs)
        return replace(self, module=deepcopy(self.module).to(dtype), inputs=inputs)

    def take(self, examples: list[int]) -> Problem:
        """Return the same module on some of the examples."""
        axes = self.axes * (len(self.inputs) if len(self.axes) == 1 else 1)
        index = torch.tensor(examples)
        inputs = tuple(
            x if axis is None else x.index_select(axis, index)
            for x, axis in zip(self.inputs, axes, strict=True)
        )
        return replace(self, inputs=inputs)


@dataclass(frozen=True)
class Case:
    """A way to build a problem with any number of examples.

    `separable`: each loss is a function of its own example alone. Where it is False, other examples
    enter as constants, so that the gradients are per example all the same.
    """

    name: str
    build: Callable[[int], Problem]
    separable: bool = True

    def problem(self, count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Problem:
        """Build it with `count` examples; the same seed gives the same parameters and inputs."""
        with double_precision(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(count).to(dtype)


@contextmanager
def double_precision() -> Iterator[None]:
    """Make new tensors and modules float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Table:
    """Cases by name."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def add(self, name: str, build: Callable[[int], Problem], *, separable: bool = True) -> None:
        """Add a case under a new name."""
        assert name not in self.cases, name
        self.cases[name] = Case(name, build, separable)

    def __call__(self, build: Callable[[int], Problem]) -> Callable[[int], Problem]:
        """Add a case under the name of the function that builds it."""
        self.add(build.__name__, build)
        return build

    def layer(self, name: str, layer: Callable[[], nn.Module], *shape: int) -> None:
        """Add one layer, on inputs of shape (K, *shape)."""
        self.add(name, lambda k: Problem(layer(), (torch.randn(k, *shape),), scores))


def score(output: Tensor, axis: int = 0) -> Tensor:
    """Return one loss per slice along `axis`: smooth, with a derivative that differs and is never small."""
    flat = output.movedim(axis, 0).reshape(output.shape[axis], -1)
    phases = torch.linspace(0.0, 3.0, flat.shape[1], dtype=flat.dtype)
    return (torch.sin(flat + phases) + (1.5 + phases) * flat).sum(1)


def scores(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Return the loss of each example of a module whose examples are counted by axis 0, in and out."""
    return score(first(module(*inputs)))


def scores_axis_1(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Return the loss of each example of a module whose examples are counted by axis 1, in and out."""
    return score(first(module(*inputs)), axis=1)


def first(output: Any) -> Tensor:
    """Return the output, or the first of several."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
