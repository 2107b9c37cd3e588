"""A small network, and losses of its outputs that depend on the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch.examples.zoo import score


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def contrastive(h: Tensor) -> Tensor:
    z = F.normalize(h, dim=-1)
    return F.cross_entropy(z @ z.T / 0.1, torch.arange(len(h)), reduction="none")


def ranking(h: Tensor) -> Tensor:
    differences = h.sum(-1)[:, None] - h.sum(-1)[None, :]
    return F.softplus(differences).sum(1)


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "contrastive": contrastive,
    "pairwise_ranking": ranking,
    "softmax_over_the_batch": lambda h: score(h.softmax(0)),
    "mean_subtracted": lambda h: score(h - h.mean(0)),
    "mean_of_losses_subtracted": lambda h: score(h) - score(h).mean(),
    "divided_by_deviation": lambda h: score(h / h.std(0)),
    "normalised_over_the_batch": lambda h: score(F.layer_norm(h.T, h.T.shape[1:]).T),
    "cumulative_sum": lambda h: score(h.cumsum(0)),
    "neighbours": lambda h: score(h + 0.1 * h.roll(1, 0)),
    "weak_neighbours": lambda h: score(h + 1e-4 * h.roll(1, 0)),
    "convolution_along_the_batch": lambda h: score(
        F.conv1d(h.T.unsqueeze(1), h.new_ones(1, 1, 3), padding=1)[:, 0].T
    ),
    "mean_expanded": lambda h: score(h).mean().expand(len(h)),
    "mean_for_all_but_one": lambda h: torch.cat([score(h)[:1], score(h).mean().expand(len(h) - 1)]),
    "a_matrix_over_the_batch": lambda h: h.new_ones(len(h), len(h)).tril() @ score(h),
    "attention_over_the_batch": lambda h: score(
        F.scaled_dot_product_attention(h[None, None], h[None, None], h[None, None])[0, 0]
    ),
    "largest_of_the_batch_subtracted": lambda h: score(h - h.max(0).values),
    "sorted_along_the_batch": lambda h: score(h.sort(0).values),
    "last_sees_first": lambda h: score(torch.cat([h[:-1], h[-1:] + h[:1]])),
}
