"""Time reduction and its inverse: fewer frames in, the teacher's number of frames out; the last one is never lost."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.blocks.frontend import nothing_padded
from fithubert.frames import padding_mask, reduce_lengths, zero_padding


class TimeReduction(nn.Module):
    """`factor` neighbouring frames become one of the same width (FitHuBERT, Lee et al. 2022, time-reduction layer).

    `kind`: `conv1d` is the paper's convolution with kernel = stride = `factor`, stored as the linear map of the
    neighbouring frames that it is; `fc1` is the same map started as fairseq starts a linear layer (normal, 0.02);
    `fc2` puts a hidden layer with GELU between; `mean` averages the valid frames and has no parameters.
    Differs from the authors' code: an incomplete last group is completed with zeros, padding counts as zeros, and a
    group with one valid frame is valid. `drop_last_frame` keeps the authors' rule (conv1d only): it is dropped.
    """

    def __init__(self, kind: str, width: int, factor: int, drop_last_frame: bool = False) -> None:
        super().__init__()
        self.kind, self.factor, self.drop_last_frame = kind, factor, drop_last_frame
        inner = width * factor
        if kind == "fc2":
            self.hidden = nn.Linear(inner, inner)
            _start_as_fairseq(self.hidden)
        if kind != "mean":
            self.linear = nn.Linear(inner, width)
            if kind != "conv1d":
                _start_as_fairseq(self.linear)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`x` (batch, time, feature) and its lengths in frames, both reduced."""
        reduced = reduce_lengths(lengths, self.factor, self.drop_last_frame)
        if not nothing_padded(lengths, x.shape[1]):
            x = zero_padding(x, lengths)
        if self.drop_last_frame:
            x = x[:, : x.shape[1] // self.factor * self.factor]
        else:
            x = F.pad(x, (0, 0, 0, -x.shape[1] % self.factor))
        groups = x.unflatten(1, (-1, self.factor))
        if self.kind == "mean":
            valid = padding_mask(lengths, x.shape[1]).unflatten(1, (-1, self.factor)).sum(2).clamp(min=1)
            return groups.sum(2) / valid[:, :, None].to(x.dtype), reduced
        x = groups.flatten(2)
        if self.kind == "fc2":
            x = F.gelu(self.hidden(x))
        return self.linear(x), reduced


class Upsampling(nn.Module):
    """One frame becomes `factor` by a transposed convolution with kernel = stride = `factor` (FitHuBERT's heads).

    Such a convolution is one linear map per output frame; `weight` (factor, feature out, feature in) holds them.
    """

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        bound = (width * factor) ** -0.5
        # the start that torch gives to a ConvTranspose1d of this shape
        self.weight = nn.Parameter(torch.empty(factor, width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """`factor` times as many frames as `x` (batch, time, feature) has."""
        y = F.linear(x, self.weight.flatten(0, 1), self.bias.repeat(self.factor))
        return y.unflatten(2, (self.factor, -1)).flatten(1, 2)


def repeat_frames(x: Tensor, factor: int) -> Tensor:
    """Every frame of `x` (batch, time, feature) `factor` times in a row."""
    return x.repeat_interleave(factor, dim=1) if factor > 1 else x


def _start_as_fairseq(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
