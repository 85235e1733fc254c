"""How the frame rate drops: front ends, and time reduction with its inverse; exact under padding."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.config.students import StudentConfig
from fithubert.frames import (
    HUBERT_MIN_SAMPLES,
    HUBERT_STRIDE_SAMPLES,
    MEL_HOP_SAMPLES,
    MEL_MARGIN_SAMPLES,
    MEL_WINDOW_SAMPLES,
    MEL_WINDOWS_PER_FRAME,
    SAMPLE_RATE_HZ,
    count_added_frames,
    count_conv_frames,
    keep_whole,
    nothing_padded,
    padding_mask,
    reduce_lengths,
    zero_padding,
)


def outside_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` of a module and a tensor, computed in the dtypes that it names: matrix products too."""

    @wraps(function)
    def run(module: nn.Module, x: Tensor, *others: Any) -> Tensor:
        # Asked first, so that exported graphs have no autocast.
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return function(module, x, *others)
        return function(module, x, *others)

    return run


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with one group per channel whose statistics leave padding out.

    Every public HuBERT lets padding into these statistics, so that the output of Base for an utterance depends on its
    batch. Here mean and variance come from valid frames only: batched equals one by one. Where nothing is padded the
    result is that of `torch.nn.GroupNorm`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    @outside_autocast
    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`x` (batch, channel, time) normalised over each utterance's first `lengths` frames (None: all)."""
        # Sums over thousands of frames need float32.
        x, weight, bias = x.float(), self.weight.float(), self.bias.float()
        if lengths is None:
            return F.group_norm(x, self.num_groups, weight, bias, self.eps).to(self.weight.dtype)
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


#: Points of the spectrum of a window, which is completed with zeros (Kaldi's next power of two).
_SPECTRUM_POINTS = 512
_LOWEST_HZ = 20.0
#: Added to every energy: 10 dB above what rounding to 16 bits leaves in one frequency. onnxscript's optimiser drops an
#: addition of 1e-8 or less.
_ENERGY_FLOOR = 1e-7


