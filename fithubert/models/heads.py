"""Projection heads: from a student's layers to the teacher's width and frame rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.config.students import StudentConfig
from fithubert.models.frontend import repeat_frames


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

    `factor` is the layer's frame-rate reduction, 1 for a layer before the time reduction. Without `teacher_width` there
    are no parameters: the head is the layer itself at the teacher's rate (STaR compares layers of any width).
    """

    def __init__(self, width: int, teacher_width: int | None, factor: int, upsampling: str) -> None:
        super().__init__()
        self.factor = factor
        self.upsampling = None if teacher_width is None else _build_upsampling(width, factor, upsampling)
        # Only a linear one has weights, and only its weights are read.
        self.projection: nn.Linear = (
            nn.Identity() if teacher_width is None else nn.Linear(width, teacher_width)  # type: ignore[assignment]
        )

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """(batch, num_frames, teacher feature) from `x` (batch, reduced time, feature)."""
        if self.upsampling is not None:
            return self.projection(self.upsampling(x, num_frames))
        # Projecting before repeating is the same with fewer products.
        return repeat_frames(self.projection(x), self.factor, num_frames)


class Heads(nn.Module):
    """All heads of a student; `layers` are the student layers of its layer map's entries.

    `upsampling`: one that all of them share.
    """

    def __init__(self, layers: Sequence[int], upsampling: Upsampling | None = None) -> None:
        super().__init__()
        self.layers, self.upsampling = tuple(layers), upsampling

    def forward(
        self, states: Sequence[Tensor], num_frames: int, wanted: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        """One (batch, num_frames, feature) for each head in `wanted` (None: all).

        `states`: layers 0.. of the student up to the highest that is read, each at its own frame rate.
        """
        return self.predict(states, num_frames, range(len(self.layers)) if wanted is None else wanted)

    def predict(self, states: Sequence[Tensor], num_frames: int, wanted: Sequence[int]) -> tuple[Tensor, ...]:
        """`forward` for the heads in `wanted`."""
        raise NotImplementedError

    def upsample(self, x: Tensor, num_frames: int, factor: int) -> Tensor:
        """`x` (batch, reduced time, feature) at the teacher's rate: by an upsampling of all heads, or repeated."""
        return repeat_frames(x, factor, num_frames) if self.upsampling is None else self.upsampling(x, num_frames)

    def cut(self, state: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
        """The weights `state` of these heads, of the heads `kept` only."""
        raise NotImplementedError


class LayerHeads(Heads):
    """A `LayerHead` for each entry of the layer map."""

    def __init__(self, layers: Sequence[int], heads: Sequence[LayerHead]) -> None:
        super().__init__(layers)
        for index, head in enumerate(heads):
            self.add_module(str(index), head)

    def predict(self, states: Sequence[Tensor], num_frames: int, wanted: Sequence[int]) -> tuple[Tensor, ...]:
        heads = list(self.children())
        return tuple(heads[i](states[self.layers[i]], num_frames) for i in wanted)

    def cut(self, state: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
        cut = {}
        for name, tensor in state.items():
            index, _, rest = name.partition(".")
            if int(index) in kept:
                cut[f"{kept.index(int(index))}.{rest}"] = tensor
        return cut


class SharedHeads(Heads):
    """Several predictions from one layer: a hidden projection with GELU, then one linear map each (DistilHuBERT).

    s3prl `out_layer_type: expand-last`; with time reduction the layer is upsampled once, as FitHuBERT's code does.
    """

    def __init__(self, layers: Sequence[int], config: StudentConfig) -> None:
        heads, count, width = config.heads, len(layers), config.width
        factor = config.factor_of(layers[0])
        super().__init__(layers, _build_upsampling(width, factor, heads.upsampling))
        self.factor = factor
        inner = heads.hidden_width or width
        self.hidden = nn.Linear(width, count * inner)
        bound = inner**-0.5
        self.weight = nn.Parameter(torch.empty(count, heads.teacher_width, inner).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, heads.teacher_width).uniform_(-bound, bound))

    def predict(self, states: Sequence[Tensor], num_frames: int, wanted: Sequence[int]) -> tuple[Tensor, ...]:
        # Projecting before repeating is the same with fewer products.
        x = states[-1] if self.upsampling is None else self.upsampling(states[-1], num_frames)
        hidden = F.gelu(self.hidden(x)).unflatten(2, (len(self.layers), -1))
        outputs = (F.linear(hidden[:, :, i], self.weight[i], self.bias[i]) for i in wanted)
        if self.upsampling is not None:
            return tuple(outputs)
        return tuple(repeat_frames(y, self.factor, num_frames) for y in outputs)

    def cut(self, state: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
        cut = dict(state)
        for name in ("weight", "bias", "hidden.weight", "hidden.bias"):
            cut[name] = state[name].unflatten(0, (len(self.layers), -1))[list(kept)].flatten(0, 1)
        return cut


class ScaledGradient(torch.autograd.Function):
    """The same values, with their gradient multiplied by a factor (fairseq `GradMultiply`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def build_heads(config: StudentConfig) -> Heads:
    """The heads of a student of `config`'s shape, one for each entry of its layer map."""
    heads, layers = config.heads, [layer for layer, _ in config.heads.layer_map]
    if heads.kind == "shared" and layers:
        return SharedHeads(layers, config)
    width = None if heads.kind == "none" else heads.teacher_width
    return LayerHeads(
        layers, [LayerHead(config.width, width, config.factor_of(layer), heads.upsampling) for layer in layers]
    )


def _build_upsampling(width: int, factor: int, kind: str) -> Upsampling | None:
    return Upsampling(width, factor) if factor > 1 and kind == "transposed_conv" else None
