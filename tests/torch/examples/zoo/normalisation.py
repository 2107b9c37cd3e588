"""Normalisation layers that look at one example at a time, and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch.examples.zoo._case import Problem, Table, score, scores

normalisation = Table()


def spread(*layers: nn.Module) -> nn.Sequential:
    """Give norms weights other than one and zero, and running statistics other than the first."""
    module = nn.Sequential(*layers)
    norms = nn.ModuleList(
        layer for layer in layers if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    )
    with torch.no_grad():
        for name, tensor in [*norms.named_parameters(), *norms.named_buffers()]:
            if tensor.is_floating_point():
                offset = 1.0 if name.endswith(("weight", "var")) else 0.0
                tensor.copy_(offset + 0.3 * torch.rand_like(tensor))
    return module


ON_FEATURES: dict[str, Callable[[], nn.Module]] = {
    "layer_norm": lambda: nn.LayerNorm(6),
    "layer_norm_without_bias": lambda: nn.LayerNorm(6, bias=False),
    "layer_norm_without_affine": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "rms_norm": lambda: nn.RMSNorm(6, eps=1e-6),
    "rms_norm_without_affine": lambda: nn.RMSNorm(6, elementwise_affine=False),
}


def on_features(make: Callable[[], nn.Module]) -> nn.Module:
    """Put a norm first."""
    return spread(make(), nn.Linear(6, 3))


def on_sequences(make: Callable[[], nn.Module]) -> nn.Module:
    """Put a norm between linear layers."""
    return spread(nn.Linear(4, 6), make(), nn.Linear(6, 3))


def on_images(make: Callable[[], nn.Module]) -> nn.Module:
    """Put a norm between convolutions."""
    return spread(nn.Conv2d(2, 6, 2), make(), nn.Conv2d(6, 3, 2))


for _name, _layer in ON_FEATURES.items():
    normalisation.layer(_name, partial(on_features, _layer), 6)
    normalisation.layer(f"{_name}_on_sequences", partial(on_sequences, _layer), 5, 4)
ON_IMAGES: dict[str, Callable[[], nn.Module]] = {
    "group_norm": lambda: nn.GroupNorm(3, 6),
    "group_norm_without_affine": lambda: nn.GroupNorm(3, 6, affine=False),
    "group_norm_of_one_group": lambda: nn.GroupNorm(1, 6),
    "instance_norm": lambda: nn.InstanceNorm2d(6, affine=True),
    "instance_norm_without_affine": lambda: nn.InstanceNorm2d(6),
    "instance_norm_in_eval_mode": lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True).eval(),
    "batch_norm_in_eval_mode": lambda: nn.BatchNorm2d(6).eval(),
    "batch_norm_without_affine_in_eval_mode": lambda: nn.BatchNorm2d(6, affine=False).eval(),
    "layer_norm_of_images": lambda: nn.LayerNorm((6, 3, 4)),
    "rms_norm_of_images": lambda: nn.RMSNorm((3, 4), eps=1e-6),
    "local_response_norm": lambda: nn.LocalResponseNorm(3, alpha=1.0),
}
for _name, _layer in ON_IMAGES.items():
    normalisation.layer(_name, partial(on_images, _layer), 2, 4, 5)
normalisation.layer("group_norm_on_features", lambda: spread(nn.Linear(4, 6), nn.GroupNorm(2, 6)), 4)
normalisation.layer("group_norm_on_sequences", lambda: spread(nn.Conv1d(4, 6, 2), nn.GroupNorm(2, 6)), 4, 5)
normalisation.layer(
    "instance_norm_on_sequences",
    lambda: spread(nn.Conv1d(4, 6, 2, bias=False), nn.InstanceNorm1d(6, affine=True)),
    *(4, 7),
)
normalisation.layer(
    "batch_norm_on_features_in_eval_mode",
    lambda: spread(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).eval(),
    4,
)
normalisation.layer(
    "batch_norm_on_sequences_in_eval_mode", lambda: spread(nn.Conv1d(4, 6, 2), nn.BatchNorm1d(6)).eval(), 4, 5
)


@normalisation
def batch_norm_in_training_mode_that_no_loss_sees(k: int) -> Problem:
    """It mixes examples, but not those losses that are given."""
    module = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2), "other": nn.BatchNorm1d(4)})

    def losses(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return score(layers["head"](layers["body"](x).tanh()))

    return Problem(module, (torch.randn(k, 3),), losses)


@normalisation
def normalised_by_hand(k: int) -> Problem:
    """Weights of cosine similarity: a parameter that is normalised before it meets the examples."""

    def losses(layer: nn.Linear, x: Tensor) -> Tensor:
        return score(F.linear(F.normalize(x, dim=-1), F.normalize(layer.weight, dim=-1), layer.bias))

    return Problem(nn.Linear(4, 3), (torch.randn(k, 4),), losses)


def tokens(k: int, *shape: int, vocabulary: int = 7) -> Tensor:
    """Return tokens: few, so that they repeat within an example and between examples."""
    return torch.randint(vocabulary, (k, *shape))


def embedding(layer: Callable[[], nn.Module], *shape: int) -> Callable[[int], Problem]:
    """Build a problem with an embedding and a layer behind it."""
    return lambda k: Problem(nn.Sequential(layer(), nn.Linear(4, 3)), (tokens(k, *shape),), scores)


normalisation.add("embedding_of_one_token", embedding(lambda: nn.Embedding(7, 4)))
normalisation.add("embedding", embedding(lambda: nn.Embedding(7, 4), 6))
normalisation.add("embedding_of_grids", embedding(lambda: nn.Embedding(7, 4), 3, 2))
normalisation.add("embedding_of_few_tokens", embedding(lambda: nn.Embedding(20, 4), 2))
normalisation.add("embedding_with_padding", embedding(lambda: nn.Embedding(7, 4, padding_idx=2), 6))
normalisation.add("embedding_alone", lambda k: Problem(nn.Embedding(7, 4), (tokens(k, 6),), scores))
normalisation.add("embedding_bag", embedding(lambda: nn.EmbeddingBag(7, 4), 6))
normalisation.add("embedding_bag_sum", embedding(lambda: nn.EmbeddingBag(7, 4, mode="sum"), 6))
normalisation.add("embedding_bag_max", embedding(lambda: nn.EmbeddingBag(7, 4, mode="max"), 6))
normalisation.add("embedding_bag_with_padding", embedding(lambda: nn.EmbeddingBag(7, 4, padding_idx=2), 6))


@normalisation
def embedding_bag_with_weights(k: int) -> Problem:
    bag = nn.EmbeddingBag(7, 4, mode="sum")

    def losses(layer: nn.Module, words: Tensor, weights: Tensor) -> Tensor:
        return score(layer(words, per_sample_weights=weights))

    return Problem(bag, (tokens(k, 6), torch.rand(k, 6)), losses)


@normalisation
def embedding_of_the_same_tokens(k: int) -> Problem:
    """Every example has the same token, at every position."""
    module = nn.ModuleList([nn.Embedding(7, 4), nn.Embedding(5, 4), nn.Linear(4, 3)])

    def losses(layers: nn.ModuleList, words: Tensor, x: Tensor) -> Tensor:
        return score(layers[2](layers[0](words) + layers[1](torch.arange(5)) + x))

    return Problem(module, (torch.full((k, 5), 3), torch.randn(k, 5, 4)), losses)


@normalisation
def tokens_in_columns(k: int) -> Problem:
    """Tokens of shape (T, K): the examples are counted by axis 1."""
    module = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    return Problem(module, (tokens(k, 6).T.contiguous(),), lambda m, x: score(m(x), axis=1), (1,))
