"""Projection heads: from a student's layers to the teacher's width and frame rate."""

from collections.abc import Mapping, Sequence

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
        self.upsampling = _build_upsampling(width, factor, upsampling)
        self.projection = nn.Linear(width, teacher_width)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """(batch, num_frames, teacher feature) from `x` (batch, reduced time, feature)."""
        if self.upsampling is not None:
            return self.projection(self.upsampling(x, num_frames))
        # Projecting before repeating is the same with fewer products.
        return repeat_frames(self.projection(x), self.factor, num_frames)


class Heads(nn.Module):
    """All heads of a student; `layers` are the student layers of its layer map's entries."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)

    @property
    def single(self) -> tuple[LayerHead, ...]:
        """The heads that are one map of one layer each."""
        return ()

    def forward(
        self, states: Sequence[Tensor], num_frames: int, wanted: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        """One (batch, num_frames, feature) for each head in `wanted` (None: all).

        `states`: layers 0.. of the student up to the highest that is read, each at its own frame rate.
        """
        raise NotImplementedError

    def upsample(self, x: Tensor, num_frames: int, factor: int) -> Tensor:
        """`x` (batch, reduced time, feature) at the teacher's rate: by an upsampling of all heads, or repeated."""
        return repeat_frames(x, factor, num_frames)

    def cut(self, state: Mapping[str, Tensor], first: int) -> dict[str, Tensor]:
        """The weights `state` of these heads without those of the heads before `first`."""
        raise NotImplementedError


class LayerHeads(Heads):
    """A `LayerHead` for each entry of the layer map."""

    def __init__(self, layers: Sequence[int], heads: Sequence[LayerHead]) -> None:
        super().__init__(layers)
        for index, head in enumerate(heads):
            self.add_module(str(index), head)

    @property
    def single(self) -> tuple[LayerHead, ...]:
        return tuple(self.children())  # type: ignore[arg-type]

    def forward(
        self, states: Sequence[Tensor], num_frames: int, wanted: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        heads = self.single
        indices = range(len(heads)) if wanted is None else wanted
        return tuple(heads[i](states[self.layers[i]], num_frames) for i in indices)

    def cut(self, state: Mapping[str, Tensor], first: int) -> dict[str, Tensor]:
        cut = {}
        for name, tensor in state.items():
            index, _, rest = name.partition(".")
            if int(index) >= first:
                cut[f"{int(index) - first}.{rest}"] = tensor
        return cut


class SharedHeads(Heads):
    """Several predictions from one layer: a hidden projection with GELU, then one linear map each (DistilHuBERT).

    s3prl `out_layer_type: expand-last`; with time reduction the layer is upsampled once, as FitHuBERT's code does.
    """

    def __init__(self, layers: Sequence[int], config: StudentConfig) -> None:
        super().__init__(layers)
        heads, count, width = config.heads, len(layers), config.width
        self.factor = config.factor_of(layers[0])
        self.upsampling = _build_upsampling(width, self.factor, heads.upsampling)
        inner = heads.hidden_width or width
        self.hidden = nn.Linear(width, count * inner)
        bound = inner**-0.5
        self.weight = nn.Parameter(torch.empty(count, heads.teacher_width, inner).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, heads.teacher_width).uniform_(-bound, bound))

    def forward(
        self, states: Sequence[Tensor], num_frames: int, wanted: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        # Projecting before repeating is the same with fewer products.
        x = states[-1] if self.upsampling is None else self.upsampling(states[-1], num_frames)
        hidden = F.gelu(self.hidden(x)).unflatten(2, (len(self.layers), -1))
        indices = range(len(self.layers)) if wanted is None else wanted
        outputs = (F.linear(hidden[:, :, i], self.weight[i], self.bias[i]) for i in indices)
        if self.upsampling is not None:
            return tuple(outputs)
        return tuple(repeat_frames(y, self.factor, num_frames) for y in outputs)

    def upsample(self, x: Tensor, num_frames: int, factor: int) -> Tensor:
        return super().upsample(x, num_frames, factor) if self.upsampling is None else self.upsampling(x, num_frames)

    def cut(self, state: Mapping[str, Tensor], first: int) -> dict[str, Tensor]:
        cut = dict(state)
        for name in ("weight", "bias", "hidden.weight", "hidden.bias"):
            cut[name] = state[name][len(state[name]) // len(self.layers) * first :].clone()
        return cut


class NoHeads(Heads):
    """The layers themselves at the teacher's frame rate, without parameters (STaR compares layers of any width)."""

    def __init__(self, layers: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__(layers)
        self.factors = tuple(factors)

    def forward(
        self, states: Sequence[Tensor], num_frames: int, wanted: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        indices = range(len(self.layers)) if wanted is None else wanted
        return tuple(repeat_frames(states[self.layers[i]], self.factors[i], num_frames) for i in indices)

    def cut(self, state: Mapping[str, Tensor], first: int) -> dict[str, Tensor]:
        return {}


def build_heads(config: StudentConfig) -> Heads:
    """The heads of a student of `config`'s shape, one for each entry of its layer map."""
    heads, layers = config.heads, [layer for layer, _ in config.heads.layer_map]
    factors = [config.factor_of(layer) for layer in layers]
    if heads.kind == "none":
        return NoHeads(layers, factors)
    if heads.kind == "shared" and layers:
        return SharedHeads(layers, config)
    return LayerHeads(
        layers, [LayerHead(config.width, heads.teacher_width, factor, heads.upsampling) for factor in factors]
    )


def _build_upsampling(width: int, factor: int, kind: str) -> Upsampling | None:
    return Upsampling(width, factor) if factor > 1 and kind == "transposed_conv" else None
