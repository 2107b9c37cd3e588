"""Axes of equal length, so that a shape does not tell which of them counts the examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.torch.examples.zoo._case import Problem, Table, score, scores, scores_axis_1
from tests.torch.examples.zoo.attention import Block, self_attention

shapes = Table()
Build = Callable[[int], nn.Module]


def cube(name: str, build: Build) -> None:
    """Add a module of width K on K sequences of length K, the examples first and second."""

    def first(k: int) -> Problem:
        return Problem(build(max(k, 3)), (torch.randn(k, k, max(k, 3)),), scores)

    def second(k: int) -> Problem:
        return Problem(build(max(k, 3)), (torch.randn(k, k, max(k, 3)),), scores_axis_1, (1,))

    shapes.add(f"{name}_cube", first)
    shapes.add(f"{name}_cube_axis_1", second)


cube("linear", lambda k: nn.Linear(k, k))
cube("linear_without_bias", lambda k: nn.Linear(k, k, bias=False))
cube("chain", lambda k: nn.Sequential(nn.Linear(k, k), nn.ReLU(), nn.Linear(k, k), nn.Sigmoid()))
cube("layer_norm", lambda k: nn.Sequential(nn.Linear(k, k + 2), nn.LayerNorm(k + 2), nn.Linear(k + 2, k)))
cube("rms_norm", lambda k: nn.Sequential(nn.Linear(k, k), nn.RMSNorm(k, eps=1e-6)))

shapes.layer("linear_square", lambda: nn.Linear(5, 5), 5)
shapes.layer("linear_square_of_two", lambda: nn.Linear(2, 2, bias=False), 2)
shapes.layer("grid_of_equal_sides", lambda: nn.Linear(5, 5), 5, 5, 5)
shapes.layer("image_of_equal_sides", lambda: nn.Conv2d(5, 5, 3, padding=1), 5, 5, 5)
shapes.layer("image_of_equal_sides_groups", lambda: nn.Conv2d(5, 5, 3, padding=1, groups=5), 5, 5, 5)
shapes.layer("group_norm_of_equal_sides", lambda: nn.GroupNorm(5, 5), 5, 5, 5)
shapes.layer("batch_norm_in_eval_mode_of_equal_sides", lambda: nn.BatchNorm2d(5).eval(), 5, 5, 5)
shapes.layer("conv1d_of_equal_sides", lambda: nn.Conv1d(5, 5, 1), 5, 5)


def by_columns(name: str, build: Callable[[], nn.Module], *, square: bool) -> None:
    """Add a module on (T, K, 6), flattened so that the examples count faster than time."""

    def losses(module: nn.Module, x: Tensor) -> Tensor:
        return score(module(x.flatten(0, 1)).unflatten(0, x.shape[:2]), axis=1)

    def make(k: int) -> Problem:
        return Problem(build(), (torch.randn(k if square else 3, k, 6),), losses, (1,))

    shapes.add(name, make)


def by_rows(name: str, build: Callable[[], nn.Module], *, square: bool) -> None:
    """Add a module on (K, T, 6), flattened so that time counts faster than the examples."""

    def losses(module: nn.Module, x: Tensor) -> Tensor:
        return score(module(x.flatten(0, 1)).unflatten(0, x.shape[:2]))

    def make(k: int) -> Problem:
        return Problem(build(), (torch.randn(k, k if square else 3, 6),), losses)

    shapes.add(name, make)


def flat_network() -> nn.Module:
    """Return layers that see two axes."""
    return nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4, bias=False))


for _square in (False, True):
    _suffix = "_square" if _square else ""
    by_columns(f"flattened_by_columns{_suffix}", flat_network, square=_square)
    by_rows(f"flattened_by_rows{_suffix}", flat_network, square=_square)


@shapes
def flattened_with_time_between(k: int) -> Problem:
    """(2, K, 3, 6) flattened: each example has rows in six places."""

    def losses(module: nn.Module, x: Tensor) -> Tensor:
        return score(module(x.flatten(0, 2)).unflatten(0, x.shape[:3]), axis=1)

    return Problem(flat_network(), (torch.randn(2, k, 3, 6),), losses, (1,))


@shapes
def examples_along_axis_2(k: int) -> Problem:
    def losses(module: nn.Module, x: Tensor) -> Tensor:
        return score(module(x), axis=2)

    return Problem(flat_network(), (torch.randn(2, 3, k, 6),), losses, (2,))


@shapes
def attention_over_as_many_steps_as_examples(k: int) -> Problem:
    module = nn.MultiheadAttention(4, 2, batch_first=True)
    return Problem(module, (torch.randn(k, k, 4),), lambda m, x: score(self_attention(m, x)))


@shapes
def sequence_first_attention_over_as_many_steps_as_examples(k: int) -> Problem:
    module = nn.MultiheadAttention(4, 2)
    return Problem(module, (torch.randn(k, k, 4),), lambda m, x: score(self_attention(m, x), 1), (1,))


@shapes
def block_with_as_many_steps_as_examples(k: int) -> Problem:
    return Problem(Block(4, 2), (torch.randn(k, k, 4),), scores)


@shapes
def gru_over_as_many_steps_as_examples(k: int) -> Problem:
    return Problem(nn.GRU(k, k), (torch.randn(k, k, k),), scores_axis_1, (1,))


@shapes
def embedding_with_as_many_tokens_as_examples(k: int) -> Problem:
    module = nn.Sequential(nn.Embedding(k + 1, 4), nn.Linear(4, 4))
    return Problem(module, (torch.randint(k + 1, (k, k)),), scores)


@shapes
def embedding_of_columns_with_as_many_tokens_as_examples(k: int) -> Problem:
    module = nn.Sequential(nn.Embedding(k + 1, 4), nn.Linear(4, 4))
    return Problem(module, (torch.randint(k + 1, (k, k)),), scores_axis_1, (1,))


@shapes
def positions_for_as_many_steps_as_examples(k: int) -> Problem:
    """A parameter of shape (K, 4) that is added along time, not along the examples."""

    def losses(both: nn.ModuleList, x: Tensor) -> Tensor:
        return score(both[1](x + both[0].get_parameter("weight")))

    module = nn.ModuleList([nn.Embedding(k, 4), nn.Linear(4, 3)])
    return Problem(module, (torch.randn(k, k, 4),), losses)


@shapes
def as_many_tasks_as_examples(k: int) -> Problem:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, k))
    return Problem(module, (torch.randn(k, 3),), lambda m, x: m(x).sin())


@shapes
def losses_over_sequences_as_tasks(k: int) -> Problem:
    """One loss per example and step, as many steps as examples."""
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    return Problem(module, (torch.randn(k, k, 3),), lambda m, x: m(x).sin().sum(-1))
