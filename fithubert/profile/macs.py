"""Multiply-accumulates of a shape by formula: a sweep weighs hundreds of shapes.

torch's `FlopCounterMode` on meta tensors gives the same counts in 0.2 to 0.9 s a shape instead of 0.1 to 0.4 ms.
"""

from collections.abc import Sequence

from fithubert.config.students import StudentConfig, TimeReductionConfig
from fithubert.config.teacher import HubertConfig

#: The parts in the order in which the signal meets them.
PARTS = ("front_end", "projection", "positional_conv", "time_reduction", "transformer", "readout", "other")


def count_macs(config: HubertConfig | StudentConfig, num_samples: int) -> dict[str, int]:
    """Multiply-accumulates of each part on one utterance of `num_samples`, in `PARTS` order.

    The same convention as `count_parts`: matrix products and convolutions only. A student's layers and heads are those
    that its `readout` needs.
    """
    macs = dict.fromkeys(PARTS, 0)
    macs["front_end"], frames = _front_end_macs(config.conv_layers, num_samples)
    features = config.conv_layers[-1][0]
    if isinstance(config, HubertConfig) or features != config.width:
        macs["projection"] = frames * features * config.width
    # An even kernel is padded by half on both sides and computes one frame that is then dropped.
    positions = frames + 1 - config.pos_conv_kernel % 2
    channels_in = config.width // config.pos_conv_groups
    macs["positional_conv"] = positions * config.width * channels_in * config.pos_conv_kernel
    if isinstance(config, HubertConfig):
        macs["positional_conv"] *= config.pos_conv_depth
        # WavLM's two gates on its position bias.
        gates = 0 if config.relative_buckets is None else frames * config.width * 2
        macs["transformer"] = config.depth * (_layer_macs(frames, config.width, config.ffn_width, reuse=False) + gates)
        return macs
    reduction, pairs = config.time_reduction, config.read_pairs
    reduced = frames
    if reduction.kind != "none":
        reduced = frames // reduction.factor if reduction.drop_last_frame else -(-frames // reduction.factor)
    from_heads = config.readout in ("last", "projections")
    depth = max(layer for layer, _ in pairs) if from_heads else config.depth
    for index in range(depth):
        at_rate = reduced if config.factor_of(index + 1) > 1 else frames
        macs["transformer"] += _layer_macs(at_rate, config.width, config.ffn_width, index in config.reuse_attention)
    if config.factor_of(depth) > 1:
        macs["time_reduction"] = reduced * _reduction_macs_per_frame(reduction, config.width)
    macs["readout"] = _readout_macs(config, pairs, frames, reduced)
    return macs


def _front_end_macs(layers: Sequence[tuple[int, int, int]], num_samples: int) -> tuple[int, int]:
    """The convolutions' multiply-accumulates, and the frames that they leave."""
    total, channels_in, length = 0, 1, num_samples
    for channels, kernel, stride in layers:
        length = (length - kernel) // stride + 1
        total += length * channels * channels_in * kernel
        channels_in = channels
    return total, length


def _layer_macs(frames: int, width: int, ffn_width: int, reuse: bool) -> int:
    """One transformer layer: projections, scores, weighted values, feed-forward; `reuse` needs no query, key, score."""
    projections, products = (2, 1) if reuse else (4, 2)
    return frames * (projections * width * width + 2 * width * ffn_width) + products * frames * frames * width


def _reduction_macs_per_frame(config: TimeReductionConfig, width: int) -> int:
    """A linear map of `factor` neighbouring frames to one, `fc2` with a hidden layer; a mean multiplies nothing."""
    inner = config.factor * width
    return {"mean": 0, "fc2": inner * inner + inner * width}.get(config.kind, inner * width)


def _readout_macs(config: StudentConfig, pairs: Sequence[tuple[int, int]], frames: int, reduced: int) -> int:
    """The heads of `pairs`: upsampling where it is learnt, then projections at the rate that it leaves."""
    heads, factor = config.heads, config.time_reduction.factor
    if not pairs or heads.kind == "none":
        return 0
    learnt = heads.upsampling == "transposed_conv"
    if config.time_reduction.drop_last_frame:
        frames = reduced * factor
    total = 0
    shared = heads.kind == "shared"
    hidden = heads.hidden_width or config.width
    # Shared heads upsample once and make the hidden part of every prediction.
    for layer, _ in pairs[:1] if shared else pairs:
        upsamples = learnt and config.factor_of(layer) > 1
        at_rate = reduced if config.factor_of(layer) > 1 and not learnt else frames
        total += reduced * factor * config.width**2 if upsamples else 0
        if config.readout == "encoder":
            continue  # Shared heads only upsample then.
        if shared:
            total += at_rate * len(pairs) * hidden * (config.width + heads.teacher_width)
        else:
            total += at_rate * config.width * heads.teacher_width
    return total