class MelFrontend(nn.Module):
    """Log-mel filter banks as a front end, with one frame for each of HuBERT's: two windows of 25 ms, 10 ms apart.

    The middle of the two windows is that of HuBERT's frame (`frames.MEL_MARGIN_SAMPLES`), so any number of neighbouring
    frames covers the time evenly. Samples outside the utterance are zeros. `norm` "group": each band normalised over
    the utterance; "layer": each window over its bands. Two normalised windows to a frame are also the input of W2v-BERT
    2.0 (transformers `SeamlessM4TFeatureExtractor`).

    The filters are Kaldi's (`compute-fbank-feats`, 20 Hz to 8 kHz, Hann window), without pre-emphasis, which after
    the logarithm is a constant of the band. They are constants, kept with the weights. The spectrum is a convolution,
    because not every runtime has Fourier transforms.
    """

    convolutions = ((HUBERT_MIN_SAMPLES, HUBERT_STRIDE_SAMPLES),)
    #: All of the spectrum but 0 Hz and 8 kHz, which are in no band.
    frequencies = _SPECTRUM_POINTS // 2 - 1
    fourier: Tensor
    mel: Tensor

    def __init__(self, bands: int, norm: str) -> None:
        super().__init__()
        self.width = MEL_WINDOWS_PER_FRAME * bands
        self.register_buffer("fourier", _fourier_filters())
        self.register_buffer("mel", _mel_filters(bands))
        self.norm = MaskedGroupNorm(bands) if norm == "group" else nn.LayerNorm(bands)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (batch, time, window * band) and their lengths, from waveforms (batch, samples)."""
        frames = count_conv_frames(lengths, self.convolutions)
        padded = not nothing_padded(lengths, waveforms.shape[1])
        if padded:
            waveforms = waveforms * padding_mask(lengths, waveforms.shape[1])
        x = self.log_energies(waveforms).to(self.norm.weight.dtype)
        if isinstance(self.norm, MaskedGroupNorm):
            x = self.norm(x, frames * MEL_WINDOWS_PER_FRAME if padded else None).transpose(1, 2)
        else:
            x = self.norm(x.transpose(1, 2))
        return _side_by_side(x, MEL_WINDOWS_PER_FRAME), frames

    # Half precision has no room for the energies of speech.
    @outside_autocast
    def log_energies(self, waveforms: Tensor) -> Tensor:
        """(batch, band, window) float32 of waveforms (batch, samples), two windows for each frame."""
        padded = F.pad(waveforms.float(), (MEL_MARGIN_SAMPLES, MEL_MARGIN_SAMPLES))[:, None]
        waves = F.conv1d(padded, self.fourier.float(), stride=MEL_HOP_SAMPLES)
        waves = waves[:, :, : keep_whole(waves.shape[2], MEL_WINDOWS_PER_FRAME)]
        return torch.log(self.mel.float() @ waves.square().unflatten(1, (2, -1)).sum(1) + _ENERGY_FLOOR)


def _frequencies() -> Tensor:
    """`MelFrontend.frequencies` in Hz, float64."""
    return torch.arange(1, MelFrontend.frequencies + 1, dtype=torch.float64) * (SAMPLE_RATE_HZ / _SPECTRUM_POINTS)


def _fourier_filters() -> Tensor:
    """(2 * frequency, 1, sample) the windowed cosine and sine of each frequency."""
    samples = torch.arange(MEL_WINDOW_SAMPLES, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(samples * (2 * math.pi / (MEL_WINDOW_SAMPLES - 1)))
    angles = _frequencies()[:, None] * samples * (2 * math.pi / SAMPLE_RATE_HZ)
    return (torch.cat([angles.cos(), angles.sin()]) * window)[:, None].float()


def mel_points(lowest_hz: float, highest_hz: float, count: int) -> Tensor:
    """(count,) float64, points evenly spaced on the mel scale (HTK)."""
    lowest, highest = (1127 * math.log1p(hz / 700) for hz in (lowest_hz, highest_hz))
    # Not linspace: transformers replaces it while it builds a model without memory.
    return lowest + (highest - lowest) / (count - 1) * torch.arange(count, dtype=torch.float64)


def _mel_filters(bands: int) -> Tensor:
    """(band, frequency) triangles on the mel scale, each from the middle of its neighbour to that of the next."""
    edges = mel_points(_LOWEST_HZ, SAMPLE_RATE_HZ / 2, bands + 2)[:, None]
    place = 1127 * torch.log1p(_frequencies() / 700)
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def build_frontend(config: StudentConfig) -> ConvFrontend | MelFrontend:
    """The front end of a student of `config`'s shape."""
    if config.frontend == "mel":
        return MelFrontend(config.mel_bands, config.conv_norm)
    return ConvFrontend(config.conv_layers, config.conv_norm, config.conv_bias)


def frontend_convolutions(config: StudentConfig) -> tuple[tuple[int, int], ...]:
    """(kernel, stride) pairs that count the frames of a student's front end."""
    if config.frontend == "mel":
        return MelFrontend.convolutions
    return tuple((kernel, stride) for _, kernel, stride in config.conv_layers)


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
        groups = group_frames(x, lengths, self.factor, self.added_frames)
        return F.gelu(self.hidden(groups)) if self.kind == "fc2" else groups


def group_frames(x: Tensor, lengths: Tensor, factor: int, added: int) -> Tensor:
    """Every `factor` neighbouring frames of `x` (batch, time, feature) as one, (batch, group, feature * frame).

    Padding counts as zeros. `added` zeros follow the last frame, then an incomplete group is left out.
    """
    if not nothing_padded(lengths, x.shape[1]):
        x = zero_padding(x, lengths)
    return _side_by_side(F.pad(x, (0, 0, 0, added)), factor)


def _side_by_side(x: Tensor, count: int) -> Tensor:
    """(batch, time // count, feature * frame), the incomplete rest left out."""
    return x.unfold(1, count, count).flatten(2)


def repeat_frames(x: Tensor, factor: int, num_frames: int) -> Tensor:
    """Every frame of `x` (batch, time, feature) `factor` times in a row, cut to `num_frames`."""
    if factor == 1:
        return x[:, :num_frames]
    return x.index_select(1, torch.arange(num_frames, device=x.device) // factor)


def _start_as_fairseq(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
