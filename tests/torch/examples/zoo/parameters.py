"""Parameters that no layer stands for: added, multiplied, expanded, indexed, transformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.torch.examples.zoo._case import Problem, Table, score, scores

parameters = Table()


class Weight(nn.Module):
    """A parameter and what is done with it."""

    def __init__(self, shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.use = nn.Parameter(torch.randn(shape)), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(x, self.weight)


def raw(name: str, shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor], *inputs: int) -> None:
    """Add a use of a parameter between two linear layers, the last input axis being the features."""
    parameters.layer(
        name, lambda: nn.Sequential(nn.Linear(inputs[-1], inputs[-1]), Weight(shape, use)), *inputs
    )


raw("added_vector", (4,), lambda x, w: x + w, 4)
raw("added_positions", (5, 4), lambda x, w: x + w, 5, 4)
raw("added_positions_with_an_axis_of_one", (1, 5, 4), lambda x, w: x + w, 5, 4)
raw("added_positions_cut", (9, 4), lambda x, w: x + w[: x.shape[1]], 5, 4)
raw("added_scalar", (), lambda x, w: x + w, 4)
raw("scalar_scale", (), lambda x, w: torch.tanh(x) * w, 4)
raw("scale_of_shape_one", (1,), lambda x, w: torch.tanh(x) * w.exp(), 5, 4)
raw("scale_per_channel", (5, 1), lambda x, w: torch.tanh(x) / (w.square() + 1.0), 5, 4)
raw("scale_per_feature", (4,), lambda x, w: x.addcmul(x.sin(), w), 4)
raw("temperature", (1,), lambda x, w: (x * w.exp()).softmax(-1), 4)
raw("power", (4,), lambda x, w: (x.square() + 1.0) ** w, 3, 4)
raw("matrix_product", (4, 3), lambda x, w: x @ w, 4)
raw("matrix_product_on_sequences", (4, 3), lambda x, w: x @ w, 5, 4)
raw("matrix_product_from_the_left", (3, 5), lambda x, w: w @ x, 5, 4)
raw("matrix_product_with_examples_in_columns", (3, 4), lambda x, w: (w @ x.T).T, 4)
raw("matrix_vector_product", (4,), lambda x, w: x @ w, 4)
raw("matrix_vector_product_on_sequences", (4,), lambda x, w: x @ w, 5, 4)
raw("einsum", (5, 4, 3), lambda x, w: torch.einsum("kti,tio->kto", x, w), 5, 4)
raw("einsum_with_one_weight_for_all_positions", (4, 3), lambda x, w: torch.einsum("kti,io->kot", x, w), 5, 4)
raw("einsum_quadratic", (4, 4), lambda x, w: torch.einsum("ki,ij,kj->k", x, w, x), 4)
raw(
    "batched_product_with_an_expanded_weight", (4, 3), lambda x, w: torch.bmm(x, w.expand(len(x), 4, 3)), 5, 4
)
raw("added_product", (3,), lambda x, w: torch.addmm(w, x, torch.ones(4, 3, dtype=x.dtype).cumsum(0)), 4)
raw("linear_with_an_expanded_weight", (1, 4), lambda x, w: F.linear(x, w.expand(3, 4)), 4)
raw("linear_with_a_bias_that_is_a_view", (4, 5), lambda x, w: F.linear(x, w[:, :4], w[:, 4]), 4)
raw("linear_with_two_uses_of_one_matrix", (4, 4), lambda x, w: F.linear(x, w, w[0]), 4)
raw("distance_to_prototypes", (3, 4), lambda x, w: (x.unsqueeze(1) - w).square().sum(-1), 4)
raw("distance_by_cdist", (3, 4), lambda x, w: torch.cdist(x, w).square(), 4)
raw("concatenated_to_each_example", (2, 4), lambda x, w: torch.cat([w.expand(len(x), 2, 4), x], 1), 5, 4)
raw("repeated", (1, 2, 4), lambda x, w: torch.cat([w.repeat(len(x), 1, 1), x], 1), 5, 4)
raw("maximum", (4,), lambda x, w: torch.maximum(x, w), 6, 4)
raw("shrinkage", (4,), lambda x, w: F.relu(x.abs() - w.abs()) * x.sign(), 4)
raw("per_example_loop_over_rows", (3, 4), lambda x, w: torch.stack([(x * row).sin() for row in w], 1), 4)
raw(
    "spectral_filter",
    (3, 2),
    lambda x, w: torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(w), 4),
    4,
)
raw("convolution_as_einsum", (3, 2), lambda x, w: torch.einsum("klw,ow->kol", x.unfold(1, 2, 1), w), 4)


@parameters
def masked_token(k: int) -> Problem:
    def losses(module: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        return score(module[1](torch.where(mask, module[0].weight, x)))  # type: ignore[index]

    module = nn.ModuleList([Weight((4,), torch.add), nn.Linear(4, 3)])
    return Problem(module, (torch.randn(k, 5, 4), torch.rand(k, 5, 1) < 0.5), losses)


@parameters
def rows_chosen_by_each_example(k: int) -> Problem:
    """One matrix per expert, gathered by each example."""

    def use(x: Tensor, w: Tensor) -> Tensor:
        chosen = x.detach().abs().argmax(-1)
        return torch.einsum("ki,kio->ko", x, w[chosen])

    return Problem(Weight((4, 4, 3), use), (torch.randn(k, 4),), scores)


@parameters
def penalty_in_each_loss(k: int) -> Problem:
    """Each loss has the same term, that depends on parameters alone."""

    def losses(layer: nn.Linear, x: Tensor) -> Tensor:
        return score(layer(x)) + 0.1 * layer.weight.square().sum()

    return Problem(nn.Linear(4, 3), (torch.randn(k, 4),), losses)


@parameters
def learned_weight_of_the_loss(k: int) -> Problem:
    """A log-variance that scales each loss and is added to it."""

    def losses(both: nn.ModuleList, x: Tensor) -> Tensor:
        s = both[1].get_parameter("weight")
        return score(both[0](x)) * torch.exp(-s) + s

    return Problem(nn.ModuleList([nn.Linear(4, 3), Weight((), torch.add)]), (torch.randn(k, 4),), losses)


@parameters
def product_of_parameters(k: int) -> Problem:
    """Low-rank: the weight is a product of two parameters, and the base is frozen."""

    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(4, 4)
            self.base.requires_grad_(False)
            self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            merged = F.linear(x, self.base.weight + self.b @ self.a, self.base.bias)
            side: Tensor = merged + F.linear(F.linear(x.sin(), self.a), self.b)
            return side

    return Problem(LowRank(), (torch.randn(k, 4),), scores)


@parameters
def weights_from_a_network(k: int) -> Problem:
    """A network without examples makes the weight of the layer that sees them."""

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.network = nn.Parameter(torch.randn(3, 2)), nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, torch.tanh(self.network(self.code)))

    return Problem(Hyper(), (torch.randn(k, 4),), scores)


@parameters
def weights_from_a_network_per_example(k: int) -> Problem:
    """Each example makes its own weight."""
    module = nn.ModuleList([nn.Linear(3, 8), nn.Linear(3, 4)])

    def losses(layers: nn.ModuleList, x: Tensor) -> Tensor:
        return score(torch.einsum("koi,ki->ko", layers[0](x).view(-1, 2, 4), layers[1](x)))

    return Problem(module, (torch.randn(k, 3),), losses)


def parametrised(name: str, module: Callable[[], nn.Module], *shape: int) -> None:
    """Add a parametrised layer with another one in front."""
    parameters.layer(name, lambda: nn.Sequential(nn.Linear(shape[-1], shape[-1]), module()), *shape)


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).T


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


def with_parametrisation(layer: nn.Module, parametrisation: nn.Module) -> nn.Module:
    """Make the layer's weight a function of a parameter."""
    parametrize.register_parametrization(layer, "weight", parametrisation)
    return layer


