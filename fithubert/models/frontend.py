"""How the frame rate drops: the convolutional front end, and time reduction with its inverse; exact under padding."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.frames import count_added_frames, count_conv_frames, padding_mask, reduce_lengths, zero_padding


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with one group per channel whose statistics leave padding out.

    Every public HuBERT lets padding into these statistics, so that the output of Base for an utterance depends on its
    batch. Here mean and variance come from valid frames only: batched equals one by one. Where nothing is padded the
    result is that of `torch.nn.GroupNorm`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`x` (batch, channel, time) normalised over each utterance's first `lengths` frames (None: all)."""
        if lengths is None:
            return super().forward(x)
        # Sums over thousands of frames need float32, also under autocast (where torch's own group norm takes it too).
        x, weight, bias = x.float(), self.weight.float(), self.bias.float()
        # Masked sums as products with the mask: this layer is wide and long, and every pass over it costs.
        share = padding_mask(lengths, x.shape[-1]).to(x.dtype)[:, :, None] / lengths.clamp(min=1)[:, None, None]
        centred = x - x @ share
        scale = torch.rsqrt(centred.square() @ share + self.eps) * weight[:, None]
        return torch.addcmul(bias[:, None], centred, scale).to(self.weight.dtype)


class ConvLayer(nn.Module):
    """Convolution without padding, optional norm, GELU, on (batch, channel, time)."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, bias: bool, norm: str | None) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(channels_in, channels, kernel, stride, bias=bias)
        # fairseq: without a norm behind it, torch's own start would make each layer's output smaller than its input
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: nn.Module | None = None
        if norm == "group":
            self.norm = MaskedGroupNorm(channels)
        elif norm == "layer":
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`x` and its lengths after this layer; `lengths` None means that nothing is padded."""
        x = self.conv(x)
        if lengths is not None:
            lengths = count_conv_frames(lengths, [(self.kernel, self.stride)])
        if isinstance(self.norm, MaskedGroupNorm):
            x = self.norm(x, lengths)
        elif self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x), lengths


class ConvFrontend(nn.Module):
    """HuBERT's feature extractor (fairseq `conv_feature_layers`, `extractor_mode`, `conv_bias`).

    `layers`: (channels, kernel, stride) each. `norm` "group": group norm after the first convolution only
    (fairseq `default`); "layer": layer norm after each.
    """

    def __init__(self, layers: Sequence[tuple[int, int, int]], norm: str, bias: bool) -> None:
        super().__init__()
        self.convolutions = tuple((kernel, stride) for _, kernel, stride in layers)
        self.width = layers[-1][0]
        channels_in = [1] + [channels for channels, _, _ in layers[:-1]]
        norms = [norm if norm == "layer" or index == 0 else None for index in range(len(layers))]
        self.layers = nn.ModuleList(
            ConvLayer(before, channels, kernel, stride, bias, layer_norm)
            for before, (channels, kernel, stride), layer_norm in zip(channels_in, layers, norms, strict=True)
        )

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (batch, time, feature) and their lengths, from waveforms (batch, samples)."""
        padded = None if nothing_padded(lengths, waveforms.shape[1]) else lengths
        return self.convolve(waveforms, padded), count_conv_frames(lengths, self.convolutions)

    def convolve(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Frames (batch, time, feature) of waveforms (batch, samples); `lengths` None means that nothing is padded."""
        x = waveforms[:, None, :]
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        return x.transpose(1, 2)


def nothing_padded(lengths: Tensor | None, longest: int) -> bool:
    """Whether every length is `longest`, so that masks can be skipped. `lengths` None means that it is.

    False while compiling, when it is unknown.
    """
    return lengths is None or (not torch.compiler.is_compiling() and bool((lengths >= longest).all()))


class TimeReduction(nn.Module):
    """`factor` neighbouring frames become one of the same width (FitHuBERT, Lee et al. 2022, time-reduction layer).

    `kind`: `conv1d` is the paper's convolution with kernel = stride = `factor`, written as the linear map of the
    neighbouring frames that it is (`linear.weight` is its weight, flattened); `fc1` is the same map started as fairseq
    starts a linear layer (normal, 0.02); `fc2` puts a hidden layer with GELU between; `mean` averages the valid frames
    and has no parameters.
    Differs from the authors' code: an incomplete last group is completed with zeros, padding counts as zeros, and a
    group with one valid frame is valid. `drop_last_frame` keeps the authors' rule.
    """

    def __init__(self, kind: str, width: int, factor: int, drop_last_frame: bool = False) -> None:
        super().__init__()
        self.kind, self.factor = kind, factor
        self.added_frames = count_added_frames(kind, factor, drop_last_frame)
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
        reduced = reduce_lengths(lengths, self.factor, self.added_frames)
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
        x = F.pad(x, (0, 0, 0, self.added_frames))
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
