"""Multiply-accumulates of a shape by formula: a sweep weighs hundreds of shapes.

torch's `FlopCounterMode` on meta tensors gives the same counts in 0.2 to 0.9 s a shape instead of 0.1 to 0.4 ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fithubert.config.students import StudentConfig, TimeReductionConfig
from fithubert.config.teacher import HubertConfig
from fithubert.frames import (
    MEL_WINDOW_SAMPLES,
    MEL_WINDOWS_PER_FRAME,
    count_added_frames,
    count_frames,
    count_mel_windows,
    count_stacked_frames,
    reduce_lengths,
)
from fithubert.models.frontend import MelFrontend

#: The costs per second of audio are those of one utterance of this length. Attention grows with the length: at 10 s its
#: share is that of the 32 utterances (224.9 s, 7 s on average, few long ones) by which SUPERB counts.
REFERENCE_SECONDS = 10.0
#: A number of channels, features or units, or a scalar tensor with the expectation of one.
Count = Any
#: The parts in the order in which the signal meets them.
PARTS = ("front_end", "projection", "positional_conv", "time_reduction", "transformer", "readout", "other")

#: Samples of the 32 utterances on which SUPERB counts: every 82nd of LibriSpeech's test-clean by length, 224.9 s in all
#: (the profiling tool of its challenge, github.com/B06901052/DeepSpeed, branch superb-challenge).
SUPERB_SAMPLES = (
    20560, 34560, 38480, 42560, 45600, 48720, 52000, 55120, 59120, 62720, 66400, 71200, 75200, 78640, 82800, 87520,
    92720, 98560, 104400, 111120, 118480, 125040, 132720, 142640, 154000, 166720, 180880, 197920, 217920, 239280,
    268160, 326000,
)  # fmt: skip


def count_superb_macs(config: HubertConfig | StudentConfig) -> int:
    """Multiply-accumulates on SUPERB's 32 utterances, one by one, as its leaderboard counts them.

    Differs: norms, activations and softmax are not counted (0.2 % of HuBERT Base's).
    """
    total: int = sum(sum(count_macs(config, samples).values()) for samples in SUPERB_SAMPLES)
    return total


@dataclass(frozen=True)
class Sizes:
    """The counts that pruning changes: of each convolution's channels, of the residual stream, of each layer.

    `attention` and `ffn`: the features of all heads of a transformer layer together, and its feed-forward units.
    """

    channels: Sequence[Count]
    width: Count
    attention: Sequence[Count]
    ffn: Sequence[Count]

    @classmethod
    def of(cls, config: HubertConfig | StudentConfig) -> "Sizes":
        """The sizes of a shape, all int."""
        channels = [layer[0] for layer in config.conv_layers]
        if isinstance(config, HubertConfig):
            return cls(channels, config.width, [config.width] * config.depth, [config.ffn_width] * config.depth)
        attention = [heads * width for heads, width, _ in config.layer_sizes]
        return cls(channels, config.width, attention, [units for *_, units in config.layer_sizes])


def count_macs(config: HubertConfig | StudentConfig, num_samples: int, sizes: Sizes | None = None) -> dict[str, Count]:
    """Multiply-accumulates of each part on one utterance of `num_samples`, in `PARTS` order.

    The same convention as `count_parts`: matrix products and convolutions only. A student's layers and heads are those
    that its `readout` needs. `sizes`: those of `config`, or others instead; with tensors the counts are tensors.
    """
    sizes = sizes or Sizes.of(config)
    width, macs = sizes.width, dict.fromkeys(PARTS, 0)
    stacked = count_stacked_frames(config.time_reduction) if isinstance(config, StudentConfig) else 1
    if isinstance(config, HubertConfig) or config.frontend == "conv":
        macs["front_end"], frames = _front_end_macs(config.conv_layers, sizes.channels, num_samples)
        built, features = config.conv_layers[-1][0], sizes.channels[-1]
    else:
        macs["front_end"], frames = _mel_macs(config.mel_bands, num_samples)
        built = features = MEL_WINDOWS_PER_FRAME * config.mel_bands
    embedded = reduce_lengths(frames, stacked, stacked - 1)
    if isinstance(config, HubertConfig) or built * stacked != config.width:
        macs["projection"] = embedded * stacked * features * width
    # An even kernel is padded by half on both sides and computes one frame that is then dropped.
    positions = embedded + 1 - config.pos_conv_kernel % 2
    channels_in = width // config.pos_conv_groups if isinstance(width, int) else width / config.pos_conv_groups
    macs["positional_conv"] = positions * width * channels_in * config.pos_conv_kernel
    layers = list(zip(sizes.attention, sizes.ffn, strict=True))
    if isinstance(config, HubertConfig):
        macs["positional_conv"] *= config.pos_conv_depth
        # WavLM's two gates on its position bias.
        gates = 0 if config.relative_buckets is None else frames * width * 2
        macs["transformer"] = sum(_layer_macs(frames, width, *layer) + gates for layer in layers)
        return macs
    reduction, pairs = config.time_reduction, config.read_pairs
    reduced = frames
    if reduction.kind != "none":
        added = count_added_frames(reduction.kind, reduction.factor, reduction.drop_last_frame)
        reduced = reduce_lengths(frames, reduction.factor, added)
    from_heads = config.readout in ("last", "projections")
    depth = max(layer for layer, _ in pairs) if from_heads else config.depth
    for index, layer in enumerate(layers[:depth]):
        at_rate = reduced if config.factor_of(index + 1) > 1 else frames
        macs["transformer"] += _layer_macs(at_rate, width, *layer, reuse=index in config.reuse_attention)
    if config.factor_of(depth) > 1:
        macs["time_reduction"] = reduced * _reduction_macs_per_frame(reduction, width)
    macs["readout"] = _readout_macs(config, pairs, width, frames, reduced)
    return macs


def _front_end_macs(
    layers: Sequence[tuple[int, int, int]], widths: Sequence[Count], num_samples: int
) -> tuple[Count, int]:
    """The convolutions' multiply-accumulates, and the frames that they leave."""
    total, channels_in, length = 0, 1, num_samples
    for (_, kernel, stride), channels in zip(layers, widths, strict=True):
        length = (length - kernel) // stride + 1
        total += length * channels * channels_in * kernel
        channels_in = channels
    return total, length


def _mel_macs(bands: int, num_samples: int) -> tuple[int, int]:
    """The multiply-accumulates of filter banks, and the frames that they leave."""
    frames, frequencies = count_frames(num_samples, MelFrontend.convolutions), MelFrontend.frequencies
    spectra = count_mel_windows(num_samples) * 2 * frequencies * MEL_WINDOW_SAMPLES
    return spectra + frames * MEL_WINDOWS_PER_FRAME * frequencies * bands, frames


def _layer_macs(frames: int, width: Count, attention: Count, units: Count, reuse: bool = False) -> Count:
    """One transformer layer: projections, scores, weighted values, feed-forward; `reuse` needs no query, key, score."""
    projections, products = (2, 1) if reuse else (4, 2)
    return frames * width * (projections * attention + 2 * units) + products * frames * frames * attention


def _reduction_macs_per_frame(config: TimeReductionConfig, width: Count) -> Count:
    """A linear map of `factor` neighbouring frames to one, `fc2` with a hidden layer; others multiply nothing."""
    inner = config.factor * width
    return {"mean": 0, "stack": 0, "fc2": inner * inner + inner * width}.get(config.kind, inner * width)


def _readout_macs(
    config: StudentConfig, pairs: Sequence[tuple[int, int]], width: Count, frames: int, reduced: int
) -> Count:
    """The heads of `pairs`: upsampling where it is learnt, then projections at the rate that it leaves."""
    heads, factor = config.heads, config.time_reduction.factor
    if not pairs or heads.kind == "none":
        return 0
    learnt = heads.upsampling == "transposed_conv"
    frames = min(frames, reduced * factor)
    total = 0
    shared = heads.kind == "shared"
    hidden = heads.hidden_width or config.width
    # Shared heads upsample once and make the hidden part of every prediction.
    for layer, _ in pairs[:1] if shared else pairs:
        upsamples = learnt and config.factor_of(layer) > 1
        at_rate = reduced if config.factor_of(layer) > 1 and not learnt else frames
        total += reduced * factor * width**2 if upsamples else 0
        if config.readout == "encoder":
            continue  # Shared heads only upsample then.
        if shared:
            total += at_rate * len(pairs) * hidden * (width + heads.teacher_width)
        else:
            total += at_rate * width * heads.teacher_width
    return total
