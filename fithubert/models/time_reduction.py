"""Time reduction and its inverse: fewer frames in, the teacher's number of frames out; the last one is never lost."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.frames import reduce_lengths, zero_padding
from fithubert.models.frontend import nothing_padded


class TimeReduction(nn.Module):
    """`factor` neighbouring frames become one of the same width (FitHuBERT, Lee et al. 2022, time-reduction layer).

    `kind`: `conv1d` is the paper's convolution with kernel = stride = `factor`, written as the linear map of the
    neighbouring frames that it is (`linear.weight` is its weight, flattened); `fc1` is the same map started as fairseq
    starts a linear layer (normal, 0.02); `fc2` puts a hidden layer with GELU between; `mean` averages the valid frames
    and has no parameters.
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
        groups = self.group(x, lengths)
        if self.kind == "mean":
            starts = torch.arange(groups.shape[1], device=x.device) * self.factor
            valid = (lengths[:, None] - starts).clamp(min=1, max=self.factor)
            return groups.unflatten(2, (-1, self.factor)).sum(3) / valid[:, :, None].to(x.dtype), reduced
        return self.linear(groups), reduced

    def group(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The input of `linear`: neighbouring frames (batch, group, feature * frame), or fc2's hidden layer of them."""
        if not nothing_padded(lengths, x.shape[1]):
            x = zero_padding(x, lengths)
        if not self.drop_last_frame:
            x = F.pad(x, (0, 0, 0, self.factor - 1))
        groups = x.unfold(1, self.factor, self.factor).flatten(2)  # the incomplete rest left out
        return F.gelu(self.hidden(groups)) if self.kind == "fc2" else groups


def repeat_frames(x: Tensor, factor: int, num_frames: int) -> Tensor:
    """Every frame of `x` (batch, time, feature) `factor` times in a row, cut to `num_frames`."""
    if factor == 1:
        return x[:, :num_frames]
    return x.index_select(1, torch.arange(num_frames, device=x.device) // factor)


def _start_as_fairseq(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
