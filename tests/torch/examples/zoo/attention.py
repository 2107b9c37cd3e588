"""Attention and transformers, examples counted by axis 0 or by axis 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch.examples.zoo._case import Problem, Table, score

attention = Table()
Forward = Callable[[nn.Module, Tensor], Tensor]


def on_sequences(name: str, module: Callable[[], nn.Module], forward: Forward, *, batch_first: bool) -> None:
    """Add a module on sequences of 5 vectors of 8 numbers."""
    axis = 0 if batch_first else 1

    def build(k: int) -> Problem:
        x = torch.randn(k, 5, 8)
        return Problem(module(), (x if batch_first else x.transpose(0, 1).contiguous(),), losses, (axis,))

    def losses(m: nn.Module, x: Tensor) -> Tensor:
        return score(forward(m, x), axis)

    attention.add(name, build)


def self_attention(module: nn.Module, x: Tensor) -> Tensor:
    """Attend without returning the weights: the fused kernels."""
    output: Tensor = module(x, x, x, need_weights=False)[0]
    return output


def attention_with_weights(module: nn.Module, x: Tensor) -> Tensor:
    """Attend, and use the weights (examples first in any layout) in the loss, too."""
    output, weights = module(x, x, x, need_weights=True)
    reach = weights.square().mean((1, 2))
    scaled: Tensor = output * (reach[:, None, None] if module.batch_first else reach[None, :, None])
    return scaled


def plain(module: nn.Module, x: Tensor) -> Tensor:
    """Call the module."""
    output: Tensor = module(x)
    return output


for _first in (True, False):
    _where = "" if _first else "_sequence_first"
    for _name, _options, _forward in (
        ("attention", {}, self_attention),
        ("attention_with_weights", {"bias": False}, attention_with_weights),
        ("attention_with_appended_keys", {"add_bias_kv": True, "add_zero_attn": True}, self_attention),
    ):
        on_sequences(
            f"{_name}{_where}",
            partial(nn.MultiheadAttention, 8, 2, batch_first=_first, **_options),
            _forward,
            batch_first=_first,
        )
    for _norm_first in (True, False):
        on_sequences(
            f"encoder_layer{'_norm_first' if _norm_first else ''}{_where}",
            partial(
                nn.TransformerEncoderLayer, 8, 2, 12, dropout=0.0, batch_first=_first, norm_first=_norm_first
            ),
            plain,
            batch_first=_first,
        )


def cross(module: nn.Module, x: Tensor) -> Tensor:
    """Attend from the first two positions to the others: queries, keys and values are three tensors."""
    output: Tensor = module(x[:, :2], x[:, 2:], x[:, 2:].sin(), need_weights=False)[0]
    return output


on_sequences(
    "cross_attention", lambda: nn.MultiheadAttention(8, 4, batch_first=True), cross, batch_first=True
)
on_sequences(
    "encoder_of_two_layers",
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True),
        2,
        norm=nn.LayerNorm(8),
        enable_nested_tensor=False,
    ),
    plain,
    batch_first=True,
)
on_sequences(
    "decoder_layer",
    lambda: nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
    lambda m, x: m(x[:, :3], x[:, 2:]),
    batch_first=True,
)


@attention
def attention_with_padding(k: int) -> Problem:
    """Sequences of different lengths, and losses averaged over what is there."""
    module = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    lengths = 2 + torch.arange(k) % 4

    def losses(layer: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
        there = torch.arange(5) < lengths[:, None]
        per_token = layer(x, src_key_padding_mask=~there).sin().sum(-1)
        return torch.where(there, per_token, 0.0).sum(1) / lengths

    return Problem(module, (torch.randn(k, 5, 8), lengths), losses)


class Block(nn.Module):
    """A pre-norm block with one layer for queries, keys and values."""

    def __init__(self, width: int = 8, heads: int = 2, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width, bias=bias), nn.GELU(), nn.Linear(2 * width, width, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(self.norm_2(x))
        return y


on_sequences("pre_norm_block", Block, plain, batch_first=True)
on_sequences("pre_norm_block_without_bias", lambda: Block(bias=False), plain, batch_first=True)


class LanguageModel(nn.Module):
    """Input and output embeddings are one matrix; learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(11, 8), nn.Embedding(9, 8)
        self.block, self.norm = Block(), nn.RMSNorm(8, eps=1e-6)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words) + self.positions(torch.arange(words.shape[1]))
        logits: Tensor = self.head(self.norm(self.block(x)))
        return logits


def next_token_losses(module: nn.Module, words: Tensor) -> Tensor:
    """Return the mean cross-entropy of each sequence."""
    logits = module(words)[:, :-1]
    per_token = F.cross_entropy(logits.transpose(1, 2), words[:, 1:], reduction="none", ignore_index=3)
    return per_token.mean(1)


def flat_next_token_losses(module: nn.Module, words: Tensor) -> Tensor:
    """Return the same losses by way of one axis for examples and time."""
    logits = module(words)[:, :-1]
    flat = F.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten(), reduction="none")
    return flat.view(len(words), -1).mean(1)


attention.add(
    "language_model", lambda k: Problem(LanguageModel(), (torch.randint(11, (k, 6)),), next_token_losses)
)
attention.add(
    "language_model_flat",
    lambda k: Problem(LanguageModel(), (torch.randint(11, (k, 4)),), flat_next_token_losses),
)


class VisionTransformer(nn.Module):
    """Patches by convolution, a class token (last, as attention looks back), learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 3, stride=3)
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(5, 8))
        self.block = Block()
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([x, self.class_token.expand(len(x), -1, -1)], dim=1) + self.positions
        logits: Tensor = self.head(self.block(x)[:, -1])
        return logits


@attention
def vision_transformer(k: int) -> Problem:
    def losses(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(module(x), y, reduction="none")

    return Problem(VisionTransformer(), (torch.randn(k, 3, 6, 6), torch.randint(4, (k,))), losses)