def weight_norm(layer: Any) -> nn.Module:
    """Split the weight into norm and direction."""
    split: nn.Module = parametrizations.weight_norm(layer)
    return split


parametrised("weight_norm", lambda: weight_norm(nn.Linear(4, 3)), 4)
parametrised("weight_norm_on_sequences", lambda: weight_norm(nn.Linear(4, 3, bias=False)), 5, 4)
parametrised("weight_norm_of_a_convolution", lambda: weight_norm(nn.Conv1d(3, 2, 2)), 3, 4)
parametrised("symmetric_weight", lambda: with_parametrisation(nn.Linear(4, 4), Symmetric()), 4)
parametrised("positive_weight", lambda: with_parametrisation(nn.Linear(4, 3), Positive()), 5, 4)
parametrised("orthogonal_weight", lambda: parametrizations.orthogonal(nn.Linear(4, 4)), 4)


class Scaled(torch.autograd.Function):
    """Multiply each example's rows with a parameter, with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * scale, (gradient * x).flatten(0, -2).sum(0)


def scaled(x: Tensor, weight: Tensor) -> Tensor:
    """Apply the function."""
    output: Tensor = Scaled.apply(x, weight)  # type: ignore[no-untyped-call]
    return output


raw("custom_function", (4,), scaled, 4)
raw("custom_function_on_sequences", (4,), scaled, 5, 4)
raw("custom_function_of_a_parameter_that_is_changed_first", (4,), lambda x, w: scaled(x, w.exp()), 4)
