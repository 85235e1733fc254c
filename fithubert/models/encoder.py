"""The transformer encoder: positional convolution, relative positions, layers."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.frames import nothing_padded, zero_padding


class WeightNormConv(nn.Module):
    """The convolution `conv` with weight norm over dimension 2, padded by half its kernel (fairseq `pos_conv`).

    The weight is a direction times a gain for each tap. These factors have the names that torch's own parametrization
    gives them, whose modules cannot be pickled.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.kernel_size, self.groups, self.bias = conv.kernel_size, conv.groups, conv.bias
        factors = nn.Module()
        factors.original0 = nn.Parameter(torch.norm_except_dim(conv.weight.detach(), 2, 2))
        factors.original1 = conv.weight
        self.parametrizations = nn.ModuleDict({"weight": factors})

    @property
    def weight(self) -> Tensor:
        """The product (feature out, feature in of a group, tap); setting it sets both factors."""
        gain, direction = self._factors()
        return torch._weight_norm(direction, gain, 2)

    @weight.setter
    def weight(self, weight: Tensor) -> None:
        gain, direction = self._factors()
        with torch.no_grad():
            gain.copy_(torch.norm_except_dim(weight, 2, 2))
            direction.copy_(weight)

    def _factors(self) -> tuple[Tensor, Tensor]:
        factors = self.parametrizations["weight"]
        return factors.original0, factors.original1  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of `x` (batch, feature, time)."""
        return F.conv1d(x, self.weight, self.bias, padding=self.kernel_size[0] // 2, groups=self.groups)

    def fold(self) -> nn.Conv1d:
        """The same convolution with a plain weight."""
        weight, kernel = self.weight.detach(), self.kernel_size[0]
        # On the meta device, so that no random numbers are drawn for weights that are replaced.
        conv = nn.Conv1d(len(weight), len(weight), kernel, padding=kernel // 2, groups=self.groups, device="meta")
        conv.weight, conv.bias = nn.Parameter(weight), self.bias
        return conv.train(self.training)


class PositionalConv(nn.Module):
    """Relative positions by one grouped, weight-normalised convolution (fairseq `conv_pos`, `conv_pos_groups`).

    Padded frames are zeroed first, so that valid frames are computed as if alone. `batch_norm`: a batch norm
    before the convolution, with its statistics folded into `scale` and `shift`, instead of the weight norm
    (fairseq `conv_pos_batch_norm`).
    """

    def __init__(self, width: int, kernel: int, groups: int, batch_norm: bool = False) -> None:
        super().__init__()
        conv = _grouped_conv(width, kernel, groups)
        self.conv: nn.Conv1d | WeightNormConv = conv if batch_norm else WeightNormConv(conv)
        self.scale = nn.Parameter(torch.ones(width)) if batch_norm else None
        self.shift = nn.Parameter(torch.zeros(width)) if batch_norm else None

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The position embedding of `x` (batch, time, feature), to be added to it."""
        if self.scale is not None and self.shift is not None:
            x = x * self.scale + self.shift
        return F.gelu(_convolve(self.conv, x, lengths)).transpose(1, 2)

    def fold_weight_norm(self) -> None:
        """Compute the weight once and for all, for inference; nothing happens if that is done already."""
        if isinstance(self.conv, WeightNormConv):
            self.conv = self.conv.fold()


