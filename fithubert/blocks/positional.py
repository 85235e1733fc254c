"""Convolutional position embeddings, with padding masked out: one convolution, or data2vec's stack of them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from fithubert.blocks.frontend import nothing_padded
from fithubert.frames import zero_padding


class PositionalConv(nn.Module):
    """Relative positions by one grouped, weight-normalised convolution (fairseq `conv_pos`, `conv_pos_groups`).

    Padded frames are zeroed first, so that valid frames see what they would see alone. `batch_norm`: a batch norm
    before the convolution, with its statistics folded into `scale` and `shift`, in place of the weight norm
    (fairseq `conv_pos_batch_norm`).
    """

    def __init__(self, width: int, kernel: int, groups: int, batch_norm: bool = False) -> None:
        super().__init__()
        conv = _grouped_conv(width, kernel, groups)
        self.conv = conv if batch_norm else parametrizations.weight_norm(conv, dim=2)
        self.scale = nn.Parameter(torch.ones(width)) if batch_norm else None
        self.shift = nn.Parameter(torch.zeros(width)) if batch_norm else None

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The position embedding of `x` (batch, time, feature), to be added to it."""
        if self.scale is not None and self.shift is not None:
            x = x * self.scale + self.shift
        return F.gelu(_convolve(self.conv, x, lengths)).transpose(1, 2)

    def fold_weight_norm(self) -> None:
        """Compute the weight once and for all, for inference; nothing happens where that is done already."""
        if parametrize.is_parametrized(self.conv, "weight"):
            parametrize.remove_parametrizations(self.conv, "weight")


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


def _convolve(conv: nn.Conv1d, x: Tensor, lengths: Tensor | None) -> Tensor:
    """`conv` over the valid frames of `x` (batch, time, feature), as (batch, feature, time)."""
    if lengths is not None and not nothing_padded(lengths, x.shape[1]):
        x = zero_padding(x, lengths)
    y = conv(x.transpose(1, 2))
    # An even kernel gives one frame too many.
    surplus = 1 - conv.kernel_size[0] % 2
    return y[:, :, : y.shape[2] - surplus]
