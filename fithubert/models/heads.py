"""Projection heads: from a student's layers to the teacher's width and frame rate."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.config.students import StudentConfig
from fithubert.models.time_reduction import repeat_frames


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

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """(batch, num_frames, feature) from `x` (batch, reduced time, feature)."""
        y = F.linear(x, self.weight.flatten(0, 1), self.bias.repeat(self.factor)).unflatten(2, (self.factor, -1))
        if torch.compiler.is_compiling():
            # a slice asks torch.export for a proof that there are as many frames, which it cannot give
            frames = torch.arange(num_frames, device=x.device)
            return y[:, frames // self.factor, frames % self.factor]
        return y.flatten(1, 2)[:, :num_frames]


class LayerHead(nn.Module):
    """One layer's head: upsampling if the layer is reduced, then a linear projection (FitHuBERT).

    `factor` is the layer's frame-rate reduction, 1 for a layer before the time reduction.
    """

    def __init__(self, width: int, teacher_width: int, factor: int, upsampling: str) -> None:
        super().__init__()
        self.factor = factor
        self.upsampling = Upsampling(width, factor) if factor > 1 and upsampling == "transposed_conv" else None
        self.projection = nn.Linear(width, teacher_width)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """(batch, num_frames, teacher feature) from `x` (batch, reduced time, feature)."""
        if self.upsampling is not None:
            return self.projection(self.upsampling(x, num_frames))
        # projecting before repeating is the same with fewer products
        return repeat_frames(self.projection(x), self.factor, num_frames)


class SharedHeads(nn.Module):
    """Several predictions from one layer: a hidden projection with GELU, then one linear map each (DistilHuBERT).

    s3prl `out_layer_type: expand-last`; with time reduction the layer is upsampled once, as FitHuBERT's code does.
    """

    def __init__(
        self, width: int, teacher_width: int, predictions: int, hidden_width: int, factor: int, upsampling: str
    ) -> None:
        super().__init__()
        self.factor, self.predictions = factor, predictions
        self.upsampling = Upsampling(width, factor) if factor > 1 and upsampling == "transposed_conv" else None
        self.hidden = nn.Linear(width, predictions * hidden_width)
        bound = hidden_width**-0.5
        self.weight = nn.Parameter(torch.empty(predictions, teacher_width, hidden_width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(predictions, teacher_width).uniform_(-bound, bound))

    def forward(self, x: Tensor, num_frames: int, wanted: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """One (batch, num_frames, teacher feature) per prediction in `wanted` (None: all), from `x`, the last layer."""
        if self.upsampling is not None:
            x = self.upsampling(x, num_frames)
        hidden = F.gelu(self.hidden(x)).unflatten(2, (self.predictions, -1))
        indices = range(self.predictions) if wanted is None else wanted
        outputs = (F.linear(hidden[:, :, i], self.weight[i], self.bias[i]) for i in indices)
        if self.upsampling is not None:
            return tuple(outputs)
        return tuple(repeat_frames(y, self.factor, num_frames) for y in outputs)


class NoHead(nn.Module):
    """The layer itself at the teacher's frame rate, without parameters (STaR compares layers of any width)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """(batch, num_frames, feature) from `x` (batch, reduced time, feature)."""
        return repeat_frames(x, self.factor, num_frames)


def build_heads(config: StudentConfig) -> nn.ModuleList | SharedHeads:
    """The heads of a student of `config`'s shape, one for each entry of its layer map."""
    heads, factors = config.heads, [config.factor_of(layer) for layer, _ in config.heads.layer_map]
    if heads.kind == "none":
        return nn.ModuleList(NoHead(factor) for factor in factors)
    if heads.kind == "shared" and factors:
        hidden = heads.hidden_width or config.width
        return SharedHeads(config.width, heads.teacher_width, len(factors), hidden, factors[0], heads.upsampling)
    return nn.ModuleList(LayerHead(config.width, heads.teacher_width, f, heads.upsampling) for f in factors)
