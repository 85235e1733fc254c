"""Transformer layers and the convolutional position embedding, with padding masked out."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

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


def attention_mask(lengths: Tensor, num_frames: int) -> Tensor | None:
    """(batch, 1, 1, time) bool, True where a key may be attended to; None where nothing is padded."""
    if nothing_padded(lengths, num_frames):
        return None
    return padding_mask(lengths, num_frames)[:, None, None, :]


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
        y = self.conv(zero_padding(x, lengths).transpose(1, 2))
        y = y[:, :, : y.shape[2] - self.surplus]
        return F.gelu(y).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate projections (fairseq `MultiheadAttention`)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        for projection in (self.query, self.key, self.value):
            # fairseq: shared-qkv gain 1/sqrt(2)
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, time, feature) attended over keys where `mask` (batch, 1, 1, time) is True."""
        query, key, value = (self._split(p(x)) for p in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """One transformer layer, post-norm (HuBERT Base) or pre-norm (Large), GELU feed-forward."""

    def __init__(self, config: EncoderLayerConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = SelfAttention(config.width, config.attention_heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.width)
        self.ffn_in = nn.Linear(config.width, config.ffn_width)
        self.ffn_out = nn.Linear(config.ffn_width, config.width)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The layer's output for `x` (batch, time, feature)."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), mask))
            return x + self._feed_forward(self.ffn_norm(x))
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        return self.ffn_norm(x + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.ffn_out(self.activation_dropout(F.gelu(self.ffn_in(x)))))
