"""Transformer layers and the convolutional position embedding, with padding masked out."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from fithubert.blocks.frontend import nothing_padded
from fithubert.frames import padding_mask, zero_padding


@dataclass(frozen=True)
class EncoderLayerConfig:
    """Sizes and dropout rates of one transformer layer."""

    width: int
    ffn_width: int
    attention_heads: int
    norm_first: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    #: No queries and keys of its own: the layer attends as an earlier one did (ARMHuBERT).
    reuse_attention: bool = False


def attention_mask(lengths: Tensor, num_frames: int) -> Tensor | None:
    """(batch, 1, 1, time) bool, True where a key may be attended to; None where nothing is padded.

    A row without any valid frame attends to its first one, since a softmax over nothing is not a number.
    """
    if nothing_padded(lengths, num_frames):
        return None
    return padding_mask(lengths.clamp(min=1), num_frames)[:, None, None, :]


class PositionalConv(nn.Module):
    """Relative positions by one grouped, weight-normalised convolution (fairseq `conv_pos`, `conv_pos_groups`).

    Padded frames are zeroed first, so that valid frames see what they would see alone.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=(4.0 / (kernel * width)) ** 0.5)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = parametrizations.weight_norm(conv, dim=2)
        # An even kernel gives one frame too many.
        self.surplus = 1 - kernel % 2

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The position embedding of `x` (batch, time, feature), to be added to it."""
        if not nothing_padded(lengths, x.shape[1]):
            x = zero_padding(x, lengths)
        y = self.conv(x.transpose(1, 2))
        y = y[:, :, : y.shape[2] - self.surplus]
        return F.gelu(y).transpose(1, 2)

    def fold_weight_norm(self) -> None:
        """Compute the weight once and for all, for inference; nothing happens where that is done already."""
        if parametrize.is_parametrized(self.conv, "weight"):
            parametrize.remove_parametrizations(self.conv, "weight")


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate projections (fairseq `MultiheadAttention`).

    `reuse`: without queries and keys; such a layer can only be given the attention map of another.
    """

    def __init__(self, width: int, heads: int, dropout: float, reuse: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.reuse = heads, dropout, reuse
        if not reuse:
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, attention_map: Tensor | None = None) -> Tensor:
        """(batch, time, feature) attended over keys where `mask` (batch, 1, 1, time) is True.

        `attention_map` (batch, head, time, time) takes the place of this layer's own.
        """
        return self.out(self.context(x, mask, attention_map))

    def context(self, x: Tensor, mask: Tensor | None, attention_map: Tensor | None = None) -> Tensor:
        """What `out` maps: the heads' attended values side by side, (batch, time, feature)."""
        value, dropout = self._split(self.value(x)), self.dropout if self.training else 0.0
        if attention_map is None:
            query, key = self._split(self.query(x)), self._split(self.key(x))
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        else:
            y = F.dropout(attention_map, dropout, self.training) @ value
        return y.transpose(1, 2).flatten(2)

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The attention map (batch, head, time, time): each query's weights over the keys, which add up to 1."""
        query, key = self._split(self.query(x)), self._split(self.key(x))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return torch.softmax(scores, dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """One transformer layer, post-norm (HuBERT Base) or pre-norm (Large), GELU feed-forward."""

    def __init__(self, config: EncoderLayerConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = SelfAttention(
            config.width, config.attention_heads, config.attention_dropout, config.reuse_attention
        )
        self.attention_norm = nn.LayerNorm(config.width)
        self.ffn_in = nn.Linear(config.width, config.ffn_width)
        self.ffn_out = nn.Linear(config.ffn_width, config.width)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        for module in self.modules():
            # fairseq `init_bert_params`: branches start small, which a deep post-norm stack needs to train at all
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, mask: Tensor | None, attention_map: Tensor | None = None) -> Tensor:
        """The layer's output for `x` (batch, time, feature); `attention_map` as in `SelfAttention.forward`."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), mask, attention_map))
            return x + self._feed_forward(self.ffn_norm(x))
        x = self.attention_norm(x + self.dropout(self.attention(x, mask, attention_map)))
        return self.ffn_norm(x + self._feed_forward(x))

    def attention_map(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The attention map (batch, head, time, time) of this layer for its input `x`."""
        return self.attention.weights(self.attention_norm(x) if self.norm_first else x, mask)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.ffn_out(self.activation_dropout(F.gelu(self.ffn_in(x)))))
