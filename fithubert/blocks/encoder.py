"""Transformer layers, with padding masked out."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.blocks.frontend import nothing_padded
from fithubert.blocks.relative import PositionGate
from fithubert.frames import padding_mask


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
    #: Attention takes a position bias, gated by its input (WavLM).
    gated_positions: bool = False


def attention_mask(lengths: Tensor | None, num_frames: int) -> Tensor | None:
    """(batch, 1, 1, time) bool, True where a key may be attended to; None where nothing is padded.

    A row without any valid frame attends to its first one, since a softmax over nothing is not a number.
    """
    if lengths is None or nothing_padded(lengths, num_frames):
        return None
    return padding_mask(lengths.clamp(min=1), num_frames)[:, None, None, :]


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate projections (fairseq `MultiheadAttention`).

    `reuse`: without queries and keys; such a layer can only be given the attention map of another. `gated`: takes a
    position bias, of which each query takes its share (WavLM).
    """

    def __init__(self, width: int, heads: int, dropout: float, reuse: bool = False, gated: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.reuse = heads, dropout, reuse
        if not reuse:
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.gate = PositionGate(width // heads, heads) if gated else None

    def forward(
        self, x: Tensor, mask: Tensor | None, attention_map: Tensor | None = None, position_bias: Tensor | None = None
    ) -> Tensor:
        """(batch, time, feature) attended over keys where `mask` (batch, 1, 1, time) is True.

        `attention_map` (batch, head, time, time) takes the place of this layer's own; `position_bias`
        (head, time, time), gated, is added to its scores.
        """
        return self.out(self.context(x, self._gated(x, mask, position_bias), attention_map))

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

    def _gated(self, x: Tensor, mask: Tensor | None, position_bias: Tensor | None) -> Tensor | None:
        """`mask`, or what is added to the scores where there is a position bias: (batch, head, time, time)."""
        if self.gate is None or position_bias is None:
            return mask
        bias = self.gate(self._split(x), position_bias)
        return bias if mask is None else bias.masked_fill(~mask, float("-inf"))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """One transformer layer, post-norm (HuBERT Base) or pre-norm (Large), GELU feed-forward."""

    def __init__(self, config: EncoderLayerConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = SelfAttention(
            config.width,
            config.attention_heads,
            config.attention_dropout,
            config.reuse_attention,
            config.gated_positions,
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

    def forward(
        self, x: Tensor, mask: Tensor | None, attention_map: Tensor | None = None, position_bias: Tensor | None = None
    ) -> Tensor:
        """The layer's output for `x` (batch, time, feature); the rest as in `SelfAttention.forward`."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), mask, attention_map, position_bias))
            return x + self._feed_forward(self.ffn_norm(x))
        x = self.attention_norm(x + self.dropout(self.attention(x, mask, attention_map, position_bias)))
        return self.ffn_norm(x + self._feed_forward(x))

    def attention_map(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The attention map (batch, head, time, time) of this layer for its input `x`."""
        return self.attention.weights(self.attention_norm(x) if self.norm_first else x, mask)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.ffn_out(self.activation_dropout(F.gelu(self.ffn_in(x)))))