class PositionalConvStack(nn.Module):
    """Relative positions by `depth` grouped convolutions, each with a layer norm without weights (data2vec-audio).

    Source: fairseq `pos_conv_depth`, where the kernel is max(3, conv_pos / depth). Padded frames are zeroed before
    each convolution, since the layer norms and biases before it make them something else again.
    """

    def __init__(self, width: int, kernel: int, groups: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_grouped_conv(width, kernel, groups) for _ in range(depth))

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The position embedding of `x` (batch, time, feature), to be added to it."""
        for conv in self.convs:
            x = _convolve(conv, x, lengths).transpose(1, 2)  # type: ignore[arg-type]
            x = F.gelu(F.layer_norm(x, x.shape[-1:]))
        return x

    def fold_weight_norm(self) -> None:
        """Nothing: these convolutions have no weight norm."""


def _grouped_conv(width: int, kernel: int, groups: int) -> nn.Conv1d:
    conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
    nn.init.normal_(conv.weight, std=(4.0 / (kernel * width)) ** 0.5)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _convolve(conv: nn.Conv1d | WeightNormConv, x: Tensor, lengths: Tensor | None) -> Tensor:
    """`conv` over the valid frames of `x` (batch, time, feature), as (batch, feature, time)."""
    if lengths is not None and not nothing_padded(lengths, x.shape[1]):
        x = zero_padding(x, lengths)
    y = _run_in_groups(conv, x.transpose(1, 2))
    # An even kernel gives one frame too many.
    surplus = 1 - conv.kernel_size[0] % 2
    return y[:, :, : y.shape[2] - surplus]


def _run_in_groups(conv: nn.Conv1d | WeightNormConv, x: Tensor) -> Tensor:
    """`conv(x)`, but bfloat16 on a CPU as float32.

    On processors with AMX, oneDNN gives wrong numbers in bfloat16 for groups of few channels (torch 2.14).
    """
    half = x.dtype == torch.bfloat16 or (torch.is_autocast_enabled("cpu") and x.dtype == torch.float32)
    if x.device.type != "cpu" or not half:
        return conv(x)  # type: ignore[no-any-return]
    with torch.autocast("cpu", enabled=False):
        bias = None if conv.bias is None else conv.bias.float()
        padding = conv.kernel_size[0] // 2
        return F.conv1d(x.float(), conv.weight.float(), bias, padding=padding, groups=conv.groups).to(x.dtype)


class RelativePositions(nn.Module):
    """One learnt number per head and bucket of distance, as T5 has it; the first layer's table serves all layers.

    Source: WavLM (Chen et al. 2022, section III.B); unilm `num_buckets`, `max_distance`. Half of the buckets are for
    keys after the query; of each half, half are for single distances and half grow with the logarithm up to
    `max_distance` frames, beyond which all distances share the last one.
    """

    def __init__(self, buckets: int, max_distance: int, heads: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.embedding = nn.Embedding(buckets, heads)

    def forward(self, num_frames: int) -> Tensor:
        """The bias (head, num_frames, num_frames) of each query's attention to each key."""
        place = torch.arange(num_frames, device=self.embedding.weight.device)
        # Distances come from 2 T - 1 values: look those up, and spread them over the T x T matrix afterwards.
        distances = torch.arange(1 - num_frames, num_frames, device=place.device)
        values = self.embedding(self._bucket(distances)).T
        return values[:, place[None, :] - place[:, None] + num_frames - 1]

    def _bucket(self, distances: Tensor) -> Tensor:
        half = self.embedding.num_embeddings // 2
        exact = half // 2
        size = distances.abs()
        growth = torch.log(size.float() / exact) / math.log(self.max_distance / exact) * (half - exact)
        # log(0) is -inf, which no integer is; those distances are exact ones anyway.
        logarithmic = (exact + growth.clamp(min=0)).long().clamp(max=half - 1)
        return torch.where(size < exact, size, logarithmic) + (distances > 0) * half


class PositionGate(nn.Module):
    """How much of the position bias a query takes, from its own input, per head (unilm `gru_rel_pos`).

    `gates` maps a head's share of the input to two gates; unilm's map to 2 x 4 numbers that are summed by fours is
    the same with the sum taken beforehand.
    """

    def __init__(self, head_width: int, heads: int) -> None:
        super().__init__()
        self.gates = nn.Linear(head_width, 2)
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`bias` (head, time, time) gated for each query of `x` (batch, head, time, head feature)."""
        update, reset = torch.sigmoid(self.gates(x)).chunk(2, dim=-1)
        return (update * (reset * self.scale[:, None, None] - 1.0) + 2.0) * bias


@dataclass(frozen=True)
class EncoderLayerConfig:
    """Sizes and dropout rates of one transformer layer."""

    width: int
    ffn_width: int
    attention_heads: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    #: No queries and keys of its own: the layer attends as an earlier one did (ARMHuBERT).
    reuse_attention: bool = False
    norm_first: bool = False
    #: Attention takes a position bias, gated by its input (WavLM).
    gated_positions: bool = False
    #: The function between the two maps of the feed-forward, by its name in torch.nn.functional.
    activation: str = "gelu"
    #: Features of one attention head; None: the width is divided among the heads.
    head_width: int | None = None


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate projections (fairseq `MultiheadAttention`).

    With `reuse_attention` it has no queries and keys and must be given the attention map of another layer.
    """

    def __init__(self, config: EncoderLayerConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.attention_heads
        self.dropout, self.reuse = config.attention_dropout, config.reuse_attention
        inner = self.heads * (config.head_width or width // self.heads)
        if not self.reuse:
            self.query = nn.Linear(width, inner)
            self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)
        self.gate = PositionGate(inner // self.heads, self.heads) if config.gated_positions else None

    def forward(
        self, x: Tensor, mask: Tensor | None, attention_map: Tensor | None = None, position_bias: Tensor | None = None
    ) -> Tensor:
        """(batch, time, feature) attended over keys where `mask` (batch, 1, 1, time) is True.

        `attention_map` (batch, head, time, time) takes the place of this layer's own; `position_bias`
        (head, time, time), gated, is added to its scores.
        """
        return self.out(self.context(x, self._gated(x, mask, position_bias), attention_map))

    def context(self, x: Tensor, mask: Tensor | None, attention_map: Tensor | None = None) -> Tensor:
        """The input of `out`: the attended values of all heads, concatenated, (batch, time, head * head feature)."""
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
        """`mask`, or the bias that is added to the scores if there is a position bias: (batch, head, time, time)."""
        if self.gate is None or position_bias is None:
            return mask
        bias = self.gate(self._split(x), position_bias)
        return bias if mask is None else bias.masked_fill(~mask, float("-inf"))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """One transformer layer, post-norm (HuBERT Base) or pre-norm (Large)."""

    def __init__(self, config: EncoderLayerConfig) -> None:
        super().__init__()
        self.norm_first, self.activation = config.norm_first, getattr(F, config.activation)
        self.attention = SelfAttention(config)
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
        return self.dropout(self.ffn_out(self.activation_dropout(self.activation(self.ffn_in(x)))))
